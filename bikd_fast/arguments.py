"""Command lines: one parser for every entry point that describes a run, and the shared way of ending with an error."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

from jsonargparse import ArgumentParser

from bikd_fast.config import ConfigError, RunConfig
from bikd_fast.errors import guarded

__all__ = ["guarded", "join_lists", "load_run", "parse_run", "run_config", "run_parser"]

_LISTS = ("--data.category", "--model.strides")


class _Parser(ArgumentParser):
    """Tells a mistyped setting the names like it."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        unknown = re.match(r"(?:unrecognized arguments: --|Option '|Group '([\w.]+)' does not accept option ')([\w.]+)", message)
        if unknown:
            key, known = ".".join(filter(None, unknown.groups())), [action.dest for action in self._actions]
            last = [name for name in known if name.split(".")[-1] == key.split(".")[-1]]
            close = get_close_matches(key, known) or last
            message += f". Close names: {', '.join(close)}" if close else ""
        super().error(message, ex)


def run_parser(program: str, description: str) -> ArgumentParser:
    """Parser over every field of :class:`RunConfig`, with ``--config FILE`` and ``--print_config``."""
    usage = f"{program} [--config FILE] [--KEY VALUE ...] [--help]"  # by itself one name a setting: an error below it is not seen
    parser = _Parser(prog=program, usage=usage, description=description, default_env=False)
    parser.add_argument("--config", action="config", help="YAML file with any of the settings below")
    parser.add_argument("--local_rank", type=int, default=-1, help="given by the DeepSpeed launcher; not for people")
    parser.add_class_arguments(RunConfig)
    return parser


def parse_run(parser: ArgumentParser, arguments: Sequence[str] | None = None) -> RunConfig:
    """Command line -> RunConfig. ``--data.category brick grass`` is accepted as well as ``[brick, grass]``."""
    return run_config(parser, _parsed(parser, join_lists(sys.argv[1:] if arguments is None else arguments)))


def load_run(path: Path) -> RunConfig:
    """RunConfig from a YAML file.

    Raises:
        SystemExit: the file holds a key or a value that no setting has; the message names it.
        ConfigError: it is no text.
    """
    parser = run_parser("bikd", "")
    return run_config(parser, _parsed(parser, ["--config", str(path)]))


def _parsed(parser: ArgumentParser, words: list[str]):
    try:
        return parser.parse_args(words)
    except UnicodeDecodeError as error:  # jsonargparse tells of every other fault by itself
        pairs = zip(["", *words], words)
        files = [w.removeprefix("--config=") for before, w in pairs if before == "--config" or w.startswith("--config=")]
        what = f"config: {', '.join(files)}: no text in UTF-8 ({error})"
        raise ConfigError(f"{what}. Restore a copy, or save it as UTF-8.") from error


def run_config(parser: ArgumentParser, parsed) -> RunConfig:
    try:
        values = parser.instantiate(parsed) if hasattr(parser, "instantiate") else parser.instantiate_classes(parsed)
    except ValueError as error:  # the simulation looks at its values as it is made
        raise ConfigError(f"{error}.") from error
    fields = RunConfig.__dataclass_fields__
    return RunConfig(**{name: values[name] for name in fields})


def join_lists(arguments: Sequence[str]) -> list[str]:
    """``--data.category a b`` -> ``--data.category ["a", "b"]`` for the options that take several values."""
    joined: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if name not in _LISTS:
            joined.append(word)
            continue
        values = [value] if equals else []
        while rest and not rest[0].startswith("--"):
            values.append(rest.pop(0))
        if len(values) == 1 and values[0].startswith("["):
            joined += [name, values[0]]
        else:
            split = [part for v in values for part in v.split(",") if part]
            joined += [name, json.dumps([int(p) if name == "--model.strides" and p.isdigit() else p for p in split])]
    return joined
