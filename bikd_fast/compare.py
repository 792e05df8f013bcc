"""Runs side by side: `bikd compare RUN RUN...`, `python bikd_fast/compare.py RUN RUN...`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bikd_fast.errors import guarded


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table of differences from the first run, with bootstrap intervals; --json writes the numbers."""
    described = "Differences of runs from the first one, on the same pictures."
    parser = argparse.ArgumentParser(prog="bikd compare", description=described)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of evaluated runs; the first is the baseline")
    parser.add_argument("--resamples", type=int, default=2000, help="of the bootstrap; default 2000")
    parser.add_argument("--confidence", type=float, default=0.95, help="of the intervals; default 0.95")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap; default 0")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers")
    options = parser.parse_args(arguments)
    if len(options.runs) < 2:
        parser.error("give two runs or more")
    if options.resamples < 1 or not 0 < options.confidence < 1:
        parser.error("--resamples must be at least 1 and --confidence between 0 and 1")

    from bikd_fast.files import write_text
    from bikd_fast.inference.comparison import compare_folders, comparison_table
    from bikd_fast.metrics.export import to_json

    found = compare_folders(options.runs, resamples=options.resamples, confidence=options.confidence, seed=options.seed)
    print(comparison_table(found))
    if options.json:
        write_text(options.json, to_json(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
