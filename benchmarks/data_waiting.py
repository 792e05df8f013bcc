"""How long training waits for pictures: from memory, from an empty store (every picture decoded while training), from a warm one.

    python benchmarks/data_waiting.py [--steps 60] [any option of `bikd train`]

Whole jobs on one category of the embedded set, one rank; the figures are those a run writes into training.json. Rows go to
benchmarks/results/data_waiting.csv. The final weights of the three must be the same bit for bit; the row says whether they were.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from common import RESULTS, append, environment
from safetensors import safe_open

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ("pictures_per_second", "share_data", "share_communication", "share_compute", "share_other", "peak_memory_mb")


def train(words: list[str], output: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "bikd_fast/train.py", *words, "--output", str(output)], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    return json.loads((output / "training.json").read_text())


def weights(run: Path) -> dict[str, bytes]:
    with safe_open(run / "detector.safetensors", framework="np") as file:
        return {key: file.get_tensor(key).tobytes() for key in file.keys()}  # noqa: SIM118


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    options, passed = parser.parse_known_args()
    words = [
        *("--data.category", "grass", "--training.steps", str(options.steps), "--training.checkpoint_seconds", "0"),
        *("--report", "false", *passed),
    ]
    rows, first = [], {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = ["--data.cache_gb", "1e-6", "--data.cache_dir", str(folder / "store")]
        for kind, extra in (("memory", []), ("store, empty", small), ("store, warm", small)):
            output = folder / f"run{len(rows)}"
            found = train([*words, *extra], output)
            first = first or weights(output)
            rows.append({
                "source": kind, "steps": options.steps, "options": " ".join(passed), "omp": os.environ.get("OMP_NUM_THREADS", ""),
                **{key: found[key] for key in FIGURES}, "same_weights": weights(output) == first,
                **environment("cuda" if torch.cuda.is_available() else "cpu"),
            })  # fmt: skip
            print(rows[-1], flush=True)
    append(RESULTS / "data_waiting.csv", rows, list(rows[0]))


if __name__ == "__main__":
    main()
