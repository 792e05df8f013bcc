"""Writes the README's results from benchmarks/results/evidence.csv: nobody types a figure.

    python benchmarks/tables.py     the arm `bikd` on the embedded set, which is `make train` over several seeds
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict

from runs import ROOT, read

SHOWN = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO"}
COST = {"train_seconds": "training, s", "train_peak_mb": "peak, MB"}
BEGIN, END = "<!-- results: benchmarks/tables.py -->", "<!-- end of results -->"


def table(rows: list[dict[str, str]]) -> str:
    """Mean and standard deviation over seeds, a line a category, and what it was measured on."""
    by_category: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        by_category[row["category"]].append(row)
    heads = [*SHOWN.values(), *COST.values()]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for name, found in by_category.items():
        cells = []
        for key in SHOWN:
            values = [100 * float(row[key]) for row in found]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}")
        for key in COST:
            known = [float(row[key]) for row in found if row[key]]
            cells.append(f"{statistics.mean(known):.0f}" if known else "")
        label = f"**{name}**" if name == "mean" else name
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    seeds = sorted({row["seed"] for row in rows})
    seconds = sorted({float(row["seconds"]) for row in rows})
    span = f"{seconds[0]:.0f} s" if len(seconds) == 1 else f"{seconds[0]:.0f} to {seconds[-1]:.0f} s"
    peak = max(int(row["peak_mb"]) for row in rows)

    def every(key: str) -> str:
        return ", ".join(sorted({row[key] for row in rows}))

    lines.append(
        f"\nPer cent, seeds {', '.join(seeds)}, last step, nothing chosen by the test pictures within a run. Training: until\n"
        f"thresholds are set, one process a category; of the mean line all of them, added up. All together took {span} from the\n"
        f"start to the report, {peak} MB at the peak of one process ({every('cpus')} cores of {every('device')}, "
        f"torch {every('torch')}, {every('date')}, commits {every('commit')})."
    )
    return "\n".join(lines)


def shown(every: list[dict[str, str]]) -> list[dict[str, str]]:
    """The rows of the defaults on the whole embedded set; the means of others are of other categories or settings."""
    default = {"arm": "bikd", "data": "textures", "categories": "", "options": ""}
    return [row for row in every if {key: row[key] for key in default} == default]


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    rows = shown(read(ROOT / "benchmarks/results/evidence.csv"))
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    after = rest.split(END)[1]
    readme.write_text(f"{before}{BEGIN}\n{table(rows)}\n{END}{after}")


if __name__ == "__main__":
    main()
