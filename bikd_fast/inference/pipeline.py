"""Reading ahead: items are loaded on threads while the network runs, in order, with a bounded number held at once. On a CPU several
batches run side by side."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from bikd_fast.data.threads import default_threads

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")
Made = TypeVar("Made")
MOST = 4  # batches side by side, which bounds what they take
_END = object()


def in_batches(
    items: Iterable[Item],
    load: Callable[[Item], Loaded],
    batch: int,
    *,
    first: int | None = None,
    live: bool = False,
    ahead: int | None = None,
) -> Iterator[list[Loaded]]:
    """Lists of up to ``batch`` loaded items, in the order of the items; an error of an item or of ``load`` is raised in its turn.

    Args:
        items: read on a thread of its own, so that it may block (a pipe, a camera).
        load: run on threads, several items at a time.
        first: length of the first list, so that a first result need not wait for a whole batch.
        live: hand over what is ready instead of waiting until a batch is full.
        ahead: items loaded or waiting at most, besides those handed over; default two batches.
    """
    waiting: queue.Queue[Future[Loaded] | object] = queue.Queue(maxsize=2 * batch if ahead is None else max(1, ahead))
    stop = threading.Event()
    pool = ThreadPoolExecutor(default_threads(), thread_name_prefix="load")

    def put(entry: Future[Loaded] | object) -> bool:
        while not stop.is_set():
            try:
                waiting.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def feed() -> None:
        try:
            for item in items:
                if stop.is_set() or not put(pool.submit(load, item)):
                    return
        except BaseException as error:
            failed: Future[Loaded] = Future()
            failed.set_exception(error)
            put(failed)
        put(_END)

    feeder = threading.Thread(target=feed, name="feed", daemon=True)  # daemon: it may be blocked in a pipe for ever
    feeder.start()
    try:
        wanted = batch if first is None else first
        while (loaded := _take(waiting, wanted, live))[0]:
            yield loaded[0]
            if loaded[1]:
                return
            wanted = batch
    finally:
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)
        feeder.join(1)  # left alone, it may be the last to let go of a network, and aborts a process that is on its way out


def _take(waiting: queue.Queue, wanted: int, live: bool) -> tuple[list, bool]:
    """Up to ``wanted`` results, and whether the end was reached."""
    taken: list = []
    while len(taken) < wanted:
        if live and taken and waiting.empty():
            return taken, False
        entry = waiting.get()
        if entry is _END:
            return taken, True
        taken.append(entry.result())
    return taken, False


def side_by_side(work: Callable[[Item], Made], items: Iterable[Item], workers: int) -> Iterator[Made]:
    """``work`` of each item, in order, ``workers`` at a time; each has its share of the threads that torch may use here.

    A network on all cores waits for the slowest of them in every layer, and whatever else runs beside it (reading, drawing) makes
    one of them slow. Whole batches on a core each do not wait for each other.
    """
    if workers == 1:
        yield from map(work, items)
        return
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, "work", torch.set_num_threads, (max(1, threads // workers),))
    waiting: deque[Future[Made]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            while len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # what new threads start from
