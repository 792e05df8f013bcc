"""One process at a time, on one machine or on a shared disk that knows locks."""

import contextlib
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Hold an advisory lock on a file, made if need be; freed by the system however the process ends.

    Where the system has no such locks the block runs without: callers rename finished work into place, so that a
    second writer costs time and nothing else."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with lock.open("w") as file:
        with contextlib.suppress(OSError):  # some network disks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
