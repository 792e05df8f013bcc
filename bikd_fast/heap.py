"""What a command frees stays in its process: every step, every batch asks for the same memory again.

glibc gives a large block back to the system as soon as it is free, and what it asks for anew the system clears page by page: up to
a fifth of the processor time of a training or a prediction on a CPU, or next to nothing, as the heap happens to lie
(benchmarks/results/heap.csv). It costs memory: a tenth to a fifth more at the peak.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # of glibc's malloc.h
MMAPS, LARGEST = 65536, 32 << 20  # glibc's own limits: how many blocks may lie outside the heap, and from what size at the latest


@contextmanager
def kept() -> Iterator[None]:
    """Keep freed memory for this while, where glibc allocates; what is free at the end is given back.

    Whoever has set malloc by the environment has chosen already.
    """
    library = None if _chosen() else _glibc()
    if library is None:
        yield
        return
    library.mallopt(TRIM_THRESHOLD, -1)
    library.mallopt(MMAP_MAX, 0)
    try:
        yield
    finally:
        library.mallopt(MMAP_MAX, MMAPS)
        # the first of these calls ended glibc's own adjustment of both thresholds, here as far as that would have come
        library.mallopt(MMAP_THRESHOLD, LARGEST)
        library.mallopt(TRIM_THRESHOLD, 2 * LARGEST)
        library.malloc_trim(0)


def _chosen() -> bool:
    return any(name.startswith("MALLOC_") for name in os.environ) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")


def _glibc() -> ctypes.CDLL | None:
    """The process's own C library if it has glibc's calls: not musl, macOS, Windows."""
    try:
        library = ctypes.CDLL(None)
    except (OSError, TypeError):
        return None
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
