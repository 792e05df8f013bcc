"""What a search folder keeps of the search itself: its options and state, from which it is taken up."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from bikd_fast.config import ConfigError
from bikd_fast.errors import UserError
from bikd_fast.files import write_text

STATE, RESULTS, GAIN = "search.json", "results.jsonl", "gain.jsonl"
SPACE_FILE = "space.yaml"
NEW_SEED = 1001  # the first of the seeds that gains are measured with: none that a trial was drawn or trained with


@dataclass
class Options:
    """Of a search. The job itself is a :class:`RunConfig`."""

    output: str
    trials: int = 12
    scheduler: str = "asha"
    searcher: str = "random"
    objective: str = "simulated"
    validation: str | None = None
    space: str | None = None
    first: tuple[str, ...] = ()
    latency: bool = False
    categories: int = 3
    gain_seeds: int = 3
    address: str | None = None
    storage: str | None = None
    gpus_per_trial: float | None = None
    ranks_per_trial: int = 1


def remember(options: Options, base: dict[str, Any], **more: Any) -> None:
    """Write DIR/search.json, from which a search is taken up."""
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / STATE
    before = kept(folder) or {"began": time.time()}
    write_text(path, json.dumps(before | {"options": asdict(options), "base": base} | more, indent=1))


def keep_space(options: Options) -> None:
    """Copy the user's --space file to DIR/space.yaml: a search that is taken up has to find it as it was."""
    if options.space:
        copy = Path(options.output) / SPACE_FILE
        write_text(copy, Path(options.space).read_text())
        options.space = str(copy)


def kept(folder: Path) -> dict[str, Any]:
    """What DIR/search.json holds; empty where there is no search.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / STATE
    try:
        found = json.loads(path.read_text()) if path.is_file() else {}
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: damaged ({error}). Restore a copy, or search anew in another folder.") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: holds no state of a search. Restore a copy, or search anew in another folder.")
    return found


def taken_up(folder: Path) -> tuple[Options, dict[str, Any]]:
    """Options and the job's settings (plain data) of the search in a folder, wherever it lies now.

    Raises:
        UserError: what is kept of it is damaged or not of this version.
    """
    from bikd_fast.search.settings import apply

    found = kept(folder)
    try:
        options = Options(**found["options"] | {"output": str(folder)})
        options.first = tuple(options.first)
        if options.space and (folder / SPACE_FILE).is_file():
            options.space = str(folder / SPACE_FILE)
        apply(found["base"], {})
    except (KeyError, TypeError, ConfigError) as error:
        what = f"missing {error}" if isinstance(error, KeyError) else error
        raise UserError(
            f"{folder / STATE}: does not fit this version of bikd_fast ({what}). Go on with the version that wrote it, or "
            "search anew in another folder."
        ) from error
    return options, found["base"]


def read_settings(path: str) -> dict[str, Any]:
    """Settings of a YAML file, as plain data.

    Raises:
        UserError: it cannot be read.
    """
    from bikd_fast.arguments import load_run
    from bikd_fast.search.settings import plain

    try:
        return plain(load_run(Path(path)))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"first: {path} cannot be read ({error}).") from error
