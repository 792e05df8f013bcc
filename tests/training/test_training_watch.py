"""What a rank makes of another one's end: two processes with a watch each, and no training."""

import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bikd_fast.training.lines import Lines
from bikd_fast.training.place import free_port

SCRIPT = Path(__file__).with_name("watched.py")


@pytest.fixture
def pair():
    """Starts two ranks that watch each other, rank 0 ``late`` seconds after rank 1."""
    started = {}

    def start(silence, *for_rank_1, late=0.0):
        port = free_port()
        for rank, more in ((1, for_rank_1), (0, ())):
            words = [sys.executable, SCRIPT, str(rank), str(port), str(silence), *more]
            started[rank] = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            time.sleep(late * rank)
        assert [started[rank].stdout.readline() for rank in range(2)] == ["ready\n"] * 2
        return [started[0], started[1]]

    yield start
    for rank in started.values():
        rank.kill()
        rank.communicate()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_dies_on_another_machine_is_named_long_before_it_is_silent(pair, victim):
    ranks = pair(100)
    ranks[victim].kill()
    _, said = ranks[1 - victim].communicate(timeout=60)
    assert ranks[1 - victim].returncode == 1
    assert f"error: rank {victim} (process {ranks[victim].pid}" in said and "died" in said


def test_a_process_that_only_falls_silent_is_waited_for_and_not_called_dead(pair):
    """As over a cut link, which tests/e2e cuts for both sides: nothing comes, and nobody hangs up."""
    ranks, victim = pair(8), 1
    ranks[victim].send_signal(signal.SIGSTOP)
    _, said = ranks[1 - victim].communicate(timeout=60)
    assert ranks[1 - victim].returncode == 1
    assert f"no sign of life from rank {victim} (process {ranks[victim].pid}" in said and "died" not in said


def test_sigterm_to_one_rank_ends_the_other_too(pair):
    """And a rank that comes before rank 0 waits for it, without a word: longer than an exchange with the store may take."""
    ranks = pair(100, late=6)
    ranks[1].terminate()
    said = [rank.communicate(timeout=60)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [143, 143] and said == ["", ""]


def test_sigterm_ends_a_rank_that_waits_for_the_one_that_got_it(pair):
    ranks = pair(100, "deaf")
    ranks[0].terminate()
    said = [rank.communicate(timeout=60)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [143, 143]
    assert said == ["", "error: rank 0 was stopped by SIGTERM.\n"]


@pytest.mark.parametrize("failing", [0, 1])
def test_a_rank_that_ends_with_an_error_is_quoted_on_the_other_machine(pair, failing):
    ranks = pair(100)
    ranks[failing].send_signal(signal.SIGUSR1)
    said = [rank.communicate(timeout=60)[1] for rank in ranks]
    assert (ranks[failing].returncode, ranks[1 - failing].returncode) == (2, 1)
    assert said[failing] == "" and said[1 - failing] == f"error: rank {failing} failed: no picture can be read\n"


def within(seconds, what):
    end = time.monotonic() + seconds
    while not what() and time.monotonic() < end:
        time.sleep(0.02)
    return what()


def test_a_closed_line_is_a_suspicion_that_another_call_lifts():
    over = threading.Event()
    ours = Lines(over)
    where = ours.serve()

    def call(word):
        line = socket.create_connection(("127.0.0.1", where["port"]), timeout=5)
        line.sendall(f"{word} 3 ".encode())
        return line

    try:
        first = call(where["word"])
        assert within(5, lambda: ours.open == {3: True})
        first.close()
        assert within(5, lambda: ours.open == {3: False})
        call("stranger").close()
        second = call(where["word"])
        assert within(5, lambda: ours.open == {3: True})
        second.close()
        assert within(5, lambda: ours.open == {3: False})
    finally:
        over.set()


def test_rank_0_is_called_again_after_it_hung_up():
    over = threading.Event()
    ours = Lines(over)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        try:
            ours.call("127.0.0.1", {"port": server.getsockname()[1], "word": "word"}, 3)
            line, _ = server.accept()
            assert line.recv(64) == b"word 3 "
            assert within(5, lambda: ours.open == {0: True})
            line.close()
            assert within(5, lambda: ours.open == {0: False})
            line, _ = server.accept()
            assert within(5, lambda: ours.open == {0: True})
        finally:
            over.set()
            line.close()
