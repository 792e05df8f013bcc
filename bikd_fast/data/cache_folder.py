"""Where files are kept that can be made anew."""

import os
from pathlib import Path

from bikd_fast.homes import from_home


def cache_folder(named: str | Path | None = None) -> Path:
    """The folder that was named (``~`` and ``~NAME`` are home folders), or bikd_fast under $XDG_CACHE_HOME or ~/.cache.

    Raises:
        UserError: it starts at a home folder that cannot be found.
    """
    wanted = Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "bikd_fast"
    return from_home(wanted, advice="Name the cache folder (data.cache_dir) without ~.")
