"""Who a process is among those that train together: the environment variables that launchers leave, under one set of names."""

from __future__ import annotations

import io
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

import psutil

from bikd_fast.errors import UserError

_FOREIGN = {  # launchers other than DeepSpeed's name the same things otherwise
    "RANK": ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"),
    "WORLD_SIZE": ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"),
    "LOCAL_RANK": ("SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID"),
    "LOCAL_SIZE": ("LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"),
}
_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT", "GLOO_SOCKET_IFNAME")
_GRACE = 15.0  # seconds; launchers take one or two to end a job one of whose ranks has failed, more on a busy machine
_before: dict[str, str | None] = {}  # these variables as settle found them


def translate() -> None:
    """Give other launchers' variables DeepSpeed's names where these are missing."""
    for name, others in _FOREIGN.items():
        found = next((os.environ[o] for o in others if o in os.environ), None)
        if name not in os.environ and found is not None and "MASTER_ADDR" in os.environ:
            os.environ[name] = found


def settle() -> None:
    """Complete the variables: a world of one at a free port where no launcher said otherwise."""
    _before.update({name: os.environ.get(name) for name in _NAMES})
    translate()
    os.environ.setdefault("RANK", "0")
    os.environ.setdefault("WORLD_SIZE", "1")
    os.environ.setdefault("LOCAL_RANK", "0")
    if "MASTER_ADDR" not in os.environ:
        os.environ["MASTER_ADDR"] = "127.0.0.1"
        os.environ["MASTER_PORT"] = str(free_port())
    os.environ.setdefault("MASTER_PORT", "29500")
    if os.environ["WORLD_SIZE"] != "1":
        _name_interface(os.environ["MASTER_ADDR"])


def restore() -> None:
    """As it was before :func:`settle`: processes started later are not to take this one's place for theirs."""
    for name, value in _before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    _before.clear()


def alone() -> None:
    """Forget what a launcher said: this process is to be a world of its own, at a port of its own."""
    for name in _NAMES:
        os.environ.pop(name, None)


def _name_interface(master: str) -> None:
    """gloo advertises 127.0.0.1 unless told which interface leads to the others; other hosts then wait for ever."""
    if "GLOO_SOCKET_IFNAME" in os.environ:
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((master, 9))
        except OSError:
            return
        local = probe.getsockname()[0]
    for name, addresses in psutil.net_if_addrs().items():
        if any(a.address == local for a in addresses):
            os.environ["GLOO_SOCKET_IFNAME"] = name
            return


def free_port() -> int:
    """A TCP port that nobody listens at just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def said_once() -> Iterator[None]:
    """What all ranks of a job find wrong before they know of each other is said by the first one of each machine.

    The others hold their tongue until the launcher has ended them; a rank that still lives was alone with its error, and says it.
    """
    names = ("LOCAL_RANK", *_FOREIGN["LOCAL_RANK"])
    if next((os.environ[name] for name in names if name in os.environ), "0") == "0":
        yield
        return
    heard = io.StringIO()
    try:
        with redirect_stderr(heard):
            yield
    except (UserError, SystemExit):
        time.sleep(_GRACE)
        raise
    finally:
        sys.stderr.write(heard.getvalue())
