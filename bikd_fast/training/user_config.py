"""The user's DeepSpeed JSON: read, checked against the run's own settings, and each side completed from the other."""

from __future__ import annotations

import json
import math
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

from bikd_fast.config import ConfigError, TrainingConfig

_LOW = ("fp16", "bf16")
_OBJECTS = ("optimizer", "scheduler", "zero_optimization", "torch_autocast", *_LOW)  # what bikd_fast looks into


def read(path: str | None) -> dict[str, Any]:
    """The user's DeepSpeed JSON; {} without one.

    Raises:
        ConfigError: no such file, not a JSON object, or a part that bikd_fast reads is of another kind.
    """
    if path is None:
        return {}
    try:
        found = json.loads(Path(path).read_text())
    except FileNotFoundError as error:
        raise ConfigError(f"deepspeed_config: no file {path}.") from error
    except OSError as error:
        raise ConfigError(f"deepspeed_config: {path} cannot be read ({error.strerror}). Give a JSON file.") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"deepspeed_config: {path} is not JSON in UTF-8 ({error}).") from error
    if not isinstance(found, dict):
        raise ConfigError(f"deepspeed_config: {path} holds no JSON object.")
    _look_into(found)
    return found


def _look_into(user: dict[str, Any]) -> None:
    parts = {key: user[key] for key in _OBJECTS if key in user}
    parts |= {f"{key}.params": parts[key]["params"] for key in ("optimizer", "scheduler") if "params" in _object(parts, key)}
    for key in parts:
        _object(parts, key)
    for key in ("lr", "weight_decay"):
        value = parts.get("optimizer.params", {}).get(key)
        if value is not None and (type(value) not in (int, float) or not 0 <= value < math.inf):
            raise ConfigError(f"deepspeed_config: optimizer.params.{key}: {value!r} is not a number of at least 0.")
    stage = parts.get("zero_optimization", {}).get("stage", 0)
    if type(stage) is not int or stage not in range(4):
        raise ConfigError(f"deepspeed_config: zero_optimization.stage: {stage!r} is not 0, 1, 2 or 3.")


def _object(parts: dict[str, Any], key: str) -> dict[str, Any]:
    found = parts.get(key, {})
    if not isinstance(found, dict):
        raise ConfigError(f"deepspeed_config: {key}: {found!r} is not a JSON object {{...}}.")
    return found


def settle(training: TrainingConfig, user: dict[str, Any], world: int, device: str = "") -> TrainingConfig:
    """``training`` with what the JSON says about batch, accumulation, rate, weight decay and precision.

    The JSON wins over a default; where both were set and differ there is no telling what was meant.

    Args:
        device: the kind that is computed on, where it is known: ``cpu`` has no float16.

    Raises:
        ConfigError: two settings that contradict each other; the message names both keys.
    """
    for key in ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"):
        if key in user and (type(user[key]) is not int or user[key] < 1):
            raise ConfigError(f"deepspeed_config: {key}: {user[key]!r} is not a positive whole number.")
    batch, accumulation = _batch(training, user, world)
    training = _take(training, "batch_size", batch, _batch_key(user))
    training = _take(training, "accumulation", accumulation, "gradient_accumulation_steps")
    share, rest = divmod(training.batch_size, world * training.accumulation)
    if rest or not share:
        step = world * training.accumulation
        raise ConfigError(
            f"training.batch_size: {training.batch_size} is not a multiple of {world} ranks x {training.accumulation} "
            f"micro-batches (training.accumulation); take {max(1, round(training.batch_size / step)) * step}."
        )
    optimizer = user.get("optimizer", {}).get("params", {})
    taken = _take(training, "lr_student", optimizer.get("lr"), "optimizer.params.lr")
    if taken is not training and training.lr_teacher == _default("lr_teacher"):
        taken = replace(taken, lr_teacher=taken.lr_student * (training.lr_teacher / training.lr_student))
    taken = _take(taken, "weight_decay", optimizer.get("weight_decay"), "optimizer.params.weight_decay")
    _scheduled(taken, user)
    return _precision(taken, user, device)


def _scheduled(training: TrainingConfig, user: dict[str, Any]) -> None:
    """A scheduler sets the student's rate by itself, and the teacher's by the share that it is of the student's peak."""
    if not user.get("scheduler", {}).get("type"):
        return
    for key, instead in (("scale_rates", "scale the rates in scheduler.params"), ("warmup", "give the rise in scheduler.params")):
        if getattr(training, key) != _default(key):
            raise ConfigError(
                f"training.{key} is {getattr(training, key)} and the DeepSpeed configuration's scheduler replaces it: leave one of "
                f"the two out, or {instead}."
            )
    if training.lr_student == 0:
        theirs = "lr" in user.get("optimizer", {}).get("params", {})
        named = "deepspeed_config: optimizer.params.lr" if theirs else "training.lr_student"
        raise ConfigError(f"{named}: 0, and the teacher's rate is a share of it under a scheduler. Give a number above 0.")


