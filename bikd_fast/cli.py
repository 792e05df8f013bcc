"""The console script: `bikd COMMAND ...` is `python bikd_fast/COMMAND.py ...`."""

from __future__ import annotations

import sys
from importlib import import_module

from bikd_fast.errors import guarded

COMMANDS = {
    "train": "train a detector from good pictures",
    "evaluate": "measure the detectors of a run on its labelled pictures",
    "predict": "find defects in pictures, folders, videos",
    "export": "write a detector for another runtime, checked against it",
    "serve": "judge pictures over HTTP: upload page and JSON API",
    "compare": "runs side by side, differences with intervals",
    "simulate": "a contact sheet of simulated defects on pictures of yours",
}


def main() -> int:
    """Dispatch to an entry point; the rest of the line is its own."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help", "help"):
        print("usage: bikd COMMAND ...\n\n" + "\n".join(f"  {name:<10} {what}" for name, what in COMMANDS.items()))
        return 0
    command = words[0]
    if command not in COMMANDS:
        print(f"error: no command {command!r}; there are: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return guarded(lambda: import_module(f"bikd_fast.{command}").main(words[1:]))


if __name__ == "__main__":
    sys.exit(main())
