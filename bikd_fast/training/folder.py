"""The folder of a run: where it is, whose it is, what an earlier run left in it, and what says that it is finished."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bikd_fast.config import ConfigError, RunConfig, save, to_dict
from bikd_fast.data import Category
from bikd_fast.data.lock import held
from bikd_fast.files import write_text
from bikd_fast.inference.diagnostics import TRAINING
from bikd_fast.models.detector import FILE_NAME

DONE = "DONE"  # this file, not an exit code, says that a run is finished
STAMP = ".settings"
LOCK = ".lock"  # held by the process that trains here
LEFT = (FILE_NAME, TRAINING, "log.jsonl", "metrics.json", "predictions.npz", "environment.json", "report.html")


def detector_folder(run: Path, config: RunConfig, categories: Sequence[Category], name: str) -> Path:
    """Where a detector lives: in the run itself when there is only one, else in a folder of its category's name."""
    return run if len(categories) == 1 or config.model.shared else run / name


def run_folder(config: RunConfig) -> Path:
    """``output``, or runs/FORMAT-STUDENT-seedN."""
    return Path(config.output) if config.output else Path("runs") / f"{config.data.format}-{config.model.student}-seed{config.seed}"


def fingerprint(config: RunConfig, name: str, pictures: str) -> str:
    """Of everything that one training depends on, the identity of its pictures included; what only concerns speed, logs, places, or
    the map and the distance made afterwards is left out, and so is the DeepSpeed file: a run may go on at another ZeRO stage."""
    relevant = _settings(config)
    relevant.pop("map")
    relevant["model"].pop("mahalanobis")
    for key in ("root", "category"):
        relevant["data"].pop(key)
    return _digest([relevant, name, pictures])


def _settings(config: RunConfig) -> dict[str, Any]:
    """What a run is: its settings without those of speed, logs and places."""
    relevant = to_dict(config)
    if config.data.root is not None:
        relevant["data"]["root"] = str(Path(config.data.root))  # with a slash at its end or without
    for key in ("output", "resume", "report", "deepspeed_config"):
        relevant.pop(key)
    for key in ("cache_gb", "cache_dir"):
        relevant["data"].pop(key)
    for key in (
        *("log_every", "checkpoint_seconds", "keep_checkpoints", "compile", "cuda_graphs", "max_bad_steps"),
        *("accumulation", "parallel", "silence"),
    ):
        relevant["training"].pop(key)
    return relevant


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def alone(run: Path) -> Iterator[None]:
    """Keep every other process from training in a folder, made if need be.

    Raises:
        ConfigError: another process trains there.
    """
    run.mkdir(parents=True, exist_ok=True)
    with held(run / LOCK) as other:
        if other is not None:
            raise ConfigError(f"output: another process ({other}) trains in {run}. Wait for it, end it, or give another --output.")
        yield


def claim(run: Path, config: RunConfig) -> None:
    """Make the folder this run's, or refuse where it is another's.

    ``resume never`` forgets what a run left here, whichever detectors it made; only where a run was, and never a run of its own
    in a folder below.

    Raises:
        ConfigError: it holds a run of other settings.
    """
    run.mkdir(parents=True, exist_ok=True)
    mark, stamp = run / "config.yaml", run / STAMP
    print_of = _digest(_settings(config))
    if mark.is_file() and config.resume == "auto" and stamp.is_file() and stamp.read_text() != print_of:
        raise ConfigError(
            f"output: {run} holds a run of other settings (see {mark}). Give another --output, or --resume never to start anew."
        )
    (run / DONE).unlink(missing_ok=True)
    if config.resume == "never" and stamp.is_file():
        for folder in [run, *(below for below in run.iterdir() if below.is_dir() and not (below / STAMP).exists())]:
            for old in [*(folder / name for name in LEFT), *folder.glob("checkpoints/*")]:
                old.unlink(missing_ok=True)
    save(replace(config, resume="auto"), mark)  # the same settings again go on; starting anew is asked for each time
    write_text(stamp, print_of)


def finish(run: Path) -> None:
    """Mark a run as finished: everything it is to leave is there."""
    (run / DONE).write_text(datetime.now(UTC).isoformat(timespec="seconds") + "\n")
