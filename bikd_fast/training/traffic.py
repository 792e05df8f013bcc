"""How long training waits for other ranks: every collective that DeepSpeed issues, timed.

What the ranks say to each other beside it is a few numbers and not counted: whether a step is bad and of which pictures, whether
to save or stop, the means of a log line.

On a GPU a collective is queued, not waited for: events on the stream measure it, and are read when a log line is due anyway.
"""

from __future__ import annotations

import functools
import time

import torch

_NAMES = (
    "all_reduce", "all_reduce_coalesced", "reduce", "broadcast", "all_gather", "all_gather_into_tensor", "all_gather_coalesced",
    "reduce_scatter", "reduce_scatter_tensor",
)  # fmt: skip


class Traffic:
    """Seconds spent in collectives since the last :meth:`read`."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self._seconds = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def timed(self, call):
        """``call``, with its time counted."""

        @functools.wraps(call)
        def wrapper(*args, **kwargs):
            if self.cuda:
                begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                begin.record()
                result = call(*args, **kwargs)
                end.record()
                self._events.append((begin, end))
                return result
            started = time.perf_counter()
            result = call(*args, **kwargs)
            self._seconds += time.perf_counter() - started
            return result

        wrapper.__bikd_traffic__ = call  # type: ignore[attr-defined]
        return wrapper

    def attach(self) -> None:
        """Count what DeepSpeed sends, through its one communication object; replaces an earlier counter."""
        from deepspeed.comm import comm

        for name in _NAMES:
            call = getattr(comm.cdb, name, None)
            if call is not None:
                setattr(comm.cdb, name, self.timed(getattr(call, "__bikd_traffic__", call)))

    def read(self) -> float:
        """Seconds since the last call; waits for the device."""
        seconds = self._seconds + sum(begin.elapsed_time(end) for begin, end in self._synchronised()) / 1000
        self._seconds, self._events = 0.0, []
        return seconds

    def _synchronised(self) -> list[tuple[torch.cuda.Event, torch.cuda.Event]]:
        if self._events:
            torch.cuda.synchronize()
        return self._events
