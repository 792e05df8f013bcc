"""Two ranks against one on this machine, and the model of step time that docs/scaling.md draws from the measured figures.

    python benchmarks/scaling.py [--steps 60] [--ranks 1 2] [--repeat 2] [any option of `bikd train`]
    python benchmarks/scaling.py --model [--step SECONDS --batch N --parameters N --bandwidth GB/S --latency US]

Measured: pictures/s of `deepspeed bikd_fast/train.py` with one thread a rank and the same number of pictures a rank a step, from
the run's own log (median of its lines after the first quarter), with the shares of time that the log gives. Beside it, the sum of
as many one-rank runs side by side that do not talk to each other (`apart`): what the machine itself gives at that moment. Rounds
alternate between the rank counts, so that a drift of the machine hits all. Results go to benchmarks/results/scaling.csv.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from common import environment
from runs import append

from bikd_fast.training.place import free_port

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results/scaling.csv"
SHARES = ("share_data", "share_communication", "share_compute", "share_other")


def start(ranks: int, per_rank: int, steps: int, passed: list[str], output: Path) -> subprocess.Popen[str]:
    words = [
        *(str(Path(sys.executable).parent / "deepspeed"), "--num_accelerators", str(ranks), "--master_port", str(free_port())),
        *("bikd_fast/train.py", "--training.batch_size", str(per_rank * ranks), "--training.steps", str(steps)),
        *("--training.log_every", "10", "--training.checkpoint_seconds", "0", "--data.category", "grass", "--report", "false"),
        *("--output", str(output), *passed),
    ]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(words, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True, **pipes)


def finish(run: subprocess.Popen[str], output: Path) -> dict[str, float]:
    """Medians over the log lines of one run."""
    said = run.communicate(timeout=1800)[1]
    if run.returncode:
        raise SystemExit(said[-4000:])
    rows = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    rows = rows[max(1, len(rows) // 4) :]
    return {key: statistics.median(row[key] for row in rows) for key in ("pictures_per_second", "peak_memory_mb", *SHARES)}


def measure(ranks: int, per_rank: int, steps: int, passed: list[str], folder: Path) -> dict[str, float]:
    """One run of ``ranks`` ranks, then that many of one rank at the same time."""
    together = folder / "together"
    row = finish(start(ranks, per_rank, steps, passed, together), together)
    row["apart"] = row["pictures_per_second"]
    if ranks > 1:
        runs = {folder / f"{i}": start(1, per_rank, steps, passed, folder / f"{i}") for i in range(ranks)}
        row["apart"] = sum(finish(run, output)["pictures_per_second"] for output, run in runs.items())
    return row


def allreduce(ranks: int, size: float, bandwidth: float, latency: float) -> float:
    """Seconds of a ring all-reduce of ``size`` bytes: 2 (n-1)/n of them at ``bandwidth`` bytes/s, and ``latency`` s for each of
    the 2 log2 n rounds of its small messages (Thakur, Rabenseifner, Gropp 2005)."""
    if ranks == 1:
        return 0.0
    return 2 * (ranks - 1) / ranks * size / bandwidth + 2 * math.ceil(math.log2(ranks)) * latency


def model(options: argparse.Namespace) -> list[dict[str, float]]:
    """Step time from 1 to 1,024 ranks at a fixed number of pictures a rank (weak) and at a fixed global batch (strong)."""
    rows = []
    fixed = options.step * options.fixed_share
    for n in (2**k for k in range(11)):
        small = 2 * allreduce(n, 64, options.bandwidth * 1e9, options.latency * 1e-6)  # the counts and the flag, each step
        gradients = allreduce(n, 4 * options.parameters, options.bandwidth * 1e9, options.latency * 1e-6)
        weak = options.step + small + gradients
        share = max(1.0, options.batch / n)  # pictures a rank of a batch that stays what it is
        strong = fixed + (options.step - fixed) * share / options.batch + small + gradients
        rows.append(
            {
                "ranks": n,
                "weak_efficiency": options.step / weak,
                "weak_pictures_per_second": n * options.batch / weak,
                "strong_step_ms": strong * 1e3,
                "strong_speedup": options.step / strong if n <= options.batch else float("nan"),
                "communication_ms": (small + gradients) * 1e3,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--per_rank", type=int, default=8, help="pictures a rank a step")
    parser.add_argument("--model", action="store_true", help="print the model instead of measuring")
    parser.add_argument("--step", type=float, default=0.05, help="model: seconds of a step on one rank")
    parser.add_argument("--batch", type=int, default=64, help="model: pictures of that step")
    parser.add_argument("--fixed_share", type=float, default=0.1, help="model: share of the step that does not shrink with it")
    parser.add_argument("--parameters", type=float, default=3e6, help="model: trained parameters, 4 bytes each on the wire")
    parser.add_argument("--bandwidth", type=float, default=25, help="model: GB/s of the slowest link of the ring")
    parser.add_argument("--latency", type=float, default=20, help="model: microseconds of one round")
    options, passed = parser.parse_known_args()
    if options.model:
        for row in model(options):
            print("  ".join(f"{key} {value:.4g}" for key, value in row.items()))
        return
    measured: dict[int, list[dict[str, float]]] = {ranks: [] for ranks in options.ranks}
    for _ in range(options.repeat):
        for ranks in options.ranks:
            with tempfile.TemporaryDirectory() as folder:
                measured[ranks].append(measure(ranks, options.per_rank, options.steps, passed, Path(folder)))
            print(ranks, measured[ranks][-1], flush=True)
    best = {r: max(rounds, key=lambda row: row["pictures_per_second"]) for r, rounds in measured.items()}
    base = best[options.ranks[0]]["pictures_per_second"]
    rows = [
        {
            "ranks": ranks, "pictures_per_rank": options.per_rank, "steps": options.steps, "options": " ".join(passed),
            **{key: round(value, 4) for key, value in row.items()}, "speedup": round(row["pictures_per_second"] / base, 3),
            "of_apart": round(row["pictures_per_second"] / row["apart"], 3),
            **environment("cuda" if torch.cuda.is_available() else "cpu"), "threads": 1,
        }
        for ranks, row in best.items()
    ]  # fmt: skip
    append(RESULTS, rows)
    for row in rows:
        print(f"{row['ranks']} ranks: {row['pictures_per_second']:.2f} pictures/s, {row['speedup']:.2f} times one rank's,", end=" ")
        print(f"{row['of_apart']:.2f} of as many runs apart")


if __name__ == "__main__":
    main()
