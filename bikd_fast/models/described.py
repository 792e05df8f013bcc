"""What a detector file says of itself, looked at before anything is built by it: a file may come from anybody."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import torch

from bikd_fast.config import ConfigError, DataConfig, MapConfig, ModelConfig, RunConfig
from bikd_fast.config_checks import check_values

Part = TypeVar("Part")


def built_from(described: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> tuple[ModelConfig, MapConfig, int]:
    """The settings a detector is built with, out of what its file describes and holds.

    Raises:
        ConfigError: a setting of the wrong kind, one that cannot work, or one that makes networks larger than the file's.
    """
    model, size = _part(ModelConfig, "model", described.get("model")), described.get("image_size")
    if type(size) is not int:
        raise ConfigError(f"image_size: {size!r} is not a whole number.")
    config = RunConfig(DataConfig(image_size=size), model, map=_part(MapConfig, "map", described.get("map")))
    check_values(config)
    learned = sum(tensor.numel() for key, tensor in tensors.items() if key.startswith("student."))
    width = max(8.0, 64 * model.size - 4)  # of a student's narrowest stage, rounded; its blocks have two convolutions of 3 x 3
    if model.student != "bank" and 18 * width**2 * model.depth > learned:
        raise ConfigError(f"model.size {model.size}, model.depth {model.depth}: that student has more weights than the file.")
    expected = tensors.get("mahalanobis.expected_0")
    if model.mahalanobis and expected is not None and size > 64 * expected.shape[-1]:  # no level has a stride beyond 64
        raise ConfigError(f"image_size: {size} is too large for a distance at {expected.shape[-1]} positions.")
    return config.model, config.map, size


def numbers(described: Mapping[str, Any], key: str, count: int) -> tuple[float, ...]:
    """So many finite numbers.

    Raises:
        ConfigError: something else.
    """
    found = described.get(key)
    if not isinstance(found, list) or len(found) != count or not all(_fits(n, float) and math.isfinite(n) for n in found):
        raise ConfigError(f"{key}: {found!r} is not a list of {count} finite numbers.")
    return tuple(found)


def mapping(described: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Keys and values.

    Raises:
        ConfigError: something else.
    """
    found = described.get(key)
    if not isinstance(found, dict):
        raise ConfigError(f"{key}: {found!r} is not a mapping.")
    return found


def _part(kind: type[Part], name: str, values: Any) -> Part:
    hints = get_type_hints(kind)
    for key, value in mapping({name: values}, name).items():
        if key not in hints:
            raise ConfigError(f"{name}.{key}: there is no such setting.")
        if not _fits(value, hints[key]):
            raise ConfigError(f"{name}.{key}: {value!r} is not of the kind {getattr(hints[key], '__name__', hints[key])}.")
    return kind(**values)


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is list:
        return isinstance(value, list) and all(_fits(one, get_args(hint)[0]) for one in value)
    return type(value) is hint or (hint is float and type(value) is int)
