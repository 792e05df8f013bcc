"""Metrics as JSON, and their mean over categories."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any


def jsonable(value: Any) -> Any:
    """The same structure with None for every NaN or infinity: JSON has neither, an undefined metric is null there."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(v) for v in value]
    return value


def to_json(metrics: Any, indent: int | None = 1) -> str:
    """Strict JSON text of evaluate()'s dict, or of {category: dict}; NaN becomes null, floats read back bit for bit."""
    return json.dumps(jsonable(metrics), allow_nan=False, indent=indent)


def mean_metrics(categories: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean over categories of every number at the top of their metrics but thresholds, which mean nothing across maps.

    A category where a metric is undefined (NaN or None) is left out of that metric's mean; NaN if none has it.
    """
    names = [k for k, v in (categories[0].items() if categories else ()) if v is None or isinstance(v, (int, float))]
    out = {}
    for name in (n for n in names if not n.endswith("_threshold")):
        values = [float(c[name]) for c in categories if c.get(name) is not None and not math.isnan(c[name])]
        out[name] = math.fsum(values) / len(values) if values else math.nan
    return out
