"""One process at a time, on one machine or on a shared disk that knows locks."""

import contextlib
import os
import socket
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


@contextlib.contextmanager
def held(lock: Path) -> Iterator[str | None]:
    """Hold an advisory lock on a file, made if need be, without waiting; gives who holds it where that is another process.

    Freed by the system however the process ends, SIGKILL included, and not inherited by children that outlive it. A process may
    not ask for a lock that it holds. Where the system has no such locks nobody holds it."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield None
        return
    with lock.open("ab+", buffering=0) as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # POSIX leaves open which
            file.seek(0)
            yield file.read().decode(errors="replace") or "process unknown"
            return
        except OSError:  # some network disks
            pass
        with contextlib.suppress(OSError):  # a full disk: the lock holds without a name in it
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield None
