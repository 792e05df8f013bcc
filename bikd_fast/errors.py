"""The one base of errors that a user can mend: shown as a single line, never as a traceback."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from collections.abc import Callable

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of a disk; such an error names no file


class UserError(Exception):
    """Names the file or the key, what was found, and what to do."""


def guarded(main: Callable[[], int | None]) -> int:
    """Run an entry point; an expected error, or a file that the system refuses, becomes one clear line on stderr and
    exit code 2; Ctrl-C exit code 130, a reader that has left exit code 141.

    What the terminal cannot show, as in names of files that are not UTF-8, is printed as an escape on stdout as it is on stderr."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return main() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read our output has enough (`| head`): no error of anybody's
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more on its way out
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.filename is None and error.errno not in FULL:
            raise  # of no file: not the user's to mend
        print(f"error: {error.filename or 'while writing'}: {error.strerror}.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
