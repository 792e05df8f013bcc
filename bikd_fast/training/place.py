"""Who a process is among those that train together: the environment variables that launchers leave, under one set of names."""

from __future__ import annotations

import io
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

import psutil

from bikd_fast.errors import UserError

_PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE")
_FAMILIES = (  # launchers other than DeepSpeed's name the same things otherwise; the first whose rank and size are there is asked
    ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),  # torchrun
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),  # MPICH, Intel; srun sets the first two as well
    ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"),  # last: a shell of sbatch hands them to mpirun
)
_ON_NODES = "SLURM_STEP_TASKS_PER_NODE"  # of every node in turn; SLURM_NTASKS_PER_NODE is there only where it was asked for
_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT", "GLOO_SOCKET_IFNAME")
_GRACE = 15.0  # seconds; launchers take one or two to end a job one of whose ranks has failed, more on a busy machine
_before: dict[str, str | None] = {}  # these variables as settle found them


def translate() -> None:
    """Give another launcher's variables DeepSpeed's names where these are missing."""
    if "MASTER_ADDR" in os.environ:
        for name, value in _said().items():
            os.environ.setdefault(name, value)


def _said() -> dict[str, str]:
    """This process's place by DeepSpeed's names, all of one launcher: the innermost, and one that agrees with what is set already.

    srun's variables are taken for MPI's where both say the same, because it leaves out MPI's local ones.
    """
    here = os.environ
    families = [f for f in _FAMILIES if f[0] in here and f[1] in here]
    agreeing = [f for f in families if all(here.get(name, here[other]) == here[other] for name, other in zip(_PLACE[:2], f))]
    if not agreeing:
        return {}
    first = agreeing[0]
    same = (f for f in agreeing if f[2] in here and all(here[a] == here[b] for a, b in zip(f[:2], first)))
    best = first if first[2] in here else next(same, first)
    found = {name: here[other] for name, other in zip(_PLACE, best) if other in here}
    tasks = _tasks_per_node(here.get(_ON_NODES, "")) if best[0].startswith("SLURM") else []
    node = here.get("SLURM_NODEID", "")
    if node.isdigit() and int(node) < len(tasks):
        found["LOCAL_SIZE"] = str(tasks[int(node)])
    return found


def _tasks_per_node(text: str) -> list[int]:
    """``8(x2),3`` -> [8, 8, 3]; [] where it is written otherwise."""
    parts = [re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part) for part in text.split(",")]
    return [int(part[1]) for part in parts if part for _ in range(int(part[2] or 1))] if all(parts) else []


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
    if os.environ.get("LOCAL_RANK", _said().get("LOCAL_RANK", "0")) == "0":
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
