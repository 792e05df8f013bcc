"""Reading ahead: order, bounds, errors, live inputs."""

import threading
import time

import pytest

from bikd_fast.inference.pipeline import in_batches


def test_order_is_kept_and_batches_are_full():
    def load(i):
        time.sleep(0.002 * (i % 3))
        return i * i

    found = list(in_batches(range(11), load, 4, first=1))
    assert found == [[0], [1, 4, 9, 16], [25, 36, 49, 64], [81, 100]]
    assert list(in_batches([], load, 4)) == []


def test_no_more_is_loaded_ahead_than_allowed():
    loaded = []
    stream = in_batches(range(1000), lambda i: loaded.append(i), 2, ahead=4)
    next(stream)
    time.sleep(0.2)
    assert len(loaded) <= 2 + 4 + 2  # handed over, waiting, and the one that does not fit yet
    stream.close()
    seen = len(loaded)
    time.sleep(0.15)
    assert len(loaded) <= seen + 1


def test_an_error_comes_in_its_turn():
    def load(i):
        if i == 5:
            raise ValueError("five")
        return i

    stream = in_batches(range(9), load, 2)
    assert [next(stream), next(stream)] == [[0, 1], [2, 3]]
    with pytest.raises(ValueError, match="five"):
        next(stream)


def test_an_error_of_the_items_is_not_lost():
    def items():
        yield 1
        raise OSError("pipe broken")

    stream = in_batches(items(), lambda i: i, 1)
    assert next(stream) == [1]
    with pytest.raises(OSError, match="pipe broken"):
        next(stream)


def test_a_live_input_is_not_kept_waiting_for_a_full_batch():
    more = threading.Event()

    def items():
        yield 1
        assert more.wait(10)
        yield 2

    stream = in_batches(items(), lambda i: i, 8, live=True)
    assert next(stream) == [1]  # a batch of 8 would wait for ever
    more.set()
    assert next(stream) == [2]
