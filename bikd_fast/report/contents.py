"""What stands in the page's tables, as plain values for the template."""

import math
from typing import Any

import numpy as np
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from bikd_fast.report.judge import CORRECT, FALSE_ALARM, MISSED, UNJUDGED, undefined_reason
from bikd_fast.report.panel import Panel
from bikd_fast.report.table import METRICS, mean_row, metric_columns, number

_ROW_BYTES = 4_000_000  # of the listed scores: some 50,000
_OUTCOMES = [MISSED, FALSE_ALARM, CORRECT, UNJUDGED]
_ELSEWHERE = (
    "threshold",
    "curves",
    "kinds",
    "per_kind",
    "images",
    "regions",
    "skipped",
    "undefined",
    "reasons",
    "not_defined",
)


def totals(panels: list[Panel]) -> dict[str, Any]:
    """Counts over all categories; those that need a threshold over the categories that have one."""
    judged = [panel for panel in panels if panel.judged]
    return {
        "pictures": sum(panel.defects + panel.normals for panel in panels),
        "judged": bool(judged),
        "defects": sum(panel.defects for panel in judged),
        "normals": sum(panel.normals for panel in judged),
        "missed": sum(panel.missed for panel in judged),
        "false_alarms": sum(panel.false_alarms for panel in judged),
        "caught": sum(panel.defects - panel.missed for panel in judged),
    }


def table(metrics: dict[str, Any], panels: list[Panel]) -> dict[str, Any]:
    """The metrics table; every cell without a value carries the reason."""
    columns = metric_columns(metrics)
    rows: list[dict[str, Any]] = []
    reasons: dict[str, list[str]] = {}
    for panel in panels:
        if not panel.metrics:
            continue
        cells = []
        for key in columns:
            value = number(panel.metrics.get(key))
            reason = undefined_reason(key, panel.metrics, panel.found) if math.isnan(value) else ""
            if reason:
                reasons.setdefault(f"{panel.name}: {reason}", []).append(METRICS[key])
            cells.append({"value": value, "reason": reason, "meter": min(max(value, 0.0), 1.0)})
        rows.append({"name": panel.name, "cells": cells})
    said = [f"{', '.join(names)} of {reason}" for reason, names in reasons.items()]
    return {
        "columns": columns,
        "rows": rows if columns else [],
        "mean": list(mean_row(metrics).values()),
        "reasons": said,
    }


def data(panels: list[Panel]) -> tuple[Markup, int, str]:
    """Scores for the script as JSON for a script element, the number of rows, and the folder all files lie in."""
    paths = [path for panel in panels if panel.found for path in panel.found.path]
    first, last = (min(paths), max(paths)) if len(paths) > 1 else ("", "")
    same = next((at for at, (a, b) in enumerate(zip(first, last)) if a != b), min(len(first), len(last)))
    prefix = first[: first[:same].rfind("/") + 1]
    kinds = sorted({kind for panel in panels if panel.found for kind in panel.found.kind})
    position = {kind: at for at, kind in enumerate(kinds)}
    groups, listed, room = [], 0, _ROW_BYTES
    for panel in panels:
        rows: list[list[Any]] = []
        found = panel.found
        for at in range(0 if found is None else len(found.path)):
            assert found is not None
            room -= 40 + len(found.path[at].encode("utf-8", "replace")) - len(prefix)
            if room < 0:
                break
            score, error = float(found.score[at]), float(panel.error[at])
            rows.append(
                [
                    found.path[at][len(prefix) :],
                    position[found.kind[at]],
                    int(found.label[at]),
                    _OUTCOMES.index(panel.outcome[at]),
                    float(f"{score:.8g}") if math.isfinite(score) else None,
                    round(error, 4) if math.isfinite(error) else None,
                ]
            )
        threshold = float(np.float32(found.threshold)) if found is not None and panel.judged else math.nan
        listed += len(rows)
        group = {"name": panel.name, "count": panel.defects + panel.normals, "rows": rows}
        groups.append(group | {"threshold": threshold if math.isfinite(threshold) else None})
    value = {"prefix": prefix, "kinds": kinds, "outcomes": _OUTCOMES, "categories": groups}
    return htmlsafe_json_dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False), listed, prefix


def other(panels: list[Panel]) -> list[tuple[str, str]]:
    """Scalars of metrics.json that stand nowhere else on the page."""
    found = []
    for panel in panels:
        rest = {key: value for key, value in panel.metrics.items() if key not in METRICS and key not in _ELSEWHERE}
        before = f"{panel.name} · " if len(panels) > 1 else ""
        found += [(before + key.replace("_", " "), value) for key, value in flat(rest)]
    return found


def fpr_limit(panels: list[Panel]) -> float:
    """The limit that AUPRO was computed with, 0.3 where the run records none."""
    for panel in panels:
        about = panel.metrics.get("about")
        if isinstance(about, dict) and 0 < number(about.get("fpr_limit")) <= 1:
            return number(about["fpr_limit"])
    return 0.3


def flat(value: dict[str, Any], prefix: str = "", depth: int = 0) -> list[tuple[str, str]]:
    """(dotted key, text) of nested plain data; long lists are shortened and say so."""
    pairs: list[tuple[str, str]] = []
    for key, entry in value.items():
        name = f"{prefix}{key}"
        if isinstance(entry, dict) and depth < 4:
            pairs += flat(entry, name + ".", depth + 1)
        elif isinstance(entry, list) and len(entry) > 12:
            pairs.append((name, f"{len(entry)} entries"))
        elif isinstance(entry, float):
            pairs.append((name, f"{entry:.6g}"))
        else:
            pairs.append((name, "–" if entry is None else str(entry)[:2000]))
    return pairs
