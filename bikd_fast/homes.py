"""Paths as people write them: ``~`` and ``~NAME`` are home folders, unless there is a file of that very name."""

from __future__ import annotations

import os
from pathlib import Path

from bikd_fast.errors import UserError


def from_home(path: str | Path, error: type[UserError] = UserError, advice: str = "Write the path out in full.") -> Path:
    """``~`` and ``~NAME`` at its start replaced by the home folder; raises ``error``, ending in ``advice``, where none is known."""
    try:
        return Path(path).expanduser()
    except RuntimeError as problem:
        raise error(f"{path}: no such home folder is known. {advice}") from problem


def there_or_from_home(path: str | Path, error: type[UserError] = UserError) -> Path:
    """The path itself where something is there (a picture may be called ``~a.png``), otherwise as :func:`from_home`."""
    return Path(path) if os.path.exists(path) else from_home(path, error)
