"""A lock that another process holds."""

import subprocess
import sys
from contextlib import contextmanager

ASKING = "import fcntl, sys; file = open(sys.argv[1], 'a'); fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)"


@contextmanager
def another(lock):
    """Another process that holds ``lock`` until it is killed."""
    script = f"{ASKING}; print('held', flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", script, str(lock)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()
