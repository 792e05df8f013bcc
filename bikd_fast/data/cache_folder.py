"""Where files are kept that can be made anew."""

import os
from pathlib import Path


def cache_folder(named: str | Path | None = None) -> Path:
    """The folder that the user named (``~`` is his home), or bikd_fast under $XDG_CACHE_HOME or ~/.cache."""
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bikd_fast"
