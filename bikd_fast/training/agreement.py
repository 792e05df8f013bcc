"""What the ranks decide together, one step late, so that no step waits for it: whether to save, whether to stop."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from bikd_fast.training.distributed import Ranks


class Agreement:
    """A wish of any rank becomes every rank's decision at the same step, over the hosts' own group: no GPU is asked."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self._wishes: torch.Tensor | None = None
        self._work: Any = None

    def wish(self, **wishes: bool) -> None:
        """Send this rank's wishes on their way; always the same names in the same order on all ranks."""
        self._names = tuple(wishes)
        self._wishes = torch.tensor(list(wishes.values()), dtype=torch.int32)
        if self.ranks.world > 1:
            self._work = dist.all_reduce(self._wishes, op=dist.ReduceOp.MAX, group=self.ranks.control, async_op=True)

    def decided(self) -> dict[str, bool]:
        """What was wished for by any rank in the last :meth:`wish`; nothing before the first."""
        if self._wishes is None:
            return {}
        if self._work is not None:
            self._work.wait()
        decided = dict(zip(self._names, map(bool, self._wishes.tolist())))
        self._wishes = self._work = None
        return decided
