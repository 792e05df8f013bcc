"""The training set where it does not fit in memory: pictures come from a :class:`bikd_fast.data.store.Store`, steps ahead of their
use, because which pictures a step sees (and takes foreign content from) is a function of its number.

Nothing differs from pictures in memory but where they lie: the same steps come out, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bikd_fast.data.ahead import Ahead
from bikd_fast.data.room import MEMORY_SHARE, allowed, local_size
from bikd_fast.data.store import Store
from bikd_fast.data.threads import default_threads
from bikd_fast.simulation.content import foreign_rows
from bikd_fast.simulation.foreground import evenly
from bikd_fast.training.mirrors import turned
from bikd_fast.training.sampling import Sampler

COPIES_HELD = 6  # a set in memory is there as it was read, without the held-out ones, and with three mirrored copies


class Stream:
    """Positions of a store, and copies of them, as a set of M (1 + copies) pictures.

    Args:
        store: what the pictures come from.
        positions: which of the store's pictures are trained on, M.
        copies: as :func:`bikd_fast.training.mirrors.rounds` says, each for all pictures.
        groups: (M,) int64, which category a picture is of, for the copies.
    """

    def __init__(
        self, store: Store, positions: Sequence[int], copies: Sequence[Sequence[str]] = (), groups: torch.Tensor | None = None
    ) -> None:
        self.store, self.positions, self.copies, self.groups = store, list(positions), list(copies), groups
        self._ahead: Ahead[list[tuple[torch.Tensor, torch.Tensor]]] | None = None

    def __len__(self) -> int:
        return len(self.positions) * (1 + len(self.copies))

    def with_copies(self, copies: Sequence[Sequence[str]], groups: torch.Tensor) -> Stream:
        return Stream(self.store, self.positions, copies, groups)

    def rows(self, index: torch.Tensor) -> torch.Tensor:
        """(n, 3, S, S) uint8 on the host; index (n,) int64 into the set with its copies."""
        count = len(self.positions)
        found = self.store.rows([self.positions[i % count] for i in index.tolist()])
        for to, i in enumerate(index.tolist()):
            if i >= count and self.groups is not None:
                found[to] = turned(self.copies[i // count - 1][int(self.groups[i % count])], found[to])
        return found

    def some(self) -> torch.Tensor:
        """Pictures spread evenly over the set: what is decided about all of it is decided by them."""
        index, count = evenly(len(self)), len(self.positions)
        self.store.many(sorted({self.positions[i % count] for i in index.tolist()}))  # on many threads; then they are there
        return self.rows(index)

    def begin(self, sampler: Sampler, steps: int, pin: bool) -> None:
        """Fetch the pictures of steps to come on threads; ``pin``: into memory that a GPU reads by itself."""
        threads = max(1, default_threads() // local_size())

        def make(step: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
            parts = []
            for batch in sampler.batches(step):
                both = self.rows(batch.index), self.rows(foreign_rows(batch.index, batch.keys, len(self)))
                parts.append((both[0].pin_memory(), both[1].pin_memory()) if pin else both)
            return parts

        self._ahead = Ahead(make, steps, depth=2 * threads + 2, threads=threads)

    def take(self, step: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Of each micro-batch of a step its pictures and the foreign pictures of its samples, uint8 (B, 3, S, S) on the host."""
        assert self._ahead is not None
        return self._ahead.take(step)

    def end(self) -> None:
        if self._ahead is not None:
            self._ahead.close()


def in_memory(count: int, size: int, limit_gb: float, device: torch.device | None = None) -> bool:
    """Whether ``count`` pictures of side ``size`` are to be held by every rank of this machine, and on ``device``.

    Args:
        limit_gb: what they may take in all; 0 is :data:`MEMORY_SHARE` of the machine's memory. That share of a GPU's memory
            is always the bound there.
    """
    sharing, needed = local_size(), COPIES_HELD * count * 3 * size * size
    if device is not None and device.type == "cuda":
        on_one = -(-sharing // torch.cuda.device_count())  # ranks
        if needed * on_one > MEMORY_SHARE * torch.cuda.get_device_properties(device).total_memory:
            return False
    return needed * sharing <= allowed(limit_gb)