def outcome(user: dict[str, Any], training: TrainingConfig) -> dict[str, Any]:
    """What the JSON says that changes the result, defaults filled in; not ZeRO's stage, offloading, monitors and the like."""
    optimizer = user.get("optimizer", {})
    params = {"lr": training.lr_student, "weight_decay": training.weight_decay}
    params |= {key: value for key, value in optimizer.get("params", {}).items() if value is not None}
    clip = user.get("gradient_clipping", 1.0)
    return {
        "optimizer": [str(optimizer.get("type", "AdamW")).lower(), params],
        "gradient_clipping": float(clip) if type(clip) is int else clip,
        **{key: user[key] for key in _enabled(user)},
        **{key: user[key] for key in ("scheduler", "data_types") if user.get(key)},
    }


def _batch(training: TrainingConfig, user: dict[str, Any], world: int) -> tuple[int | None, int | None]:
    """(global batch, accumulation) as the JSON has them; None where it leaves them open."""
    whole, micro = user.get("train_batch_size"), user.get("train_micro_batch_size_per_gpu")
    accumulation = user.get("gradient_accumulation_steps")
    if micro is None:
        return whole, accumulation
    if whole is None and accumulation is None and training.batch_size != _default("batch_size"):
        whole = training.batch_size  # its micro-batch, our batch: the accumulation follows
    if whole is None:
        return micro * world * (accumulation or training.accumulation), accumulation
    steps, rest = divmod(whole, micro * world)
    if rest or not steps or steps != (accumulation or steps):
        named = f" x gradient_accumulation_steps {accumulation}" if accumulation else ""
        whose = "train_batch_size" if "train_batch_size" in user else "training.batch_size"
        raise ConfigError(
            f"deepspeed_config: {whose} {whole} is not train_micro_batch_size_per_gpu {micro}{named} x {world} ranks. "
            "Leave one of them out."
        )
    return whole, steps


def _batch_key(user: dict[str, Any]) -> str:
    if "train_batch_size" in user:
        return "train_batch_size"
    return "train_micro_batch_size_per_gpu"


def _take(training: TrainingConfig, key: str, value: Any, named: str) -> TrainingConfig:
    ours = getattr(training, key)
    if value is None or value == ours:
        return training
    if ours != _default(key):
        raise ConfigError(
            f"training.{key} is {ours} and the DeepSpeed configuration's {named} makes it {value}: leave one of the two out."
        )
    return replace(training, **{key: value})


def _enabled(user: dict[str, Any]) -> list[str]:
    """The sections of low precision that are switched on."""
    return [key for key in (*_LOW, "torch_autocast") if user.get(key, {}).get("enabled")]


def _precision(training: TrainingConfig, user: dict[str, Any], device: str) -> TrainingConfig:
    on = _enabled(user)
    if len(on) > 1:
        raise ConfigError(f"deepspeed_config: {' and '.join(on)} are both enabled: leave one of them out.")
    if not on:
        return _float32(training) if user.get("torch_autocast", {}).get("enabled") is False else training
    if on[0] in _LOW and user.get("zero_optimization", {}).get("stage") == 0:
        raise ConfigError(
            f"deepspeed_config: {on[0]}.enabled needs zero_optimization.stage 1 or more here (float32 masters are kept "
            'apart there); or take "torch_autocast": {"enabled": true, "dtype": "bfloat16"}, which works at every stage.'
        )
    dtype = user[on[0]].get("dtype", "bfloat16")
    half = on[0] == "torch_autocast" and dtype in ("float16", "fp16", "half")
    if half and device == "cpu":
        raise ConfigError(f"deepspeed_config: torch_autocast.dtype {dtype} needs a GPU, and there is none. Take bfloat16.")
    if half and not user.get("zero_optimization", {}).get("stage"):
        raise ConfigError(
            f"deepspeed_config: torch_autocast.dtype {dtype} needs zero_optimization.stage 1 or more here (a scaled loss would "
            "undo what clips gradients and leaves bad steps out); or take bfloat16."
        )
    if training.precision != "auto":
        kind = "bf16" if on[0] == "bf16" or dtype in ("bfloat16", "bf16") else "fp16"
        if on[0] == "fp16" or kind != training.precision:
            raise ConfigError(
                f"training.precision is {training.precision} and the DeepSpeed configuration enables {on[0]}: leave one out."
            )
    return training


def _float32(training: TrainingConfig) -> TrainingConfig:
    if training.precision not in ("auto", "fp32"):
        raise ConfigError(
            f"training.precision is {training.precision} and the DeepSpeed configuration's torch_autocast.enabled is false: "
            "leave one of the two out."
        )
    return replace(training, precision="fp32")


def _default(key: str) -> Any:
    default = next(f.default for f in fields(TrainingConfig) if f.name == key)
    assert default is not MISSING
    return default


def rate_factor(training: TrainingConfig) -> float:
    """By how much both peak rates grow with the batch (training.scale_rates), relative to training.base_batch."""
    ratio = training.batch_size / training.base_batch
    return {"none": 1.0, "linear": ratio, "sqrt": ratio**0.5}[training.scale_rates]
