"""The one base of errors that a user can mend: shown as a single line, never as a traceback."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr

_LOCAL_RANK = ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID")
_GRACE = 15.0  # seconds; launchers take one or two to end a job one of whose ranks has failed, more on a busy machine


class UserError(Exception):
    """Names the file or the key, what was found, and what to do."""


def guarded(main: Callable[[], int | None]) -> int:
    """Run an entry point; an expected error becomes one clear line on stderr and exit code 2, Ctrl-C exit code 130."""
    try:
        return main() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


@contextmanager
def said_once() -> Iterator[None]:
    """What all ranks of a job find wrong before they know of each other is said by the first one of each machine.

    The others hold their tongue until the launcher has ended them; a rank that still lives was alone with its error, and says it.
    """
    if next((os.environ[name] for name in _LOCAL_RANK if name in os.environ), "0") == "0":
        yield
        return
    heard = io.StringIO()
    try:
        with redirect_stderr(heard):
            yield
    except (UserError, SystemExit):
        time.sleep(_GRACE)
        raise
    finally:
        sys.stderr.write(heard.getvalue())
