"""Whether the other ranks still live: a thread that says so and listens, beside training, over a connection of its own.

A dead process on this machine is seen within a second, one on another machine within :data:`QUIET` (its line closes, its signs
of life stop), a dead machine or a cut link after ``silence`` seconds without a sign of life; then the process says which rank is
missing and ends, even where a collective would wait for ever. A rank that is busy (evaluating, writing, compiling) keeps giving
signs of life, so nobody loses patience with it.

Every rank writes a counter; rank 0 reads all of them, the others read rank 0's alone, so the traffic grows with the ranks and
not with their square. The same threads carry SIGTERM from the rank that got it to all others.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import psutil
import torch.distributed as dist

from bikd_fast.training.lines import Lines
from bikd_fast.training.process import identity, lives, there

LOST = 1  # exit code of a rank that gave up on another
STOPPED = 128 + signal.SIGTERM
QUIET = 8.0  # seconds without a sign of life (one a second) after which a rank whose line is closed is dead
PATIENCE = timedelta(seconds=5)  # of one exchange with the store
HEARD = 2.5  # seconds in which every rank has read what was told: it looks once a second, twice over
_COLLECTIVE = ("gloo", "nccl", "connection", "timed out", "timeout", "socket", "peer")


class Watch(threading.Thread):
    """Watches the ranks of a job, and the launcher above this one.

    Args:
        rank, world: of the job.
        address, port: of a TCPStore that rank 0 serves.
        silence: seconds without a sign of life after which a rank is given up.
        launcher: process number of the launcher's parent, whose death (which the launcher outlives) ends this rank too.
        apart: the ranks train on their own, and need each other for nothing before the end.

    Attributes:
        stopping: this rank got SIGTERM; the others are told.
    """

    def __init__(
        self, rank: int, world: int, address: str, port: int, silence: float, launcher: int | None = None, apart: bool = False
    ) -> None:
        super().__init__(name="bikd-watch", daemon=True)
        self.rank, self.world, self.address, self.port, self.silence = rank, world, address, port, silence
        self.launcher = psutil.Process(launcher) if launcher else None
        self.apart, self.stopping = apart, False
        self.hint = ""  # what the last message adds: the last good checkpoint
        self.where: list[dict[str, Any]] = [identity()]
        self._leaving, self._parting, self._over, self._ending = False, False, threading.Event(), threading.Lock()
        self._ender: threading.Thread | None = None
        self._others = list(range(1, world)) if rank == 0 else [0]  # whose beats this rank reads
        self._heard: dict[int, tuple[bytes, float]] = {}  # rank: its last beat, when it was new
        self._ended: str | None = None  # what another rank ended the job with
        self._meetings = 0
        self.lines = Lines(self._over)
        if world > 1:
            if rank == 0:
                self.where[0]["line"] = self.lines.serve()
            patient = timedelta(minutes=10)  # others may still be importing, rank 0 too
            self._talk = self._connect(patient)  # the main thread's; the listening thread opens one of its own
            self._talk.set(f"bikd/where/{rank}", json.dumps(self.where[0]))
            self._talk.set(f"bikd/beat/{rank}", "0")
            self.where = [json.loads(self._talk.get(f"bikd/where/{other}")) for other in range(world)]
            self._talk.set_timeout(PATIENCE)
            if rank != 0:
                self.lines.call(address, self.where[0]["line"], rank)

    def _connect(self, patience: timedelta = PATIENCE) -> dist.Store:
        return dist.TCPStore(self.address, self.port, is_master=False, timeout=patience, wait_for_workers=False)

    # ------------------------------------------------------------------------------------------------ the watching thread

    def run(self) -> None:
        if self.world > 1:
            threading.Thread(target=self._listen, name="bikd-listen", daemon=True).start()
        since = time.monotonic()
        while not self._over.wait(1.0):
            if self.launcher is not None and not there(self.launcher):
                self.launcher = None
                os.kill(os.getpid(), signal.SIGTERM)
            if self.world == 1 or self._on_its_own:
                continue
            self._look_around()
            if self._ended is not None and not self._over.is_set():
                self._end(self._ended, tell=False, code=STOPPED if self.stopping else LOST)
            now = time.monotonic()
            quiet = {o: now - self._heard.get(o, (b"", since))[1] for o in self._others}
            dead = [o for o, seconds in quiet.items() if seconds > QUIET and self.lines.open.get(o) is False]
            if dead and not self._over.is_set():
                self._end(self._death(dead))
            silent = [o for o, seconds in quiet.items() if seconds > self.silence]
            if silent and not self._over.is_set():
                self._end(self._silence(silent))

    @property
    def _on_its_own(self) -> bool:
        """Whether this rank is to stop and can do so whatever becomes of the others."""
        return self._parting or (self.apart and self.stopping)

    def _listen(self) -> None:
        """Give and collect signs of life. A thread of its own: over a cut link a call of the store may hang for minutes."""
        store: dist.Store | None = None
        beat, told = 0, False
        while not self._over.wait(1.0):
            beat += 1
            try:
                store = store or self._connect()
                store.set(f"bikd/beat/{self.rank}", str(beat))
                beats = store.multi_get([f"bikd/beat/{other}" for other in self._others])
                ended = store.get("bikd/ended") if store.check(["bikd/ended"]) else None
                if self.stopping and not told:
                    store.set("bikd/stop", "1")
                    told = True
                elif not told and store.check(["bikd/stop"]):
                    self.stopping = told = True
                    os.kill(os.getpid(), signal.SIGTERM)
            except (RuntimeError, OSError):  # all of torch's store errors
                store = None
                continue
            now = time.monotonic()
            for other, value in zip(self._others, beats):
                if other not in self._heard or self._heard[other][0] != value:
                    self._heard[other] = (value, now)
            if ended is not None:
                self._ended = ended.decode()

    def _look_around(self) -> None:
        """End where a rank of this machine has died; not while everybody is leaving."""
        if not self._leaving and not self._on_its_own and (dead := self.dead()):
            self._end(self._death(dead))

    @property
    def ending(self) -> bool:
        return self._ender is not None

    def lost(self) -> None:
        """End now where a rank of this machine has died."""
        self._look_around()

    def dead(self) -> list[int]:
        """Ranks on this machine whose process is gone."""
        here = self.where[self.rank if self.world > 1 else 0]["machine"]
        return [r for r, w in enumerate(self.where) if r != self.rank and w["machine"] == here and not lives(w)]

    def _death(self, dead: Sequence[int]) -> str:
        return f"{self._named(dead)} died. The run stops."

    def _silence(self, silent: Sequence[int]) -> str:
        return (
            f"no sign of life from {self._named(silent)} for {self.silence:.0f} s: the machine or the link to it is down, or "
            "it hangs. The run stops (training.silence sets how long to wait)."
        )

    def _named(self, ranks: Sequence[int]) -> str:
        shown = [f"rank {r} (process {self.where[r]['pid']} on {self.where[r]['host']})" for r in ranks[:4]]
        return ", ".join(shown) + (f" and {len(ranks) - 4} more" if len(ranks) > 4 else "")

    def _end(self, message: str, tell: bool = True, code: int = LOST) -> None:
        """Say why, once a machine, tell the other machines, and be gone, though not before others could notice by themselves."""
        if not self._ending.acquire(blocking=False):  # never released: of two threads the first one ends this process
            if self._ender is not threading.current_thread():
                time.sleep(60)
            return  # a signal came while this thread was at it
        self._ender = threading.current_thread()
        self._over.set()
        dead = self.dead()
        here = self.where[self.rank]["machine"]
        speakers = [r for r, w in enumerate(self.where) if w["machine"] == here and r not in dead]
        if self.rank == min(speakers):
            hint = f" {self.hint}" if self.hint else ""
            print(f"error: {message}{hint}", file=sys.stderr, flush=True)
        if tell and (self.rank == 0 or 0 not in dead):
            teller = threading.Thread(target=self._tell, args=(message,), daemon=True)
            teller.start()
        time.sleep(HEARD)
        sys.stdout.flush()
        os._exit(code)

    def _tell(self, message: str) -> None:
        with contextlib.suppress(RuntimeError, OSError):
            self._connect().set("bikd/ended", message)

    # ------------------------------------------------------------------------------------------------ the main thread

    def meet(self) -> None:
        """Wait, for as long as it takes, until every rank has come here."""
        if self.world == 1:
            return
        self._meetings += 1
        try:
            self._all_at(f"bikd/meet/{self._meetings}", float("inf"))
        except RuntimeError as error:
            self.explain(error)
            raise

    def _all_at(self, key: str, patience: float) -> bool:
        """Whether all ranks come to ``key`` within ``patience`` seconds."""
        self._talk.add(key, 1)
        end = time.monotonic() + patience
        while self._talk.add(key, 0) < self.world:
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        return True

    def leave(self) -> None:
        """The last meeting; after it nobody is missed. Rank 0, which serves the store, goes last."""
        if self._over.is_set():
            return
        self._leaving = True
        self.meet()
        self._go()

    def _go(self) -> None:
        self._over.set()
        if self.world == 1:
            return
        try:
            self._talk.add("bikd/left", 1)
            end = time.monotonic() + 5
            while self.rank == 0 and self._talk.add("bikd/left", 0) < self.world and time.monotonic() < end:
                time.sleep(0.02)
        except RuntimeError:  # rank 0 has gone already
            pass

    def part(self) -> None:
        """Leave because of SIGTERM: the others are told, and waited for while they finish their steps and write.

        Ranks that train together do so within a moment, or wait for this one in a collective: then they are ended.
        """
        if self._over.is_set():
            return
        self._leaving = self._parting = self.stopping = True
        try:
            self._talk.set("bikd/stop", "1")
            if self._all_at("bikd/parted", 60.0 if self.apart else 5.0):
                self._go()
            elif not self.apart:
                self._talk.set("bikd/ended", f"rank {self.rank} was stopped by SIGTERM.")
                time.sleep(HEARD)  # rank 0 serves the store that they read it from
        except RuntimeError:  # rank 0 has gone already
            pass

    def explain(self, error: Exception) -> None:
        """What another rank's end looks like from here is an error of a collective: wait until it is known who, and end.

        Returns where the error is this rank's own.
        """
        if self.world == 1 or isinstance(error, OSError) or not _of_a_collective(error):
            return
        for _ in range(20):
            if dead := self.dead():
                self._end(self._death(dead))
            time.sleep(0.1)
        time.sleep(self.silence + 3)  # the watching thread ends this process if somebody is silent

    def first_to_fail(self, message: str) -> bool:
        """Tell the others that this rank ends with an error; False where another has said so before."""
        self._leaving = True
        if self.world == 1:
            return True
        try:
            first = self._talk.compare_set("bikd/failed", "", str(self.rank)).decode() == str(self.rank)
            if first:
                self._talk.set("bikd/ended", f"rank {self.rank} failed: {message}")
        except RuntimeError:
            return True
        if self.rank == 0:  # with which the store goes that the other machines read it from
            self._over.set()  # this rank needs not be told
            time.sleep(HEARD)
        return first


def _of_a_collective(error: Exception) -> bool:
    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in _COLLECTIVE)
