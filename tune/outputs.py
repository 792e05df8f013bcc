"""What a search leaves behind: best.yaml, trials.csv, search.html; made anew from what was recorded, whenever asked."""

from __future__ import annotations

import csv
import io
import statistics
from pathlib import Path

import yaml

from bikd_fast.search.settings import plain
from tune.findings import Found, front, read
from tune.page import page
from tune.records import Row
from tune.state import put

HEAD = "# Found by tune/search.py. `bikd train --config` takes it as it is.\n"


def write(folder: Path) -> Row | None:
    """Write best.yaml, trials.csv, search.html; returns the best trial, None (and no best.yaml) where none came to a result."""
    found = read(folder)
    if found.config is not None:
        put(folder / "best.yaml", HEAD + yaml.safe_dump(plain(found.config), sort_keys=False))
    _table(folder / "trials.csv", found)
    put(folder / "search.html", page(found))
    return found.best


def _table(path: Path, found: Found) -> None:
    keys = list(dict.fromkeys(key for row in found.rows for key in row.values))
    fronted = front(found.rows)
    lines = []
    for row in found.rows:
        metrics = list(row.result.get("metrics", {}).values())
        line = {
            "trial": row.trial, "number": row.number, "best": int(found.best is not None and row.trial == found.best.trial),
            "status": row.status, "reason": row.error or row.result.get("reason", ""), "rung": row.rung,
            "rungs": row.result.get("rungs"), "objective": row.result.get("score"),
            "objective_own_map": row.result.get("score_own_map"),
            **{f"validation_{k}": statistics.fmean(m[k] for m in metrics) for k in (metrics[0] if metrics else {})},
            "latency_ms": row.result.get("latency"), "fastest_for_its_accuracy": int(row.trial in fronted) if fronted else None,
            "starts": row.starts, "training_seconds": row.result.get("training_seconds"),
            "seconds": row.result.get("trial_seconds"),
            **{key: row.values.get(key) for key in keys}, **{f"map.{k}": v for k, v in row.result.get("map", {}).items()},
        }  # fmt: skip
        lines.append(line)
    columns = list(dict.fromkeys(key for line in lines for key in line)) or ["trial"]
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows([{key: "" if value is None else value for key, value in line.items()} for line in lines])
    put(path, file.getvalue())
