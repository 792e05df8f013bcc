"""The one base of errors that a user can mend: shown as a single line, never as a traceback."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable


class UserError(Exception):
    """Names the file or the key, what was found, and what to do."""


def guarded(main: Callable[[], int | None]) -> int:
    """Run an entry point; an expected error becomes one clear line on stderr and exit code 2, Ctrl-C exit code 130.

    What the terminal cannot show, as in names of files that are not UTF-8, is printed as an escape on stdout as it is on stderr."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return main() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
