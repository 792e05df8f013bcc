"""The ladder: for every distinct score of an anomalous pixel, how many pixels of the set score below it and exactly it.

Only anomalous pixels (1-4 % of all) matter as thresholds: every metric of metrics/closed_form.py follows from these
integers, so nothing but the anomalous scores needs to be sorted as a whole. The rest is sorted chunk by chunk, in any
order, on any number of threads or ranks, and counted; integers add up to the same sum however they are split.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from bikd_fast.metrics.inputs import Plane, fit, nan_error


@dataclass(frozen=True)
class Ladder:
    """V rungs (distinct anomalous scores, ascending) over P anomalous and N normal pixels (or pictures).

    Attributes:
        values: float32 or float64 (V,), the rungs.
        positives: int64 (V,), anomalous ones exactly at each rung; their sum is P.
        below: int64 (V,), normal ones below each rung.
        at: int64 (V,), normal ones exactly at each rung.
        negatives: N.
    """

    values: np.ndarray
    positives: np.ndarray
    below: np.ndarray
    at: np.ndarray
    negatives: int

    @property
    def above(self) -> np.ndarray:
        """int64 (V,): normal ones above each rung, a(v)."""
        return self.negatives - self.below - self.at

    @property
    def reached(self) -> np.ndarray:
        """int64 (V,): normal ones at or above each rung, b(v): false positives at the threshold v."""
        return self.negatives - self.below

    @property
    def found(self) -> np.ndarray:
        """int64 (V,): anomalous ones at or above each rung: true positives at the threshold v."""
        return np.cumsum(self.positives[::-1])[::-1]


def rungs(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values of a sorted array (P,), ascending, and how often each occurs (int64). -0.0 equals 0.0."""
    first = np.ones(scores.size, bool)
    np.not_equal(scores[1:], scores[:-1], out=first[1:])
    start = np.flatnonzero(first)
    return scores[start], np.diff(np.append(start, scores.size))


def build(values: np.ndarray, positives: np.ndarray, below: np.ndarray, at: np.ndarray, total: int) -> Ladder:
    """Ladder from counts over all pixels (anomalous ones included): take the anomalous ones away."""
    lower = np.cumsum(positives) - positives
    return Ladder(values, positives, below - lower, at - positives, total - int(positives.sum()))


def ladder_of(scores: np.ndarray, labels: np.ndarray) -> Ladder:
    """Ladder of N scores with 0/1 labels, small enough for one sort (pictures rather than pixels)."""
    values, positives = rungs(np.sort(scores[labels != 0]))
    everything = np.sort(scores)
    left = np.searchsorted(everything, values, "left")
    return build(values, positives, left, np.searchsorted(everything, values, "right") - left, scores.size)


def count_pixels(
    maps: Sequence[Plane],
    sizes: Sequence[tuple[int, int]],
    values: np.ndarray,
    *,
    images: Sequence[int] | None = None,
    memory_mb: float = 128.0,
    threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """How many pixels of the maps lie below, and how many exactly at, each of V ascending values: int64 (V,) twice.

    Args:
        maps: NumPy maps (H, W); one whose size differs from its entry in sizes is resized on the fly (inputs.fit).
        sizes: (height, width) of each map's mask.
        values: rungs, in the dtype the pixels are compared in.
        images: which of the maps to count; default: all.
        memory_mb: memory for sorting, all threads together; each thread needs 32 bytes a rung besides.
        threads: default: the cores this process may use.

    Raises:
        ValueError: a map holds NaN (the message says which).
    """
    threads = threads or usable_cores()
    images = range(len(maps)) if images is None else images
    pixels = sum(sizes[i][0] * sizes[i][1] for i in images)
    chunk = max(int(memory_mb * 1e6 / values.dtype.itemsize / threads), 1 << 16)
    chunk = min(chunk, -(-pixels // threads))  # a small set is split among the threads too
    chunk = min(chunk, 1 << 24)  # beyond this, sorting costs more than it saves in searching
    jobs = _chunks(sizes, images, chunk)
    threads = min(threads, max(1, -(-pixels // max(chunk, 1))))
    lock = threading.Lock()

    def next_job() -> list[tuple[int, int, int]] | None:
        with lock:
            return next(jobs, None)

    def work(_: int) -> tuple[np.ndarray, np.ndarray]:
        return _count(maps, sizes, values, chunk, next_job)

    if threads == 1:
        return work(0)
    with ThreadPoolExecutor(threads) as pool:
        parts = list(pool.map(work, range(threads)))
    below, at = parts[0]
    for other_below, other_at in parts[1:]:
        below += other_below
        at += other_at
    return below, at


def usable_cores() -> int:
    """Cores this process may run on, at most 16 (memory, not arithmetic, bounds the sort beyond that)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return min(cores, 16)


def _chunks(
    sizes: Sequence[tuple[int, int]], images: Sequence[int], chunk: int
) -> Iterator[list[tuple[int, int, int]]]:
    """The pixels of the set cut into chunks: lists of (image, first pixel, last pixel + 1)."""
    job: list[tuple[int, int, int]] = []
    room = chunk
    for image in images:
        start, stop = 0, sizes[image][0] * sizes[image][1]
        while start < stop:
            take = min(stop - start, room)
            job.append((image, start, start + take))
            start += take
            room -= take
            if room == 0:
                yield job
                job, room = [], chunk
    if job:
        yield job


def _count(
    maps: Sequence[Plane],
    sizes: Sequence[tuple[int, int]],
    values: np.ndarray,
    chunk: int,
    next_job: Callable[[], list[tuple[int, int, int]] | None],
) -> tuple[np.ndarray, np.ndarray]:
    buffer = np.empty(chunk, values.dtype)
    below = np.zeros(values.size, np.int64)
    at = np.zeros(values.size, np.int64)
    while (job := next_job()) is not None:
        used = 0
        for image, start, stop in job:
            flat = fit(maps[image], sizes[image]).reshape(-1)
            buffer[used : used + stop - start] = flat[start:stop]
            used += stop - start
        keys = buffer[:used]
        keys.sort()
        if np.isnan(keys[-1]):  # sorting puts NaN last, so this one look finds any
            raise nan_error(next(i for i, _, _ in job if np.isnan(maps[i]).any()))
        left = np.searchsorted(keys, values, "left")
        below += left
        # Only rungs that occur in this chunk can have a different right end.
        here = np.flatnonzero(keys[np.minimum(left, used - 1)] == values)
        at[here] += np.searchsorted(keys, values[here], "right") - left[here]
    return below, at
