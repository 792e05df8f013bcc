"""What a search leaves behind (best.yaml, best_trial.yaml, trials.csv, search.html), made anew from its records whenever asked."""

from __future__ import annotations

import csv
import io
import statistics
from pathlib import Path

import yaml

from bikd_fast.files import write_text
from bikd_fast.search.settings import plain
from tune.findings import Found, front, read
from tune.page import page

HEAD = "# Found by tune/search.py. `bikd train --config` takes it as it is.\n"


def write(folder: Path) -> Found:
    """Write best.yaml, best_trial.yaml, trials.csv, search.html.

    Returns:
        the search; its best trial is None (and there is no YAML) where no trial came to a result.
    """
    found = read(folder)
    holds = f"# It holds {found.holds}.\n"
    for name, config, note in (("best.yaml", found.config, holds), ("best_trial.yaml", found.candidate, "")):
        if config is not None:
            write_text(folder / name, HEAD + note + yaml.safe_dump(plain(config), sort_keys=False))
    _table(folder / "trials.csv", found)
    write_text(folder / "search.html", page(found))
    return found


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
            "mixed": int(bool(row.result.get("mixed"))), "starts": row.starts,
            "training_seconds": row.result.get("training_seconds"), "seconds": row.result.get("trial_seconds"),
            **{key: row.values.get(key) for key in keys}, **{f"map.{k}": v for k, v in row.result.get("map", {}).items()},
        }  # fmt: skip
        lines.append(line)
    columns = list(dict.fromkeys(key for line in lines for key in line)) or ["trial"]
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows([{key: "" if value is None else value for key, value in line.items()} for line in lines])
    write_text(path, file.getvalue())
