"""Whole trainings as benchmark rows: how one is launched, what its run folder says, and a CSV that grows by rows and columns.

A row is a category of a run, one more is the mean over its categories.
"""

from __future__ import annotations

import csv
import ctypes
import json
import math
import os
import platform
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from common import device_name

ROOT = Path(__file__).resolve().parents[1]
METRICS = ("image_auroc", "image_ap", "image_f1max", "pixel_auroc", "pixel_ap", "pixel_f1max", "aupro")
KIND = "auroc:"  # of columns: image AUROC of one kind of defects against all good pictures
SOURCES = ("bikd_fast", "kernels", "configs", "Makefile", "setup.py", "pyproject.toml")


@dataclass(frozen=True)
class Job:
    """What a finished training cost: wall seconds from the command to the report, MB at the peak of its largest process."""

    seconds: float
    peak_mb: int
    load: float


def launch(words: Sequence[str], jobs: int = 1) -> Job:
    """One training as a user starts it, with ``make train``; of several at a time each is one process on its share of the cores.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    load, environment = os.getloadavg()[0], dict(os.environ)
    if jobs == 1:
        command = ["make", "--silent", "train", f"ARGS={shlex.join(words)}"]
    else:
        command = [sys.executable, "bikd_fast/train.py", *words]
        environment["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // jobs))
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env=environment, preexec_fn=_end_with_us)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Job(round(time.perf_counter() - started, 1), usage.ru_maxrss // 1024, round(load, 1))


def _end_with_us() -> None:
    """A benchmark that is killed takes its training along: the next one goes on in the same folder."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def rows_of(run: Path, job: Job) -> list[dict[str, Any]]:
    """One row a category and one named ``mean``, from the plain data of a run folder."""
    metrics = json.loads((run / "metrics.json").read_text())
    environment = json.loads((run / "environment.json").read_text())
    about = about_run(job, environment)
    rows = [_row(name, found) for name, found in metrics["categories"].items()]
    mean = {"category": "mean"} | {key: metrics["mean"].get(key) for key in METRICS}
    for key in {key: None for row in rows for key in row if key not in mean}:
        values = [row[key] for row in rows if _is_number(row.get(key))]
        mean[key] = statistics.fmean(values) if values else None
    spent = [row.get("train_seconds") for row in rows]
    one = len({json.dumps(found.get("training")) for found in metrics["categories"].values()}) == 1
    known = all(_is_number(s) for s in spent)  # a category that was killed and went on does not say how long it took
    mean["train_seconds"] = (spent[0] if one else sum(spent)) if known else None  # one detector for all was trained once
    mean["train_peak_mb"] = max((row["train_peak_mb"] for row in rows if _is_number(row.get("train_peak_mb"))), default=None)
    return [row | about for row in [*rows, mean]]


def _row(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    training = found.get("training") or {}
    row: dict[str, Any] = {"category": name} | {key: found.get(key) for key in METRICS}
    row |= {KIND + kind: values.get("image_auroc") for kind, values in sorted((found.get("kinds") or {}).items())}
    row |= {"train_seconds": training.get("seconds"), "train_peak_mb": training.get("peak_memory_mb")}
    seen = (training.get("diagnostics") or {}) | {"test": found.get("diagnostics") or {}}
    for where in ("held_out", "simulated", "test"):
        row |= {f"{where}:{key}": value for key, value in seen.get(where, {}).items()}
    return row


def about_run(job: Job, environment: Mapping[str, Any]) -> dict[str, Any]:
    """What a row needs to be compared with another: cost, machine, versions, commit."""
    versions = environment["versions"]
    on_cpu = environment["device"] in ("", platform.processor(), platform.machine())  # all that a run says of one
    return {
        "seconds": job.seconds,
        "peak_mb": job.peak_mb,
        "ranks": environment["ranks"],
        "threads": environment["threads"],
        "cpus": len(os.sched_getaffinity(0)),
        "load": job.load,
        "device": (device_name("cpu") or platform.machine()) if on_cpu else environment["device"],
        "python": environment["python"],
        **{name: versions[name] for name in ("torch", "triton", "timm", "deepspeed")},
        "commit": commit(),
        "date": date.today().isoformat(),
    }


def commit() -> str:
    """Short hash of the checkout, with + where what trains differs from it."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "--", *SOURCES) else "")


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none where there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def append(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add rows; columns that the file lacks are added at its right, empty in the rows before. Written whole or not at all."""
    old: list[Mapping[str, Any]] = list(read(path))
    new = [{key: _text(value) for key, value in row.items()} for row in rows]
    columns = list(dict.fromkeys(key for row in [*old, *new] for key in row))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows([*old, *new])
    temporary.replace(path)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
