"""The metrics of a run as text for a terminal, and the names the metrics go by."""

import math
from collections.abc import Mapping
from typing import Any

METRICS = {
    "image_auroc": "Image AUROC",
    "image_ap": "Image AP",
    "image_f1max": "Image F1-max",
    "pixel_auroc": "Pixel AUROC",
    "pixel_ap": "Pixel AP",
    "pixel_f1max": "Pixel F1-max",
    "aupro": "AUPRO",
    "aupimo": "AUPIMO",
}
"""Keys of metrics.json that are shares of one, in the order in which they are shown, and what readers call them."""


LARGEST = 1e300  # of a number that is shown: two of these can still be subtracted


def metric_columns(metrics: Mapping[str, Any]) -> list[str]:
    """The keys of METRICS that at least one category of a metrics.json dict has."""
    entries = list((metrics.get("categories") or {}).values()) + [metrics.get("mean") or {}]
    return [key for key in METRICS if any(key in entry for entry in entries)]


def number(value: Any) -> float:
    """value as a float; NaN for None, for what is no number, and for infinities or nearly so."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < LARGEST:
        return math.nan
    return float(value)


def mean_row(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The recorded mean over categories; where none is recorded, the mean of the categories that define the metric."""
    recorded = metrics.get("mean") or {}
    row = {}
    for key in metric_columns(metrics):
        values = [number(entry.get(key)) for entry in (metrics.get("categories") or {}).values()]
        values = [value for value in values if not math.isnan(value)]
        mean = sum(values) / len(values) if values else math.nan
        row[key] = number(recorded[key]) if key in recorded else mean
    return row


def metrics_table(metrics: Mapping[str, Any]) -> str:
    """The dict of metrics.json ({"categories": {name: {...}}, "mean": {...}}) as aligned plain text, values in percent.

    A metric that is not defined (null or NaN) is a dash. Returns a line that says so where there is nothing to show.
    """
    columns = metric_columns(metrics)
    categories = metrics.get("categories") or {}
    if not columns or not categories:
        return "no metrics recorded"
    rows = [
        [str(name).replace("\n", " ")] + [_cell(entry.get(key)) for key in columns]
        for name, entry in categories.items()
    ]
    mean = [["mean"] + [_cell(value) for value in mean_row(metrics).values()]] if len(rows) > 1 else []
    head = ["%"] + [METRICS[key] for key in columns]
    widths = [max(len(row[i]) for row in [head, *rows, *mean]) for i in range(len(head))]

    def line(row: list[str]) -> str:
        return "  ".join([row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])])

    rule = "-" * len(line(head))
    return "\n".join([line(head), rule, *map(line, rows), *([rule, line(mean[0])] if mean else [])])


def _cell(value: Any) -> str:
    share = number(value)
    return "-" if math.isnan(share) else f"{100 * share:.2f}"
