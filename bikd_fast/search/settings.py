"""Drawn values -> the settings of a trial. The only place that knows how a searched parameter becomes a line of a config."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

from bikd_fast.arguments import run_config, run_parser
from bikd_fast.config import ConfigError, RunConfig, to_dict

TEACHER_RATE = (
    "training.teacher_rate"  # training.lr_teacher as a share of training.lr_student: any draw of both is a valid pair
)


def apply(base: Mapping[str, Any], values: Mapping[str, Any]) -> RunConfig:
    """The settings ``base`` (:func:`bikd_fast.config.to_dict`) with ``values`` in their places.

    A key is the dotted path of a setting (``objective.beta``); a number at its end is a place in a list
    (``simulation.coverage.1``); :data:`TEACHER_RATE` sets training.lr_teacher. Floats are rounded to three digits, so that the
    YAML file of a setting says all of it.

    Raises:
        ConfigError: a key that no setting has, or a value of the wrong kind.
    """
    settings = copy.deepcopy(dict(base))
    rate = None
    for key, value in values.items():
        value = neat(value)
        if key == TEACHER_RATE:
            rate = value
        else:
            _put(settings, key, value)
    if rate is not None:
        settings["training"]["lr_teacher"] = neat(rate * settings["training"]["lr_student"])
    parser = run_parser("search", "")
    parser.exit_on_error = False
    try:
        return run_config(parser, parser.parse_object(settings))
    except Exception as error:
        raise ConfigError(f"search: these values make no settings: {str(error).strip().splitlines()[-1]}") from error


def read(settings: Mapping[str, Any], key: str) -> Any:
    """The value that ``settings`` have at a key of the space.

    Raises:
        ConfigError: there is no such setting.
    """
    if key == TEACHER_RATE:
        return neat(settings["training"]["lr_teacher"] / (settings["training"]["lr_student"] or math.inf))
    found: Any = settings
    for part in key.split("."):
        try:
            found = found[int(part)] if isinstance(found, list | tuple) else found[part]
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise ConfigError(f"{key}: there is no such setting (bikd train --print_config shows them all).") from error
    return found


def plain(config: RunConfig) -> dict[str, Any]:
    """Settings as JSON and YAML know them: no tuples."""
    return _lists(to_dict(config))


def neat(value: Any) -> Any:
    """Floats at three significant digits; everything else as it is."""
    return float(f"{value:.3g}") if isinstance(value, float) else value


def _put(settings: dict[str, Any], key: str, value: Any) -> None:
    read(settings, key)
    *path, last = key.split(".")
    place: Any = settings
    for part in path:
        if isinstance(place[part], tuple):
            place[part] = list(place[part])
        place = place[part]
    place[int(last) if isinstance(place, list) else last] = value


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists(part) for key, part in value.items()}
    return [_lists(part) for part in value] if isinstance(value, list | tuple) else value
