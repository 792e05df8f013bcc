"""Ranks: who this process is, how it finds the others, how it ends with them, and what must be true before DeepSpeed starts."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NoReturn

import psutil
import torch
import torch.distributed as dist

from bikd_fast.data.room import local_size
from bikd_fast.errors import UserError
from bikd_fast.training import place
from bikd_fast.training.watch import LOST, STOPPED, Watch

_LAUNCHERS = re.compile(r"deepspeed|torchrun|torch\.distributed|mpirun|mpiexec|orted|prte|hydra|slurmstepd")
SILENCE = 45.0  # seconds
_PATIENCE = timedelta(days=7)  # of collectives: that a rank is lost is the watch's to find out, and a busy one is waited for


@dataclass(frozen=True)
class Ranks:
    """This process among those that train one detector together: ``rank`` of ``world``, and the device it computes on.

    Attributes:
        place, places: which of how many such worlds the job consists of; several where categories are trained side by side.
        watch: the thread that knows whether the other ranks live.
        control: a group for what the hosts agree on, over gloo; None in a world of one.
    """

    rank: int
    world: int
    device: torch.device
    place: int = 0
    places: int = 1
    watch: Watch | None = field(default=None, compare=False)
    control: Any = field(default=None, compare=False)

    @property
    def first(self) -> bool:
        """Whether this process writes for its world."""
        return self.rank == 0

    @property
    def leads(self) -> bool:
        """Whether this process writes for the whole job."""
        return self.rank == 0 and self.place == 0


class Terminated(SystemExit):
    """Stopped by SIGTERM: what is on disk stays whole, the exit code is the shell's for this signal.

    Attributes:
        agreed: all ranks of this world end here together.
    """

    def __init__(self, agreed: bool = False) -> None:
        super().__init__(STOPPED)
        self.agreed = agreed


class Termination:
    """SIGTERM: inside the loop a wish that the ranks agree about at the end of a step, outside it the end at once.

    Whichever rank gets it, the watch passes it on to all others.
    """

    def __init__(self) -> None:
        self.wished = self.deferred = False
        self.watch: Watch | None = None

    def __call__(self, signum: int, frame: Any) -> None:
        self.wished = True
        if self.watch is not None:
            self.watch.lost()  # a launcher sends SIGTERM to the rest when a rank has died: then say so, and end
            self.watch.stopping = True
        if not self.deferred:
            self.heed()

    def heed(self) -> None:
        """End now if that was wished, be it too late for the ranks to agree about it."""
        if self.wished and not (self.watch and self.watch.ending):
            print("SIGTERM: stopping. The same command goes on from here.", file=sys.stderr, flush=True)
            raise Terminated


termination = Termination()
_started: list[Ranks] = []


def job_size() -> int:
    """Ranks of the job, as the launcher's environment says; needs no process group."""
    place.translate()
    return int(os.environ.get("WORLD_SIZE", "1"))


def start(silence: float = SILENCE, apart: bool = False) -> Ranks:
    """Join the process group (DeepSpeed's, over NCCL or gloo), a group of one where no launcher started us.

    Args:
        silence: seconds without a sign of life after which a rank is given up and the job ends.
        apart: every rank of the job is a world of its own, training its own categories.

    Raises:
        UserError: the other ranks cannot be reached.
    """
    place.settle()
    launcher = _bind_to_launcher()
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    apart = apart and size > 1
    if apart:
        # torchrun serves a store there already, and would have our own group of one look for it too
        if os.environ.pop("TORCHELASTIC_USE_AGENT_STORE", "") != "True" and rank == 0:
            _serve(port)
        os.environ.update(RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(place.free_port()))
    device = _join()
    watch = Watch(rank, size, address, port, silence, launcher, apart)
    if _signals_reach_us():
        termination.watch = watch
        signal.signal(signal.SIGTERM, termination)
    watch.start()  # which may send us SIGTERM
    if apart:
        ranks = Ranks(0, 1, device, rank, size, watch)
    else:
        control = dist.new_group(backend="gloo", timeout=_PATIENCE) if size > 1 else None
        ranks = Ranks(dist.get_rank(), dist.get_world_size(), device, watch=watch, control=control)
    _started.append(ranks)
    return ranks


