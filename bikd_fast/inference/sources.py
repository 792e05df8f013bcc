"""What the words of a command line stand for: files, folders, globs, a list on standard input, videos, cameras."""

from __future__ import annotations

import glob
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import torch

from bikd_fast.data.listing import SUFFIXES, folders_below, pictures_below
from bikd_fast.errors import UserError
from bikd_fast.homes import there_or_from_home
from bikd_fast.inference.inputs import pixels
from bikd_fast.inference.video import VIDEO_SUFFIXES, VideoError, camera_index, camera_name, frames


class SourceError(UserError):
    """An input is not there, or holds no pictures; the message names it."""


@dataclass(frozen=True)
class Source:
    """One picture to look at.

    name: what it is called in the results: its path as given, FILE#FRAME for a frame.
    stem: its relative path in output folders, without suffix; unique within a run of the command.
    read: gives its pixels, uint8 (3, H, W).
    """

    name: str
    stem: str
    read: Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Inputs:
    """count: of the pictures, None where it cannot be known. live: pictures come in their own time (a pipe, a camera)."""

    sources: Iterable[Source]
    count: int | None
    live: bool


def expand(words: list[str], *, every: int = 1, stdin: TextIO | None = None, without: Sequence[Path] = ()) -> Inputs:
    """Pictures named by words: a file, a folder (searched to the bottom), a glob, a video, ``camera:N``, or ``-`` (paths on stdin).

    every: of a video or camera, only each ``every``-th frame.
    without: folders whose pictures are left out, unless a word itself names something in them.

    Raises:
        SourceError: a word stands for nothing, or for a folder or glob without pictures.
    """
    parts: list[Any] = []
    count: int | None = 0
    live = False
    for word in words:
        if word == "-":
            parts.append(partial(_listed, stdin or _standard_input()))
            count, live = None, True
        elif camera_index(word) is not None:
            parts.append(partial(_frames, camera_name(word), f"camera{camera_index(word)}", every))
            count, live = None, True
        else:
            found = _outside(without, word, _files(word))
            parts.append(partial(_each, found, every))
            count = None if count is None or any(_is_video(source) for source in found) else count + len(found)
    return Inputs(_unique(source for part in parts for source in part()), count, live)


def picture_paths(folder: Path) -> list[Path]:
    """Every picture file in a folder, to the bottom, by name; SourceError if there is none."""
    found = sorted(pictures_below(folder))
    if not found:
        raise SourceError(f"{folder}: no pictures in this folder ({' '.join(sorted(SUFFIXES))}).")
    return found


def _files(word: str) -> list[Source]:
    path = there_or_from_home(word, SourceError)
    if os.path.isfile(path):  # not path.is_file(): for a name that is too long it raises an OSError
        return [_file(path, path.stem)]
    if os.path.isdir(path):
        return _below(path, picture_paths(path))
    if glob.has_magic(word):
        found = _matching(str(path))
        if not found:
            raise SourceError(f"{word}: no file matches.")
        return found
    raise SourceError(f"{word}: no such file or folder.")


def _outside(without: Sequence[Path], word: str, found: list[Source]) -> list[Source]:
    """The sources that lie in none of the folders; all of them if the word is about one of the folders."""
    barred = [os.path.realpath(folder) for folder in without]
    if not barred or _lies_in(barred, word):
        return found
    folders = {os.path.dirname(source.name) for source in found}
    within = {folder for folder in folders if _lies_in(barred, folder)}
    kept = [source for source in found if os.path.dirname(source.name) not in within]
    if not kept:
        raise SourceError(f"{word}: no pictures there but those that this command itself draws.")
    return kept


def _lies_in(folders: list[str], path: str) -> bool:
    real = Path(os.path.realpath(path))
    return any(real.is_relative_to(folder) for folder in folders)


def _matching(pattern: str) -> list[Source]:
    """The files that a glob matches and the pictures in the folders that it matches, each once."""
    found: dict[tuple[str, str], Source] = {}  # by real folder and name
    for path in sorted(Path(p) for p in _globbed(pattern)):
        for source in [_file(path, path.stem)] if path.is_file() else _below(path, sorted(pictures_below(path))):
            folder, name = os.path.split(source.name)
            found.setdefault((os.path.realpath(folder), name), source)
    return list(found.values())


def _globbed(pattern: str) -> list[str]:
    """As glob.glob, but ``**`` looks into each real folder once: Python's own does not end where links lead in circles."""
    parts = Path(pattern).parts
    if "**" not in parts:
        return glob.glob(pattern)
    at = parts.index("**")
    starts = [Path(p) for p in glob.glob(str(Path(*parts[:at])))]
    if at + 1 == len(parts):
        return [str(start) for start in starts]  # which is searched to the bottom
    shut: list[Path] = []
    places = [place for start in starts for place in folders_below(start, shut)]
    found = [p for place in places for p in _globbed(os.path.join(glob.escape(str(place)), *parts[at + 1 :]))]
    return found + [str(folder) for folder in shut]


def _below(folder: Path, paths: Iterable[Path]) -> list[Source]:
    return [_file(p, str(p.relative_to(folder).parent / p.stem)) for p in paths]


def _file(path: Path, stem: str) -> Source:
    return Source(str(path), stem, partial(pixels, path))


def _standard_input() -> TextIO:
    """Names in any encoding can be read from it."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    return sys.stdin


def _listed(stream: TextIO) -> Iterator[Source]:
    """One path a line; empty lines are passed over. A path that is not there becomes an unreadable picture, not the end."""
    for line in stream:
        if word := line.rstrip("\r\n"):
            yield _file(Path(word), Path(word).stem)


def _is_video(source: Source) -> bool:
    return os.path.splitext(source.name)[1].lower() in VIDEO_SUFFIXES


def _each(found: Iterable[Source], every: int) -> Iterator[Source]:
    """The files, frames in place of a video. One that cannot be read, from some frame on, ends in an unreadable picture."""
    for source in found:
        if not _is_video(source):
            yield source
            continue
        try:
            yield from _frames(source.name, Path(source.name).stem, every)
        except VideoError as error:
            yield Source(source.name, source.stem, partial(_fail, error))


def _fail(error: UserError) -> torch.Tensor:
    raise error


def _frames(name: str, stem: str, every: int) -> Iterator[Source]:
    for number, frame in frames(name, every):
        yield Source(f"{name}#{number}", f"{stem}/{number:06d}", partial(_same, frame))


def _same(frame: torch.Tensor) -> torch.Tensor:
    return frame


def _unique(sources: Iterable[Source]) -> Iterator[Source]:
    """The same sources; a stem seen before gets a number, so that no output file overwrites another."""
    seen: dict[str, int] = {}
    for source in sources:
        stem, times = source.stem, seen.get(source.stem, 0)
        while times and stem in seen:
            times += 1
            stem = f"{source.stem}-{times}"
        seen[source.stem] = max(1, times)
        seen.setdefault(stem, 1)
        yield source if stem == source.stem else Source(source.name, stem, source.read)
