"""Reading ahead: order, bounds, errors, live inputs."""

import threading
import time

import pytest
import torch

from bikd_fast.inference.look import look
from bikd_fast.inference.pipeline import in_batches, side_by_side
from bikd_fast.inference.sources import expand


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


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


def test_whoever_feeds_has_ended_when_the_stream_is_closed_unless_it_is_blocked():
    before, never = set(threading.enumerate()), threading.Event()

    def blocked():
        yield 0
        never.wait(20)

    for items, left in ((range(1000), 0), (blocked(), 1)):
        stream = in_batches(items, lambda i: i, 1, ahead=2, live=True)
        next(stream)
        time.sleep(0.05)  # it waits for room, or for its next item
        stream.close()
        feeding = {thread for thread in threading.enumerate() if thread.name == "feed"} - before
        assert len(feeding) == left
    never.set()


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


def test_side_by_side_keeps_the_order_and_the_threads_of_its_caller(two_threads):
    inside = []

    def work(item):
        inside.append((threading.get_ident(), torch.get_num_threads()))
        time.sleep(0.02 * (item % 3 == 0))  # the first of three is the slowest
        return item * item

    assert list(side_by_side(work, range(20), 2)) == [i * i for i in range(20)]
    assert len({thread for thread, _ in inside}) == 2 and {count for _, count in inside} == {1}
    assert torch.get_num_threads() == 2


def test_side_by_side_raises_an_error_in_its_turn_and_takes_no_more_than_it_needs():
    taken = []

    def items():
        for i in range(100):
            taken.append(i)
            yield i

    def work(item):
        if item == 3:
            raise ValueError("the fourth")
        return item

    seen = []
    with pytest.raises(ValueError, match="the fourth"):
        for found in side_by_side(work, items(), 2):
            seen.append(found)
    assert seen == [0, 1, 2] and len(taken) <= 6


def test_batches_side_by_side_find_what_one_after_the_other_does(detector, pictures, two_threads):
    files = [str(pictures)]
    together = list(look(detector, expand(files), batch=2))
    torch.set_num_threads(1)
    alone = list(look(detector, expand(files), batch=2))
    assert [r.source.name for r in together] == [r.source.name for r in alone] and len(alone) == 10
    for ours, known in zip(together, alone):
        assert ours.score == pytest.approx(known.score, rel=1e-4)
        assert abs(ours.map - known.map).max() < 1e-4
    assert len({round(r.score, 6) for r in alone}) > 5  # another order would show
