"""How much memory pictures may take before they lie in files instead."""

import os
from pathlib import Path

import psutil

MEMORY_SHARE = 0.25  # of the machine's memory that the pictures of one detector may take, all ranks of the machine together


def memory() -> int:
    """Bytes that this machine has, or that its container may use."""
    whole = psutil.virtual_memory().total
    try:
        return min(whole, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no container, or no limit ("max")
        return whole


def allowed(limit_gb: float) -> float:
    """Bytes for pictures on this machine: ``limit_gb``, or where it is 0 :data:`MEMORY_SHARE` of its memory."""
    return limit_gb * 1e9 if limit_gb else MEMORY_SHARE * memory()


def local_size() -> int:
    """Ranks on this machine, as the launcher says; 1 where none did."""
    return int(os.environ.get("LOCAL_SIZE", "1"))
