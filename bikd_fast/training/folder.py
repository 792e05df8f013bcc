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

import yaml

from bikd_fast.config import ConfigError, RunConfig, save, to_dict
from bikd_fast.data import Category
from bikd_fast.data.lock import held
from bikd_fast.files import write_text
from bikd_fast.inference.diagnostics import TRAINING
from bikd_fast.models.detector import FILE_NAME
from bikd_fast.training import user_config

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
    the map and the distance made afterwards is left out, and so is all of the DeepSpeed file that does not change the result: a run
    may go on at another ZeRO stage."""
    relevant = _settings(config)
    relevant.pop("map")
    relevant["model"].pop("mahalanobis")
    for key in ("root", "category"):
        relevant["data"].pop(key)
    return _digest([relevant, name, pictures])


def _settings(config: RunConfig) -> dict[str, Any]:
    """What a run is: its settings without those of speed, logs and places, and what its DeepSpeed file says of the result.

    What is as it is by default is left out where it came later than runs that may be gone on with: their mark stays theirs.

    Raises:
        ConfigError: the DeepSpeed file cannot be read.
    """
    relevant = to_dict(config)
    if config.data.root is not None:
        relevant["data"]["root"] = str(Path(config.data.root))  # with a slash at its end or without
    for key in ("output", "resume", "report", "deepspeed_config"):
        relevant.pop(key)
    for key in ("cache_gb", "cache_dir"):
        relevant["data"].pop(key)
    for key in (
        *("log_every", "checkpoint_seconds", "keep_checkpoints", "compile", "cuda_graphs", "max_bad_steps"),
        *("parallel", "silence"),
    ):
        relevant["training"].pop(key)
    if config.training.accumulation == 1:
        relevant["training"].pop("accumulation")
    made = user_config.outcome(user_config.read(config.deepspeed_config), config.training)
    if made != user_config.outcome({}, config.training):
        relevant["deepspeed"] = made
    return relevant


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def alone(run: Path, does: str = "trains") -> Iterator[None]:
    """Keep every other process from what this one ``does`` in a folder, made if need be.

    Raises:
        ConfigError: another process does it there.
    """
    run.mkdir(parents=True, exist_ok=True)
    with held(run / LOCK) as other:
        if other is not None:
            raise ConfigError(f"output: another process ({other}) {does} in {run}. Wait for it, end it, or give another --output.")
        yield


def claim(run: Path, config: RunConfig) -> bool:
    """Make the folder this run's, or refuse where it is another's; returns whether it was nobody's.

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
            f"output: {run} holds a run of other settings (see {mark}): {_differing(mark, config)}. "
            "Give another --output, or --resume never to start anew."
        )
    fresh = not stamp.is_file()
    (run / DONE).unlink(missing_ok=True)
    if config.resume == "never" and stamp.is_file():
        for folder in [run, *(below for below in run.iterdir() if below.is_dir() and not (below / STAMP).exists())]:
            for old in [*(folder / name for name in LEFT), *folder.glob("checkpoints/*")]:
                old.unlink(missing_ok=True)
    there = config.deepspeed_config and str(Path(config.deepspeed_config).absolute())  # --resume RUN may be said elsewhere
    # the same settings again go on; starting anew is asked for each time
    save(replace(config, resume="auto", deepspeed_config=there), mark)
    write_text(stamp, print_of)
    return fresh


def release(run: Path) -> None:
    """Make the folder nobody's again: what it was claimed for was refused before anything was made."""
    (run / STAMP).unlink(missing_ok=True)


def _differing(mark: Path, config: RunConfig) -> str:
    """In words, which settings of a run are not those that ``mark`` says."""
    try:
        then, now = _flat(yaml.safe_load(mark.read_text())), _flat(json.loads(json.dumps(_settings(config))))
    except (OSError, ValueError, yaml.YAMLError):
        return "its own cannot be read"
    if then.get("data.root") is not None:
        then["data.root"] = str(Path(then["data.root"]))
    changed = [key for key in now.keys() & then.keys() if now[key] != then[key]]
    if then.get("training.accumulation", 1) != now.get("training.accumulation", 1):
        changed.append("training.accumulation")
    if not changed:
        return "the DeepSpeed configuration's optimizer, scheduler, gradient_clipping or precision has changed"
    text = ", ".join(f"{key} was {then.get(key, 1)} and is {now.get(key, 1)}" for key in sorted(set(changed)))
    user = user_config.read(config.deepspeed_config)
    if "training.batch_size" in changed and "train_micro_batch_size_per_gpu" in user and "train_batch_size" not in user:
        text += " (train_micro_batch_size_per_gpu alone makes it go by the number of ranks: give train_batch_size instead)"
    return text


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings under their dotted names."""
    if not isinstance(value, dict):
        return {prefix[:-1]: value}
    return {name: leaf for key, below in value.items() for name, leaf in _flat(below, f"{prefix}{key}.").items()}


def finish(run: Path) -> None:
    """Mark a run as finished: everything it is to leave is there."""
    (run / DONE).write_text(datetime.now(UTC).isoformat(timespec="seconds") + "\n")
