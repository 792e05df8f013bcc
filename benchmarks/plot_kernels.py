"""Pictures of benchmarks/results/kernels.csv: one file an operator and device, a panel for each case; docs/kernels.md's table.

    python benchmarks/plot_kernels.py [--csv benchmarks/results/kernels.csv] [--out benchmarks/results]

kernels_gpu.csv beside it has the rows of a GPU; both tables are written where the CSV is one of these two.

Of an operator on a CPU, and on a GPU, only the rows of the machine and commit that were measured last count, and of those that
repeat a case and provider the last one: times of different code or machines do not stand side by side. A bar is the median, its
whisker the 20th to 80th percentile, the number the time as a multiple of ours; a provider whose check failed has a name and no bar.
"""

from __future__ import annotations

import argparse
import csv
import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from common import RESULTS

Row = dict[str, str]
GPU = re.compile("nvidia|geforce|tesla|amd instinct", re.IGNORECASE)
DOCS = Path(__file__).parents[1] / "docs" / "kernels.md"
COLOURS = {"ours": "#1b7f5c", "copy": "#9aa5b1"}
ORDER = ["copy", "ours", "compile value_and_grad", "compile", "eager autocast", "eager separable", "eager"]


def latest(rows: list[Row]) -> dict[tuple[str, str], dict[str, dict[str, Row]]]:
    """(operator, device) -> case -> provider -> its last row, of the machine and commit that were measured last."""
    last = {(row["op"], bool(GPU.search(row["device"]))): (row["device"], row["commit"]) for row in rows}
    found: dict[tuple[str, str], dict[str, dict[str, Row]]] = {}
    for row in rows:
        if (row["device"], row["commit"]) != last[row["op"], bool(GPU.search(row["device"]))]:
            continue
        case = f"{row['shape']}, batch {row['batch']}, {row['dtype']}, {row['layout'].upper()}"
        found.setdefault((row["op"], row["device"]), {}).setdefault(case, {})[row["provider"]] = row
    return found


def panel(axes: plt.Axes, case: str, providers: dict[str, Row]) -> None:
    """Bars of one case in milliseconds."""
    names = [name for name in ORDER if name in providers]
    widest = max((float(providers[n]["y80_us"]) for n in names if providers[n]["y80_us"]), default=1.0) / 1e3
    for place, name in enumerate(names):
        row = providers[name]
        if not row["y50_us"]:
            axes.text(0.01 * widest, place, row["check"], va="center", fontsize=7, color="#b3261e")
            continue
        low, middle, high = (float(row[key]) / 1e3 for key in ("y20_us", "y50_us", "y80_us"))
        axes.barh(place, middle, color=COLOURS.get(name, "#5b7db1"), height=0.7)
        axes.plot([low, high], [place, place], color="black", linewidth=1)
        ratio = f"{float(row['times_ours']):.3g} x" if row["times_ours"] else ""
        axes.text(high + 0.02 * widest, place, f"{middle:.3g} ms  {ratio}", va="center", fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlim(0, 1.45 * widest)
    axes.set_title(case, fontsize=9)
    axes.tick_params(axis="x", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def table(found: dict[tuple[str, str], dict[str, dict[str, Row]]]) -> str:
    """Markdown: times as multiples of ours, of every case; on a GPU what ours makes of a copy's bandwidth too."""
    gpu = any(GPU.search(device) for _, device in found)

    def times(row: Row | None) -> str:
        return f"{float(row['times_ours']):.2g}" if row and row["times_ours"] else "-" if not row else "check failed"

    lines = [
        f"| operator | case | ours, {'us | of a copy, % | launches: ours / eager' if gpu else 'ms'} | eager | better eager "
        "| compile | compile of value_and_grad | memory: ours / eager / compile, MB |",
        "|---|---|---|---|---|---|---|---|" + "---|---|" * gpu,
    ]
    for (op, device), cases in found.items():
        for case, rows in cases.items() if bool(GPU.search(device)) == gpu else ():
            if "ours" not in rows or not rows["ours"]["y50_us"]:
                continue
            better, name = next(((rows[n], n.split()[1]) for n in ("eager separable", "eager autocast") if n in rows), (None, ""))
            memory = " / ".join(f"{float(rows[n]['peak_mb']):.3g}" if n in rows else "-" for n in ("ours", "eager", "compile"))
            label = case.replace("resnet18", "256 px") if op == "simulate" else case
            ours = rows["ours"]
            cells = [op, label, f"{float(ours['y50_us']) / 1e3:.3g}"]
            if gpu:
                cells = [op, label, f"{float(ours['y50_us']):.4g}", ours["percent_of_copy"]]
                cells.append(f"{ours['kernels']} / {rows['eager']['kernels']}" if "eager" in rows else ours["kernels"])
            cells += [times(rows.get("eager")), f"{times(better)} ({name})" if better else "-"]
            cells += [times(rows.get("compile")), times(rows.get("compile value_and_grad")), memory]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Draw every operator of the table, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, default=RESULTS / "kernels.csv")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    with options.csv.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if options.csv.resolve() in (RESULTS / "kernels.csv", RESULTS / "kernels_gpu.csv"):
        mark = f"<!-- table of {options.csv.name}: benchmarks/plot_kernels.py -->"
        before, rest = DOCS.read_text().split(mark)
        after = rest.split("<!-- end of table -->", 1)[1]
        DOCS.write_text(f"{before}{mark}\n{table(latest(rows))}\n<!-- end of table -->{after}")
    for (op, device), cases in latest(rows).items():
        columns = min(2, len(cases))
        lines = -(-len(cases) // columns)
        figure, grid = plt.subplots(lines, columns, figsize=(5.6 * columns, 2.1 * lines + 0.6), squeeze=False)
        for axes, (case, providers) in zip(grid.flat, cases.items()):
            panel(axes, case, providers)
        for axes in grid.flat[len(cases):]:
            axes.set_visible(False)
        last = next(reversed(list(cases.values())[-1].values()))
        figure.suptitle(f"{op} on {device}: milliseconds a call (torch {last['torch']}, {last['when']} UTC)", fontsize=10)
        figure.tight_layout()
        kind = "gpu" if GPU.search(device) else "cpu"
        target = options.out / f"kernels_{op}_{kind}.png"
        figure.savefig(target, dpi=110, metadata={"Software": None})
        plt.close(figure)
        print(target.name)


if __name__ == "__main__":
    main()
