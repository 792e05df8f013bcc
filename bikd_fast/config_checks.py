"""Refusing settings that cannot work before anything is computed: the bounds of single values, and what has to fit together."""

from __future__ import annotations

import math
from functools import reduce
from typing import Any

from bikd_fast.config import ConfigError, RunConfig

_WITHIN: dict[str, tuple[float, float]] = {  # both ends work
    "data.holdout": (0, 0.9),
    "model.bound": (0, 0.99),  # at 1 the teacher could erase a feature
    "objective.beta": (0, 1),
    "objective.margin": (0, 2),
    **{f"training.{share}": (0, 1) for share in ("warmup", "forward_only", "ramp", "teacher_frozen")},
    "map.sigma": (0, 128),  # half of the picture
    "seed": (-(2**42), 2**42),  # times a million it is still a number of 64 bits (training/sampling.py)
}
_POSITIVE = (
    "model.size", "model.depth", "training.steps", "training.batch_size", "training.accumulation", "training.base_batch",
    "training.silence", "training.log_every", "training.keep_checkpoints", "map.topk",
)  # fmt: skip
_NOT_NEGATIVE = (
    "data.cache_gb", "objective.forward_corrupt", "objective.forward_clean", "objective.segmentation", "training.lr_student",
    "training.lr_teacher", "training.weight_decay", "training.max_bad_steps",
)  # fmt: skip
_LARGEST = 8192  # side of a picture in pixels; the matrix that blurs its map takes half a GB


def check(config: RunConfig) -> None:
    """Refuse settings that cannot work.

    Raises:
        ConfigError: names the key, what was found, and what to do.
    """
    check_values(config)
    training = config.training
    if training.lr_teacher > 0.1 * training.lr_student * (1 + 1e-9):
        raise ConfigError(
            f"training.lr_teacher: {training.lr_teacher} is above a tenth of training.lr_student ({training.lr_student}); "
            "a faster teacher runs away from its anchor. Lower it."
        )
    _one_way(config)
    phases = training.forward_only + training.ramp + training.teacher_frozen
    if phases > 1:
        raise ConfigError(f"training.forward_only + ramp + teacher_frozen: {phases:.2f} of the steps, more than all. Lower one.")
    if config.data.format != "textures" and config.data.root is None:
        raise ConfigError(f"data.root: data.format {config.data.format} needs the folder of the data set. Give --data.root DIR.")


def check_values(config: RunConfig) -> None:
    """The part of :func:`check` that looks at one value at a time.

    Raises:
        ConfigError: names the key, what was found, and what would work.
    """
    for key, (low, high) in _WITHIN.items():
        if not low <= (value := _read(config, key)) <= high:
            raise ConfigError(f"{key}: {value} is not within {low} and {high}.")
    for key in _POSITIVE:
        if not 0 < (value := _read(config, key)) < math.inf:
            raise ConfigError(f"{key}: {value} is not a number above 0.")
    for key in _NOT_NEGATIVE:
        if not 0 <= (value := _read(config, key)) < math.inf:
            raise ConfigError(f"{key}: {value} is not a number of at least 0.")
    if not config.training.checkpoint_seconds >= 0:
        raise ConfigError(f"training.checkpoint_seconds: {config.training.checkpoint_seconds} is no time; 0 writes none.")
    if not 0 < config.map.false_alarms < 1:
        raise ConfigError(f"map.false_alarms: {config.map.false_alarms} is not between 0 and 1, both excluded.")
    model, size = config.model, config.data.image_size
    if ":" in model.teacher:
        raise ConfigError(
            f"model.teacher: {model.teacher!r} names a place, and a detector has to be loaded without one. Give timm's name of the "
            "network, and its weights by --model.weights FILE."
        )
    if model.pool < 1 or model.pool % 2 == 0:
        raise ConfigError(f"model.pool: {model.pool} is not an odd number of positions of at least 1.")
    if not model.strides or len(set(model.strides)) < len(model.strides):
        raise ConfigError(f"model.strides: {model.strides} is empty or names a level twice.")
    if size % 32 or not 64 <= size <= _LARGEST:
        raise ConfigError(f"data.image_size: {size} is not a multiple of 32 from 64 to {_LARGEST}.")


def _one_way(config: RunConfig) -> None:
    """What knows one direction only takes neither a learning teacher nor the map's other parts, which see levels one by one."""
    model, objective = config.model, config.objective
    key, value = ("objective.over", objective.over) if objective.over == "map" else ("model.student", model.student)
    if value not in ("map", "dual", "relation", "inpainting", "bank"):
        return
    for off in ("adapter", "head", "mahalanobis"):
        if getattr(model, off):
            raise ConfigError(f"{key}: {value} works alone, with a frozen teacher. Set --model.{off} false (or see configs/).")
    if model.student == "bank" and config.map.calibrate_channels:
        raise ConfigError("map.calibrate_channels: a bank compares by distance and has no channels to weigh. Switch it off.")
    if model.student == "inpainting" and (objective.over == "map" or objective.forward_corrupt):
        raise ConfigError(
            "model.student: inpainting learns hidden positions of clean pictures: set --objective.over position and "
            "--objective.forward_corrupt 0 (see configs/inpainting.yaml)."
        )


def _read(config: RunConfig, key: str) -> Any:
    return reduce(getattr, key.split("."), config)
