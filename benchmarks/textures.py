"""`make train`'s job over several seeds: accuracy, wall time and peak memory of every category, one CSV row each.

    python benchmarks/textures.py --seeds 0 1 2 [--output FILE.csv] [any option of `bikd train`]

Every run is `make train`, as a user would start it. Rows are appended, never edited.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from runs import METRICS, ROOT, append, launch, rows_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/textures.csv")
    parser.add_argument("--label", default="default", help="name of the configuration in the CSV")
    options, passed = parser.parse_known_args()
    means = []
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            job = launch(["--output", folder, "--seed", str(seed), *passed])
            rows = [row | {"config": options.label, "seed": seed} for row in rows_of(Path(folder), job)]
        append(options.output, rows)
        means.append(rows[-1])
    for key in METRICS:
        values = [m[key] for m in means if m[key] is not None]
        spread = statistics.stdev(values) if len(values) > 1 else float("nan")
        if values:
            print(f"{key:<12} {statistics.mean(values):.4f} +- {spread:.4f} over {len(values)} seeds")


if __name__ == "__main__":
    main()
