"""What the search may change, how far, and why. A YAML file of the user's narrows or widens it.

Every range holds the default, so that the first trial can be the defaults. Keys are those of the settings
(bikd_fast/search/settings.py); map settings need no training and are tried on every trained detector instead of being drawn.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bikd_fast.config import ConfigError, MapConfig, RunConfig
from bikd_fast.config_checks import check_values
from bikd_fast.search.settings import TEACHER_RATE, apply, neat, plain, read
from bikd_fast.simulation.kinds import KINDS


@dataclass(frozen=True)
class Range:
    """Numbers from low to high; ``log``: factors count, not differences."""

    low: float
    high: float
    log: bool = False
    why: str = ""


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Any, ...]
    why: str = ""


Space = dict[str, Range | Choice]

SPACE: Space = {
    "objective.beta": Range(0.0, 0.6, why="0 is one-way distillation; at 0.6 the student learns at two thirds of its rate"),
    "training.forward_only": Range(0.1, 0.4, why="the student has to know something before it teaches"),
    "training.ramp": Range(0.0, 0.3, why="a jump to a gentle rise; with the other phases below the whole"),
    "objective.margin": Range(0.2, 1.0, why="1 - cos of unrelated features is about 1: no more can be asked for"),
    "model.bound": Range(0.1, 0.9, why="below 0.1 the teacher cannot move, at 1 it may erase a feature"),
    "training.lr_student": Range(3e-4, 3e-3, log=True, why="a factor of three about AdamW's usual 1e-3 on a few hundred steps"),
    TEACHER_RATE: Range(0.01, 0.1, log=True, why="a tenth is the most that the anchor holds (config_checks.py)"),
    "simulation.scale": Range(0.5, 2.0, log=True, why="half to twice the size of every defect"),
    "simulation.coverage.1": Range(0.04, 0.25, log=True, why="greatest area; a quarter of the picture is hardly a defect"),
    "simulation.opacity.0": Range(0.05, 0.5, why="faintest defects: from barely visible to plain"),
    "simulation.nuisance": Range(0.0, 2.0, why="off to twice the harmless noise of the defaults"),
    "simulation.foreground": Choice((True, False), why="defects on the object alone, or anywhere"),
    **{
        f"simulation.kinds.{kind}": Range(0.0, 6.0, why="left out to twice the greatest default share")
        for kind in KINDS
    },
}
MAPS: dict[str, tuple[Any, ...]] = {  # setting of map: values tried on every trained detector, besides the job's own
    "sigma": (2.0, 6.0),  # half and one and a half times the default of 4 pixels; flat in between
    "combine": ("sum", "product"),  # any level may raise an alarm, or all have to
    "fill": (True, False),  # good for large defects, bad for small and thin ones
    "score": ("max", "topk"),  # one pixel may raise an alarm, or a hundred have to
}
LATENCY: Space = {  # drawn only where latency is an objective too: nothing above changes the networks
    "model.size": Range(0.125, 1.0, log=True, why="width of the student: an eighth to twice the default"),
    "model.depth": Choice((1, 2), why="residual blocks a stage"),
}
KNOWN: tuple[dict[str, Any], ...] = (  # first trials after the defaults: what did well, as differences from them
    {"objective.beta": 0.0},  # one-way distillation: what the method has to beat
    {"training.lr_student": 0.002},
)
JUDGED_BY = ("seed", "data.format", "data.root", "data.category", "data.holdout", "data.on_bad_image")  # the same for all trials


class _Loader(yaml.SafeLoader):
    """Takes 1e-4 for a number, as `bikd train` does; to YAML 1.1 it is a text."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789"))


def load(path: Path | None, latency: bool = False) -> tuple[Space, dict[str, list[Any]]]:
    """The space and the map settings, changed by a YAML file.

    A key with ``[low, high]`` is a range (with ``log`` as a third entry: of factors), with ``{values: [...]}`` a choice, with
    ``null`` it is left as the job has it. ``map.sigma`` and other map settings take a plain list of values.

    Raises:
        ConfigError: names the key and what is wrong with it.
    """
    space: Space = dict(SPACE) | (LATENCY if latency else {})
    maps = {name: list(values) for name, values in MAPS.items()}
    if path is None:
        return space, maps
    try:
        given = yaml.load(path.read_text(), Loader=_Loader) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"space: {path} cannot be read as YAML ({error}).") from error
    if not isinstance(given, dict):
        raise ConfigError(f"space: {path} must hold keys with ranges, such as `objective.beta: [0, 0.5]`.")
    for key, value in given.items():
        if str(key).startswith("map."):
            name = key.removeprefix("map.")
            if name not in MapConfig.__dataclass_fields__:
                raise ConfigError(f"space: {key} is no setting of the map.")
            if not isinstance(value, list | None):
                raise ConfigError(f"space: {key}: {value!r} is no list of values. Write [{value}], or null for none.")
            maps[name] = value or []
        elif value is None:
            read(plain(RunConfig()), str(key))
            space.pop(key, None)
        elif key in JUDGED_BY:
            raise ConfigError(f"space: {key}: it changes the pictures that trials are judged by. They have to be the same for all.")
        else:
            space[key] = _entry(str(key), value)
    for one, other in ((one, other) for one in space for other in space):
        if other.startswith(f"{one}.") or (one, other) == ("training.lr_teacher", TEACHER_RATE):
            raise ConfigError(f"space: {one} and {other} set the same. Leave one out: `{other}: null`, for one.")
    return space, maps


