"""Writes the README's results from benchmarks/results/evidence.csv: nobody types a figure.

    python benchmarks/tables.py     the arm `bikd` on the embedded set, which is `make train` over several seeds
"""

from __future__ import annotations

import statistics
from collections import defaultdict

from runs import ROOT, read

SHOWN = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO"}
BEGIN, END = "<!-- results: benchmarks/tables.py -->", "<!-- end of results -->"


def table(rows: list[dict[str, str]]) -> str:
    """Mean and standard deviation over seeds, a line a category, and what it was measured on."""
    by_category: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        by_category[row["category"]].append(row)
    lines = ["| | " + " | ".join(SHOWN.values()) + " |", "|---" * (len(SHOWN) + 1) + "|"]
    for name, found in by_category.items():
        cells = []
        for key in SHOWN:
            values = [100 * float(row[key]) for row in found]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}")
        label = f"**{name}**" if name == "mean" else name
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    seeds = sorted({row["seed"] for row in rows})
    seconds = sorted({float(row["seconds"]) for row in rows})
    span = f"{seconds[0]:.0f} s" if len(seconds) == 1 else f"{seconds[0]:.0f} to {seconds[-1]:.0f} s"
    first = rows[0]
    peak, commits = max(int(row["peak_mb"]) for row in rows), " ".join(sorted({row["commit"] for row in rows}))
    lines.append(
        f"\nPer cent, seeds {', '.join(seeds)}, last step, nothing chosen by the test pictures within a run.\n"
        f"All categories together took {span} on {first['cpus']} cores, no GPU, start to report,\n"
        f"{peak} MB at the peak of one process (torch {first['torch']}, {first['date']}, commits {commits})."
    )
    return "\n".join(lines)


def main() -> None:
    every = read(ROOT / "benchmarks/results/evidence.csv")
    rows = [row for row in every if row["arm"] == "bikd" and row["data"] == "textures" and not row["options"]]
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    after = rest.split(END)[1]
    readme.write_text(f"{before}{BEGIN}\n{table(rows)}\n{END}{after}")


if __name__ == "__main__":
    main()
