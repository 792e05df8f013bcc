"""`make train`'s job over several seeds: accuracy, wall time and peak memory of every category, one CSV row each.

    python benchmarks/textures.py --seeds 0 1 2 [--output FILE.csv] [any option of `bikd train`]

Every run is `make train`, as a user would start it. Rows are appended, never edited.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import resource
import shlex
import statistics
import subprocess
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
METRICS = ("image_auroc", "image_ap", "image_f1max", "pixel_auroc", "pixel_ap", "pixel_f1max", "aupro")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/textures.csv")
    parser.add_argument("--label", default="default", help="name of the configuration in the CSV")
    options, passed = parser.parse_known_args()
    means = []
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            words = ["--output", folder, "--seed", str(seed), *passed]
            subprocess.run(["make", "--silent", "train", f"ARGS={shlex.join(words)}"], check=True, cwd=ROOT)
            seconds = time.perf_counter() - started
            metrics = json.loads((Path(folder) / "metrics.json").read_text())
            environment = json.loads((Path(folder) / "environment.json").read_text())
        rows = [*metrics["categories"].items(), ("mean", metrics["mean"])]
        write(options.output, options.label, seed, rows, seconds, environment)
        means.append(metrics["mean"])
    for key in METRICS:
        values = [m[key] for m in means]
        spread = statistics.stdev(values) if len(values) > 1 else float("nan")
        print(f"{key:<12} {statistics.mean(values):.4f} +- {spread:.4f} over {len(values)} seeds")


def write(path: Path, label: str, seed: int, rows, seconds: float, environment: dict) -> None:
    """Append one row a category and one of the mean."""
    about = {
        "date": date.today().isoformat(),
        "config": label,
        "seed": seed,
        "seconds": round(seconds, 1),
        "peak_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
        "threads": environment["threads"],
        "cpus": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
        "device": environment["device"] or platform.machine(),
        "torch": version("torch"),
        "commit": subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip(),
    }
    new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["category", *METRICS, *about])
        for name, metrics in rows:
            values = [metrics.get(key) for key in METRICS]
            writer.writerow([name, *("" if v is None else f"{v:.6f}" for v in values), *about.values()])


if __name__ == "__main__":
    main()