def check_ends(space: Space, maps: Mapping[str, Sequence[Any]], base: Mapping[str, Any]) -> None:
    """Try on the job's settings whatever a file has changed: every value of a map setting or a choice, both ends of a range.

    Raises:
        ConfigError: one of them makes no settings, or some that cannot work; names the key, the value and the reason.
    """
    tried = {f"map.{name}": tuple(values) for name, values in maps.items() if tuple(values) != MAPS.get(name)}
    changed = {key: entry for key, entry in space.items() if entry not in (SPACE.get(key), LATENCY.get(key))}
    tried |= {key: entry.values if isinstance(entry, Choice) else (entry.low, entry.high) for key, entry in changed.items()}
    for key, value in ((key, value) for key, values in tried.items() for value in values):
        try:
            check_values(apply(base, {key: value}))
        except ConfigError as error:
            raise ConfigError(f"space: {key}: {value!r} cannot be tried: {error}") from error


def _entry(key: str, value: Any) -> Range | Choice:
    if isinstance(value, dict) and isinstance(value.get("values"), list) and value["values"]:
        return Choice(tuple(map(_whole, value["values"])))
    numbers = value[:2] if isinstance(value, list) else []
    if len(numbers) == 2 and all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
        low, high, log = float(numbers[0]), float(numbers[1]), value[2:] == ["log"]
        if low < high and not (log and low <= 0) and value[2:] in ([], ["log"]):
            return Range(low, high, log)
    raise ConfigError(f"space: {key}: {value} is neither [low, high], [low, high, log] with low < high, nor {{values: [...]}}.")


def _whole(value: Any) -> Any:
    """A list as its text, which settings are read from as well: Ray takes lists apart, and draws from what is in them."""
    return json.dumps(value) if isinstance(value, list | dict) else value


def first_points(space: Space, base: Mapping[str, Any], given: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The first trials: the job's own settings, then the known good ones and those of ``given`` (whole settings), each once.

    Raises:
        ConfigError: a key of the space that is no setting, or a default outside its range.
    """
    own = {key: _whole(neat(read(base, key))) for key in space}
    for key, entry in space.items():
        if isinstance(entry, Range) and not isinstance(own[key], int | float):
            raise ConfigError(f"space: {key}: the job's own value {own[key]} is no number. Write {{values: [...]}}.")
        if not inside(entry, own[key]):
            raise ConfigError(f"space: {key}: the job's own value {own[key]} lies outside {entry}. Widen the range.")
    points = [own]
    for change in KNOWN:
        if all(key in space and inside(space[key], value) for key, value in change.items()):
            points.append(own | change)
    for settings in given:
        there = {key: _whole(neat(read(settings, key))) for key in space}
        outside = {key: own[key] for key, value in there.items() if not inside(space[key], value)}
        for key, value in outside.items():
            print(f"first: {key}: {there[key]} lies outside {space[key]}; {value}, the job's own, is tried instead", flush=True)
        points.append(there | outside)
    return [point for i, point in enumerate(points) if point not in points[:i]]


def inside(entry: Range | Choice, value: Any) -> bool:
    """Whether a value is one that could be drawn."""
    if isinstance(entry, Choice):
        return value in entry.values
    return isinstance(value, int | float) and not isinstance(value, bool) and entry.low - 1e-9 <= value <= entry.high + 1e-9


def to_ray(space: Space) -> dict[str, Any]:
    """The space as Ray Tune's samplers."""
    from ray import tune

    made = {}
    for key, entry in space.items():
        if isinstance(entry, Choice):
            made[key] = tune.choice(list(entry.values))
        else:
            made[key] = (tune.loguniform if entry.log else tune.uniform)(entry.low, entry.high)
    return made
