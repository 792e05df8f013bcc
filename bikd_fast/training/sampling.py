"""Which pictures a step sees, and the random key of each: a pure function of (seed, step), whatever the world size."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Batch:
    """One rank's share of one micro-batch.

    Attributes:
        index: (B,) int64, positions in the training set.
        keys: (B,) int64, the key of each sample's random choices.
    """

    index: torch.Tensor
    keys: torch.Tensor


class Sampler:
    """Epochs of random permutations, cut into global batches, cut into ranks.

    Every picture is seen exactly once an epoch; a batch may span two epochs. Nothing is remembered between calls, so resuming
    is asking for the next step.

    Args:
        count: pictures in the training set.
        batch_size: pictures a step over all ranks and micro-batches.
        seed: of permutations and keys.
    """

    def __init__(self, count: int, batch_size: int, seed: int, rank: int = 0, world: int = 1, accumulation: int = 1) -> None:
        share, rest = divmod(batch_size, world * accumulation)
        if rest or share == 0:
            raise ValueError(
                f"training.batch_size: {batch_size} is not a multiple of {world} ranks x {accumulation} micro-batches; "
                f"take {max(1, round(batch_size / (world * accumulation))) * world * accumulation}."
            )
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.rank, self.world, self.accumulation, self.share = rank, world, accumulation, share
        self._orders: dict[int, torch.Tensor] = {}  # of the last epochs: a permutation of a large set takes a while

    def batches(self, step: int) -> list[Batch]:
        """This rank's micro-batches of a step."""
        first = step * self.batch_size
        positions = torch.arange(first, first + self.batch_size)
        index = self._pictures(positions)
        keys = self.seed * 1_000_003 + positions * 2_654_435_761
        size = self.share * self.world  # a micro-batch over all ranks
        result = []
        for micro in range(self.accumulation):
            own = slice(micro * size + self.rank * self.share, micro * size + (self.rank + 1) * self.share)
            result.append(Batch(index[own], keys[own]))
        return result

    def _pictures(self, positions: torch.Tensor) -> torch.Tensor:
        index = torch.empty_like(positions)
        epochs = positions // self.count
        for epoch in epochs.unique().tolist():
            here = epochs == epoch
            index[here] = self._order(epoch)[positions[here] % self.count]
        return index

    def _order(self, epoch: int) -> torch.Tensor:
        order = self._orders.get(epoch)
        if order is None:
            order = torch.randperm(self.count, generator=torch.Generator().manual_seed(self.seed * 7919 + epoch))
            self._orders = {**{e: o for e, o in self._orders.items() if abs(e - epoch) <= 1}, epoch: order}
        return order
