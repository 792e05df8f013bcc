"""training.compile on and off: pictures/s once it is compiled, and how far the losses are apart.

    python benchmarks/compiled.py [--steps 40] [any option of `bikd train`]

Whole jobs on one category of the embedded set, one rank; a row goes to benchmarks/results/compiled.csv. Exit code 1 where a loss
differs by more than 1e-5 of itself (in fp32; the least-significant bits of sums differ, and training carries them on).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from common import RESULTS, append, environment

ROOT = Path(__file__).resolve().parents[1]
EARLY = 4  # steps whose losses are compared: later ones have carried rounding on


def train(words: list[str], output: Path) -> tuple[list[float], float, float]:
    """(losses, pictures/s of the later half of the steps, seconds of the whole job)."""
    began = time.monotonic()
    command = [sys.executable, "bikd_fast/train.py", *words, "--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    rows = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    later = [row["pictures_per_second"] for row in rows[len(rows) // 2 :]]
    return [row["loss"] for row in rows], statistics.median(later), time.monotonic() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    options, passed = parser.parse_known_args()
    words = [
        *("--data.category", "grass", "--training.steps", str(options.steps), "--training.log_every", "1", "--report", "false"),
        *("--training.precision", "fp32", "--training.checkpoint_seconds", "0", *passed),
    ]
    with tempfile.TemporaryDirectory() as folder:
        eager, slow, plain = train(words, Path(folder) / "eager")
        compiled, fast, whole = train([*words, "--training.compile", "true"], Path(folder) / "compiled")
    apart = max(abs(a - b) / abs(a) for a, b in zip(eager[:EARLY], compiled[:EARLY]))
    row = {
        "steps": options.steps, "options": " ".join(passed), "eager_pictures_per_second": round(slow, 2),
        "compiled_pictures_per_second": round(fast, 2), "speedup": round(fast / slow, 3),
        "compilation_seconds": round(whole - plain, 1), "loss_difference": f"{apart:.1e}",
        **environment("cuda" if torch.cuda.is_available() else "cpu"),
    }  # fmt: skip
    append(RESULTS / "compiled.csv", [row], list(row))
    print(row)
    return int(apart > 1e-5)


if __name__ == "__main__":
    sys.exit(main())
