"""What the ranks of one training agree on: what they begin with, and, one step late, so that no step waits for it, whether to
save and whether to stop."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from bikd_fast.errors import UserError
from bikd_fast.training.distributed import Ranks


def alike(ranks: Ranks, **seen: Any) -> None:
    """Compare what every rank sees for itself, before their gradients are mixed.

    Raises:
        UserError: two ranks see different things, on every rank; it names both and the key.
    """
    if ranks.world == 1:
        return
    everyones: list[dict[str, Any]] = [{} for _ in range(ranks.world)]
    dist.all_gather_object(everyones, seen, group=ranks.control)
    for rank, theirs in enumerate(everyones):
        for key, first in everyones[0].items():
            if theirs[key] != first:
                raise UserError(
                    f"{key.replace('_', ' ')}: rank 0 sees {first}, rank {rank} sees {theirs[key]}. Pictures and run "
                    "folder have to be the same on every machine."
                )


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
