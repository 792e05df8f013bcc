"""Evaluate a finished run again: `bikd evaluate RUN`, `python bikd_fast/evaluate.py RUN`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bikd_fast import heap
from bikd_fast.arguments import guarded


def main(arguments: Sequence[str] | None = None) -> int:
    """Metrics, predictions, heat maps and report of every detector in a run folder."""
    parser = argparse.ArgumentParser(prog="bikd evaluate", description="Measure the detectors of a run on its labelled pictures.")
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("--no-report", action="store_true", help="do not write report.html")
    parser.add_argument("--aupimo", action="store_true", help="also measure AUPIMO: recall at 1e-5 to 1e-4 false positives a pixel")
    options = parser.parse_args(arguments)

    from bikd_fast.inference.run import evaluate_run

    with heap.kept():
        evaluate_run(options.run, report=not options.no_report, aupimo=options.aupimo)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
