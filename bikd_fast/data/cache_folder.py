"""Where files are kept that can be made anew."""

import os
from pathlib import Path

from bikd_fast.errors import UserError


def cache_folder(named: str | Path | None = None) -> Path:
    """The folder that was named (``~`` and ``~NAME`` are home folders), or bikd_fast under $XDG_CACHE_HOME or ~/.cache.

    Raises:
        UserError: it starts at a home folder that cannot be found.
    """
    wanted = Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "bikd_fast"
    try:
        return wanted.expanduser()
    except RuntimeError as error:
        raise UserError(f"{wanted}: no such home folder is known. Name the cache folder (data.cache_dir) without ~.") from error
