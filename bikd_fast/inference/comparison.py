"""Run folders against a baseline: what metrics.compare says of their metrics.json, as a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bikd_fast.errors import UserError
from bikd_fast.metrics.compare import compare_runs
from bikd_fast.report.table import METRICS


class ComparisonError(UserError):
    """A run that cannot be compared; the message names it."""


def compare_folders(
    runs: Sequence[Path], *, resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> dict[str, Any]:
    """Every later run against the first one.

    Returns {"baseline": path, "confidence": c, "runs": [{"run": path, "categories": ..., "mean": ..., "left_out": ...}]}, the
    inner part as :func:`bikd_fast.metrics.compare.compare_runs` gives it.

    Raises:
        ComparisonError: a folder without metrics.json, or runs that did not see the same pictures.
    """
    baseline, found = _metrics(runs[0]), []
    for run in runs[1:]:
        try:
            compared = compare_runs(baseline, _metrics(run), resamples=resamples, confidence=confidence, seed=seed)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            reason = f"metrics.json lacks {error}: evaluate it again" if isinstance(error, KeyError) else str(error)
            raise ComparisonError(f"{run} against {runs[0]}: {reason}.") from error
        found.append({"run": str(run), **compared})
    return {"baseline": str(runs[0]), "confidence": confidence, "runs": found}


def _metrics(run: Path) -> dict[str, Any]:
    path = run / "metrics.json"
    try:
        metrics = json.loads(path.read_text())
    except FileNotFoundError:
        raise ComparisonError(f"{run}: no metrics.json there. Give a finished run, or `bikd evaluate` it first.") from None
    except (OSError, ValueError) as error:
        raise ComparisonError(f"{path}: not readable ({error}). Write it again with `bikd evaluate {run}`.") from error
    if not isinstance(metrics, dict) or not isinstance(metrics.get("categories"), dict):
        raise ComparisonError(f"{path}: holds no categories. Write it again with `bikd evaluate {run}`.")
    return metrics


def comparison_table(found: dict[str, Any]) -> str:
    """The dict of compare_folders as text, values in percent; a * marks an interval that leaves out zero."""
    sure = f"{found['confidence']:.0%} intervals, * where they leave out zero"
    blocks = [f"baseline {found['baseline']}; values and differences in percent, {sure}"]
    for run in found["runs"]:
        rows: list[tuple[str, ...]] = [("", "", "baseline", "this", "difference", "interval", "ahead")]
        several = len(run["categories"]) > 1
        parts = [*run["categories"].items(), *([("mean", run["mean"])] if several else [])]
        for name, metrics in parts:
            rows += [(name if i == 0 else "", *_cells(metric, row)) for i, (metric, row) in enumerate(metrics.items())]
        widths = [max(len(row[i]) for row in rows) for i in range(7)]
        lines = [_line(row, widths) for row in rows]
        left_out = f"\nin one of the two only: {', '.join(run['left_out'])}" if run["left_out"] else ""
        blocks.append(f"{run['run']}\n" + "\n".join(lines) + left_out)
    return "\n\n".join(blocks)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [cell.ljust(width) if i < 2 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths))]
    return "  ".join(cells).rstrip()


def _cells(metric: str, row: dict[str, float]) -> tuple[str, ...]:
    sure = "*" if row["low"] > 0 or row["high"] < 0 else " "
    interval = f"{100 * row['low']:+.2f} to {100 * row['high']:+.2f} {sure}"
    values = (f"{100 * row['a']:.2f}", f"{100 * row['b']:.2f}", f"{100 * row['difference']:+.2f}")
    return (METRICS.get(metric, metric), *values, interval, f"{row['better']:.0%}")
