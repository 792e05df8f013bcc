"""Files that are whole or not there: whoever is killed while writing one leaves the one before."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bikd_fast.errors import FULL, UserError


class FullError(UserError):
    """No room for a file: the disk is full or a quota is used up; the message names the file."""


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` to write to; what lies there at the end is synced to the disk and becomes ``path``.

    The name is the same every time: what a killed process has left there is written over. Nobody else may write ``path`` meanwhile.

    Raises:
        FullError: there is no room for it; what was at ``path`` before is still there.
    """
    temporary = path.with_name(f".writing-{path.name}")
    try:
        temporary.unlink(missing_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        if temporary.stat().st_mode != mode:  # safetensors puts a file there that only its owner may read
            temporary.chmod(mode)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except Exception as error:
        number = _refusal(error)
        if number in FULL:
            raise FullError(
                f"{path}: {os.strerror(number)}. Make room and give the same command again: a run goes on from its last checkpoint."
            ) from error
        if number and not isinstance(error, OSError):
            raise OSError(number, os.strerror(number), str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Like ``path.write_text``, whole; a file that says so already is left as it is."""
    if path.is_file() and path.read_text() == text:
        return
    with whole(path) as temporary:
        temporary.write_text(text)


def _refusal(error: Exception) -> int:
    """What the system said no with (an errno), also where safetensors tells it, as text; 0 for other errors."""
    if isinstance(error, OSError):
        return error.errno or 0
    said = re.search(r"\b(?:os error|code:) (\d+)", str(error)) if type(error).__name__ == "SafetensorError" else None
    return int(said[1]) if said else 0


def _sync_folder(folder: Path) -> None:
    """The new name itself is on disk before anything that it replaces goes."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