def share_cores(local_ranks: int) -> None:
    """One share of the cores a rank: ranks whose threads wait for each other's cores lose far more than they gain.

    Args:
        local_ranks: ranks that compute on this machine at the same time; 1 once the others wait.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local_ranks))


def _join() -> torch.device:
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    local = int(os.environ["LOCAL_RANK"])
    if torch.cuda.is_available():
        device = torch.device("cuda", local % torch.cuda.device_count())
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
        share_cores(local_size())
    if get_accelerator().device_name() == "cpu":
        # DeepSpeed would compile a shared-memory all-reduce that training never calls: 45 s, and a crash without a compiler.
        from deepspeed.ops import __compatible_ops__

        __compatible_ops__["deepspeed_shm_comm"] = False
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        try:
            deepspeed.init_distributed(dist_backend=backend, timeout=timedelta(minutes=10), verbose=False)
        except dist.DistError as error:
            where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            first_line = str(error).splitlines()[0]
            raise UserError(
                f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']} cannot meet the others at {where} (MASTER_ADDR and "
                f"MASTER_PORT): {first_line}. Is the port free, and open between the machines?"
            ) from error
    return device


def stop() -> None:
    """Leave the process group, after everybody has arrived here."""
    ranks = _started.pop() if _started else None
    if ranks is not None and ranks.watch is not None:
        ranks.watch.leave()
        termination.watch = None
    if dist.is_initialized():
        dist.destroy_process_group()
        from deepspeed.utils import groups

        groups._WORLD_GROUP = None  # DeepSpeed would go on using it in a process that starts again
    if _signals_reach_us() and signal.getsignal(signal.SIGTERM) is termination:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    place.restore()


def together(work: Callable[[Ranks], None], silence: float = SILENCE, apart: bool = False) -> None:
    """Start, work, stop; an error of this rank ends the job with one message, and another rank's end is told as what it is.

    With several ranks it does not return: the process ends here, because threads of gloo have been seen to abort the
    interpreter's own way out after everything was done.
    """
    ranks = start(silence, apart)
    assert ranks.watch is not None
    try:
        work(ranks)
        ranks.watch.leave()
    except Terminated as error:
        if ranks.watch.world == 1:
            raise
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # told is told
        if error.agreed and ranks.places == 1:
            ranks.watch.leave()
        else:
            ranks.watch.part()
        _out(STOPPED)
    except UserError as error:
        if ranks.watch.world == 1:
            raise
        if ranks.watch.first_to_fail(str(error)):
            print(f"error: {error}", file=sys.stderr, flush=True)
        _out(2)
    except Exception as error:
        if ranks.watch.world == 1:
            raise
        ranks.watch.explain(error)  # does not return where another rank's end was the cause
        if ranks.watch.first_to_fail(f"{type(error).__name__}: {error}"):
            traceback.print_exc()
            print(f"error: rank {ranks.watch.rank} failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        _out(LOST)
    size = ranks.watch.world
    stop()
    if size > 1:
        _out(0)


def _out(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _bind_to_launcher() -> int | None:
    """End with the launcher: SIGTERM when the process above dies; returns the process above that, where it is a launcher too.

    A plain `python train.py` is bound to nobody: it may outlive the shell that started it.
    """
    try:
        parent = psutil.Process().parent()
        if parent is None or not _LAUNCHERS.search(" ".join(parent.cmdline())):
            return None
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(1, int(signal.SIGTERM))  # PR_SET_PDEATHSIG
        above = parent.parent()
        return above.pid if above is not None and _LAUNCHERS.search(" ".join(above.cmdline())) else None
    except (psutil.Error, OSError, AttributeError):
        return None


def _signals_reach_us() -> bool:
    """Signals can be caught in the main thread only; elsewhere (a trial of a search) they are left alone."""
    return threading.current_thread() is threading.main_thread()


def _serve(port: int) -> None:
    """Rank 0 keeps the store that the job's ranks meet at where there is no process group over all of them."""
    global _server
    _server = dist.TCPStore("0.0.0.0", port, is_master=True, wait_for_workers=False)


_server: dist.TCPStore | None = None
