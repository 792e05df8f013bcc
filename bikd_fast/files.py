"""Files that are whole or not there: whoever is killed while writing one leaves the one before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` to write to; what lies there at the end is synced to the disk and becomes ``path``.

    The name is the same every time: what a killed process has left there is written over. Nobody else may write ``path`` meanwhile.
    """
    temporary = path.with_name(f".writing-{path.name}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Like ``path.write_text``, whole; a file that says so already is left as it is."""
    if path.is_file() and path.read_text() == text:
        return
    with whole(path) as temporary:
        temporary.write_text(text)


def _sync_folder(folder: Path) -> None:
    """The new name itself is on disk before anything that it replaces goes."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
