"""One self-contained HTML page a run: RUN/report.html."""

import base64
import hashlib
import math
import os
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from bikd_fast.report.colormap import HEAT
from bikd_fast.report.judge import CORRECT, FALSE_ALARM, MISSED, UNJUDGED, undefined_reason
from bikd_fast.report.panel import Panel, make_panel, training_charts
from bikd_fast.report.run_folder import RunFolder, read_log, read_run
from bikd_fast.report.table import METRICS, mean_row, metric_columns, number

MAX_BYTES = 10_000_000
_PICTURE_BYTES = 7_000_000
_CARDS, _FEWEST, _MOST = 240, 12, 72  # pictures on the page; of one category
_ROWS = 40_000  # listed scores: about 3 MB
_OUTCOMES = [MISSED, FALSE_ALARM, CORRECT, UNJUDGED]


def write_report(run: Path) -> Path:
    """Writes RUN/report.html from the plain data of the run folder and returns its path.

    Reads config.yaml, metrics.json, environment.json and, per category, predictions.npz and log.jsonl; pictures and masks
    where predictions.npz says they lie. What is missing or damaged is named on the page. The page is under 10 MB and loads
    nothing from anywhere. The same files give the same page, byte for byte.
    Raises FileNotFoundError where run is no folder, ValueError where it holds nothing of a run.
    """
    run = Path(run)
    for share in (1.0, 0.5, 0.2, 0.0):  # many rows or long paths leave less room for pictures
        page = _page(read_run(run), share).encode("utf-8", errors="replace")
        if len(page) < MAX_BYTES:
            break
    target = run / "report.html"
    draft = target.with_suffix(".html.part")
    draft.write_bytes(page)
    os.replace(draft, target)
    return target


def _page(run: RunFolder, share: float) -> str:
    several = len(run.categories) > 1
    limit = int(share * min(_MOST, max(_FEWEST, _CARDS // len(run.categories))))
    joint = several and (run.path / "log.jsonl").is_file()  # one model for all categories logs once
    left = int(share * _PICTURE_BYTES)
    panels = []
    for done, category in enumerate(run.categories):
        budget = left // (len(run.categories) - done)
        panel = make_panel(category, run.path, run.notes, limit=limit, budget=budget, log=not joint)
        left -= sum(card.bytes for card in panel.cards)
        panels.append(panel)
    training = training_charts(read_log(run.path, run.notes)) if joint else []
    script, style = _file("page.js"), _file("page.css").replace("RAMP", _ramp())
    data, listed = _data(panels)
    columns = metric_columns(run.metrics)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    return environment.from_string(_file("page.html.j2")).render(
        run=run,
        panels=panels,
        training=training,
        total=_totals(panels),
        notes=run.notes,
        headline=[(key, value) for key, value in mean_row(run.metrics).items() if key in _HEADLINE],
        table=_table(run, panels, columns),
        names=METRICS,
        fpr_limit=_fpr_limit(panels),
        kind_columns=[[key for key in METRICS if any(key in row.recorded for row in panel.kinds)] for panel in panels],
        all_kinds=sorted({card.kind for panel in panels for card in panel.cards}),
        shown=sum(len(panel.cards) for panel in panels),
        listed=listed,
        config=_highlight(run.config),
        environment=_flat(run.environment),
        other=_other(panels),
        data=data,
        script=Markup(script),
        style=Markup(style),
        script_hash="sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _totals(panels: list[Panel]) -> dict[str, Any]:
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


def _table(run: RunFolder, panels: list[Panel], columns: list[str]) -> dict[str, Any]:
    rows, reasons = [], {}
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
    return {"columns": columns, "rows": rows if columns else [], "mean": list(mean_row(run.metrics).values()), "reasons": said}


def _data(panels: list[Panel]) -> tuple[Markup, int]:
    """The scores for the page's script as JSON that can stand in a script element, and how many rows it has."""
    from jinja2.utils import htmlsafe_json_dumps

    paths = [path for panel in panels if panel.found for path in panel.found.path]
    prefix = os.path.commonprefix(paths)
    prefix = prefix[: prefix.rfind("/") + 1] if len(paths) > 1 else ""
    kinds = sorted({kind for panel in panels if panel.found for kind in panel.found.kind})
    position = {kind: at for at, kind in enumerate(kinds)}
    groups, listed = [], 0
    for panel in panels:
        rows: list[list[Any]] = []
        found = panel.found
        for at in range(0 if found is None else min(len(found.path), _ROWS - listed)):
            assert found is not None
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
        groups.append(
            {"name": panel.name, "threshold": threshold if math.isfinite(threshold) else None, "rows": rows}
        )
    value = {"prefix": prefix, "kinds": kinds, "outcomes": _OUTCOMES, "categories": groups}
    return htmlsafe_json_dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False), listed


def _other(panels: list[Panel]) -> list[tuple[str, str]]:
    """Scalars of metrics.json that stand nowhere else on the page."""
    found = []
    for panel in panels:
        rest = {key: value for key, value in panel.metrics.items() if key not in METRICS and key not in _ELSEWHERE}
        before = f"{panel.name} · " if len(panels) > 1 else ""
        found += [(before + key.replace("_", " "), value) for key, value in _flat(rest)]
    return found


def _fpr_limit(panels: list[Panel]) -> float:
    for panel in panels:
        about = panel.metrics.get("about")
        if isinstance(about, dict) and 0 < number(about.get("fpr_limit")) <= 1:
            return number(about["fpr_limit"])
    return 0.3


def _flat(value: dict[str, Any], prefix: str = "", depth: int = 0) -> list[tuple[str, str]]:
    """(dotted key, text) of nested plain data; long lists are shortened and say so."""
    pairs: list[tuple[str, str]] = []
    for key, entry in value.items():
        name = f"{prefix}{key}"
        if isinstance(entry, dict) and depth < 4:
            pairs += _flat(entry, name + ".", depth + 1)
        elif isinstance(entry, list) and len(entry) > 12:
            pairs.append((name, f"{len(entry)} entries"))
        elif isinstance(entry, float):
            pairs.append((name, f"{entry:.6g}"))
        else:
            pairs.append((name, "–" if entry is None else str(entry)[:2000]))
    return pairs


def _highlight(text: str) -> Markup:
    """YAML text with its keys and comments marked."""
    lines = []
    for line in text.splitlines():
        head, colon, tail = line.partition(":")
        if line.lstrip().startswith("#"):
            lines.append(Markup("<i>{}</i>").format(line))
        elif colon and (not tail or tail[0] == " ") and not set(head) & set("'\"{[#"):
            lines.append(Markup("<b>{}</b>:{}").format(head, tail))
        else:
            lines.append(escape(line))
    return Markup("\n").join(lines)


def _ramp() -> str:
    return ", ".join("#%02x%02x%02x" % tuple(HEAT[at]) for at in range(0, 256, 51))


def _file(name: str) -> str:
    return resources.files("bikd_fast.report").joinpath("page_files", name).read_text("utf-8")


_HEADLINE = ("image_auroc", "image_ap", "image_f1max", "pixel_auroc", "pixel_ap", "aupro")
_ELSEWHERE = ("threshold", "curves", "kinds", "per_kind", "images", "regions", "undefined", "reasons", "not_defined")
