"""How an entry point ends: one line for what a user can mend, a traceback for what only we can."""

import errno
import subprocess
import sys

import pytest

from bikd_fast.errors import UserError, guarded


def ending(error):
    def main():
        raise error

    return guarded(main)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("data.root: no such folder."), 2, "error: data.root: no such folder."),
        (FileExistsError(errno.EEXIST, "File exists", "run.py"), 2, "error: run.py: File exists."),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "error: while writing: No space left on device."),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_a_user_can_mend_is_one_line(error, code, line, capsys):
    assert ending(error) == code
    assert capsys.readouterr().err == line + "\n"


@pytest.mark.parametrize("error", [ConnectionResetError(errno.ECONNRESET, "reset"), ValueError("ours")])
def test_what_is_ours_to_mend_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        ending(error)


def test_a_reader_that_has_enough_is_no_error():
    rows = "guarded(lambda: [print('row') for _ in range(100000)] and 0)"
    script = f"import sys; from bikd_fast.errors import guarded; sys.exit({rows})"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "row\n"
        process.stdout.close()
        assert process.stderr.read() == "" and process.wait(60) == 141
