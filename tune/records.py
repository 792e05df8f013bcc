"""What the driver writes down: one line of JSON a result, at once, so that a killed search has lost nothing."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray.tune import Callback

KEPT = (
    *(
        "score",
        "score_own_map",
        "rung",
        "rungs",
        "resource",
        "map",
        "metrics",
        "test",
        "losses",
        "curve",
        "latency",
        "finished",
        "mixed",
    ),
    *("reason", "training_seconds", "trial_seconds", "step_seconds", "time_total_s", "host", "code"),
)


@dataclass
class Row:
    """One trial: what it drew, and its newest result (empty before the first)."""

    trial: str
    number: int
    values: dict[str, Any]
    result: dict[str, Any] = field(default_factory=dict)
    history: list[tuple[int, float]] = field(default_factory=list)
    error: str = ""
    starts: int = 0

    @property
    def score(self) -> float:
        return float(self.result.get("score", math.nan))

    @property
    def rung(self) -> int:
        return int(self.result.get("rung", 0))

    @property
    def status(self) -> str:
        """finished, stopped (by the scheduler), unfinished, or failed."""
        if self.error or self.result.get("reason"):
            return "failed"
        if self.result.get("finished"):
            return "finished"
        return "stopped" if self.result.get("over") else "unfinished"


class Recorder(Callback):
    """Appends to a file what becomes of every trial."""

    def __init__(self, path: Path) -> None:
        self.record = str(path)

    def _write(self, what: str, trial: Any, **more: Any) -> None:
        row = {"what": what, "trial": trial.trial_id, "time": round(time.time(), 2), **more}
        add(Path(self.record), row)

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._write("start", trial, values=dict(trial.config))

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        kept = {key: result[key] for key in KEPT if key in result}
        # what it was made by: a population's scheduler was here before, and may have given the trial other settings already
        self._write("result", trial, values=dict(result.get("config") or trial.config), result=kept)
        print(_line(trial.trial_id, kept), flush=True)

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._write("complete", trial)

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        text = "the worker ended without a message"
        if trial.error_file and Path(trial.error_file).is_file():
            lines = [line for line in Path(trial.error_file).read_text().strip().splitlines() if line.strip()]
            text = lines[-1] if lines else text
        self._write("error", trial, reason=text)
        print(f"  {trial.trial_id}: failed: {text}", flush=True)


def add(record: Path, entry: Mapping[str, Any]) -> None:
    """Append one line. One that a full disk has cut short is ended first, or it would take this one with it."""
    with record.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            cut = file.read(1) != b"\n"
            file.write(b"\n" * cut)
        file.write((json.dumps(entry) + "\n").encode())


def _line(trial: str, found: Mapping[str, Any]) -> str:
    if found.get("reason"):
        return f"  {trial}: failed: {found['reason']}"
    return f"  {trial}: rung {found['rung']} of {found['rungs']}, objective {found['score']:.4f}"


def read_rows(path: Path) -> list[Row]:
    """The trials in the order they were begun. A line cut short by a kill is passed over, and a trial that Ray forgot with it."""
    rows: dict[str, Row] = {}
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        row = rows.setdefault(entry["trial"], Row(entry["trial"], len(rows), {}))
        if entry["what"] == "start":
            row.values = row.values if row.result else _flat(entry["values"])
            row.starts, row.error = row.starts + 1, ""
        elif entry["what"] == "result":
            if entry["result"].get("reason") and row.rung:
                row.error = entry["result"]["reason"]
            elif entry["result"].get("rung", 0) >= row.rung:
                row.values, row.result = _flat(entry["values"]), entry["result"]
            if not entry["result"].get("reason"):
                known = dict(row.history)
                known[entry["result"]["rung"]] = entry["result"]["score"]
                row.history = sorted(known.items())
        elif entry["what"] == "complete":
            row.result["over"] = True
        elif entry["what"] == "error":
            if row.status not in ("finished", "stopped"):  # Ray's snapshot before a kill may not know that it had come to its end
                row.error = entry["reason"]
        elif entry["what"] == "gone":
            del rows[entry["trial"]]
    return list(rows.values())


def gain_rows(path: Path, of: Row) -> list[Row]:
    """The rows that measure the gain of one trial; another may have been the best before."""
    return [row for row in read_rows(path) if row.values.get("_of") == of.trial]


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    return values.get("point", values)


def best_of(rows: list[Row]) -> Row | None:
    """The best of the trials that got furthest; the earlier one of two alike.

    Only trials of one setting from beginning to end count: no config makes what came of several.
    """
    good = [row for row in rows if row.status != "failed" and row.rung > 0 and not row.result.get("mixed")]
    top = max((row.rung for row in good), default=0)
    return max((row for row in good if row.rung == top), key=lambda row: (row.score, -row.number), default=None)


def best_values(base: Mapping[str, Any], best: Row) -> dict[str, Any]:
    """What a trial drew and the map settings that suited it, as differences from the job."""
    maps = {f"map.{key}": value for key, value in best.result["map"].items() if base["map"][key] != value}
    return {**best.values, **maps}
