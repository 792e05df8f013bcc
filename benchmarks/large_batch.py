"""How far the batch can grow before a detector gets worse: so many pictures seen, in batches of 4 to 64, rates scaled or not.

    python benchmarks/large_batch.py [--pictures 1240] [--batches 4 8 16 32 64] [--categories grass nut] [--seeds 0]
                                     [any option of `bikd train`]

Each cell trains `pictures / batch` steps: AdamW with training.scale_rates none, sqrt and linear, and LAMB (its rate in the
DeepSpeed JSON, scaled by the root). The batch of 4 is what the default rates are meant for: no rule changes it. A row is appended
to benchmarks/results/large_batch.csv as soon as it is known; what stands there is not run again, so the same command goes on after
an interruption.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, append, environment

ROOT = Path(__file__).resolve().parents[1]
TABLE = RESULTS / "large_batch.csv"
RULES = ("none", "sqrt", "linear", "lamb")
BASE = 4  # the batch that the default rates are meant for
LAMB_RATE = 4e-3  # of the student at that batch: LAMB measures its steps in shares of each layer's norm
KEY = ("pictures", "batch", "rule", "category", "seed", "options")
METRICS = ("image_auroc", "pixel_auroc", "pixel_ap", "aupro")


def cells(options: argparse.Namespace, passed: list[str]) -> Iterator[dict[str, Any]]:
    """What is to be trained, the cheapest question first: one seed of everything before the next seed."""
    always = dict(pictures=options.pictures, options=" ".join(passed))
    for seed in options.seeds:
        for category in options.categories:
            for batch in options.batches:
                for rule in RULES if batch > BASE else ("none", "lamb"):
                    yield dict(always, batch=batch, rule=rule, category=category, seed=seed)


def train(cell: dict[str, Any], passed: list[str], folder: Path) -> dict[str, Any]:
    """One cell as a job of its own; raises SystemExit with what it said if it fails."""
    steps = max(1, cell["pictures"] // cell["batch"])
    words = [
        *("--data.category", cell["category"], "--seed", cell["seed"], "--training.batch_size", cell["batch"]),
        *("--training.steps", steps, "--training.checkpoint_seconds", 0, "--report", "false", "--output", folder / "run"),
        *passed,
    ]
    if cell["rule"] == "lamb":
        file = folder / "lamb.json"
        file.write_text(json.dumps({"optimizer": {"type": "Lamb", "params": {"lr": LAMB_RATE}}}))
        words += ["--deepspeed_config", file, "--training.scale_rates", "sqrt"]
    else:
        words += ["--training.scale_rates", cell["rule"]]
    done = subprocess.run(
        [sys.executable, "bikd_fast/train.py", *map(str, words)], cwd=ROOT, capture_output=True, text=True
    )
    row: dict[str, Any] = {**cell, "steps": steps, "failed": ""}
    if done.returncode:
        row |= dict.fromkeys((*METRICS, "loss", "bad_steps", "pictures_per_second"), "")
        return row | {"failed": done.stderr.strip().splitlines()[-1][:200]}
    metrics = json.loads((folder / "run/metrics.json").read_text())["mean"]
    last = json.loads((folder / "run/log.jsonl").read_text().splitlines()[-1])
    row |= {name: round(metrics[name], 5) for name in METRICS}
    speed = json.loads((folder / "run/training.json").read_text())["pictures_per_second"]
    return row | {"loss": round(last["loss"], 5), "bad_steps": last["bad_steps"], "pictures_per_second": round(speed, 2)}


def known() -> set[tuple[str, ...]]:
    if not TABLE.exists():
        return set()
    with TABLE.open(newline="") as file:
        return {tuple(row[name] for name in KEY) for row in csv.DictReader(file)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1240, help="seen by each training; 1,240 are half the default steps, of 4")
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    parser.add_argument("--categories", nargs="+", default=["grass", "nut"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options, passed = parser.parse_known_args()
    there = known()
    todo = [cell for cell in cells(options, passed) if tuple(str(cell[name]) for name in KEY) not in there]
    print(f"{len(todo)} trainings to go", flush=True)
    for cell in todo:
        with tempfile.TemporaryDirectory() as folder:
            row = train(cell, passed, Path(folder)) | environment("cuda" if torch.cuda.is_available() else "cpu")
        append(TABLE, [row], list(row))
        print({k: row[k] for k in ("batch", "rule", "category", "seed", *METRICS, "failed")}, flush=True)


if __name__ == "__main__":
    main()
