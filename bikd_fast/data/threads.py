"""The same work on many items, on all cores, in order, with progress."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tqdm import tqdm

Result = TypeVar("Result")


def default_threads() -> int:
    """The cores this process may use, at most 16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(16, cores)


def on_threads(work: Callable[[int], Result], count: int, name: str, threads: int | None = None) -> Iterator[Result]:
    """work(0), work(1), ... in order. The first error in order ends it, and what has not begun is not begun.

    name: said beside a bar that is drawn on a terminal once it takes longer than two seconds."""
    pool = ThreadPoolExecutor(threads or default_threads())
    try:
        yield from tqdm(pool.map(work, range(count)), total=count, desc=name, delay=2, leave=False, disable=None)
    finally:
        pool.shutdown(cancel_futures=True)
