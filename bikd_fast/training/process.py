"""Which process a rank is, and whether a process of this machine lives."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import psutil


def identity() -> dict[str, Any]:
    """Where this process is: machine, process number, and when it began (numbers are used again).

    Processes that cannot see each other, or that have networks of their own, count as being on different machines.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        machine = boot + os.readlink("/proc/self/ns/pid") + os.readlink("/proc/self/ns/net")
    except OSError:
        machine = socket.gethostname()
    return {
        "host": socket.gethostname(),
        "machine": machine,
        "pid": os.getpid(),
        "began": psutil.Process().create_time(),
    }


def lives(where: dict[str, Any]) -> bool:
    """Whether a process of this machine is still there; a zombie is not."""
    try:
        process = psutil.Process(where["pid"])
        return abs(process.create_time() - where["began"]) < 1 and there(process)
    except psutil.Error:
        return False


def there(process: psutil.Process) -> bool:
    """Whether it is more than a zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
