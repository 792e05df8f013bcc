"""Some positions of a set that is too large to hold and is seen batch by batch: drawn at random beforehand."""

from __future__ import annotations

import torch


class Drawn:
    """Up to ``most`` of ``total`` positions, a function of the seed alone; :meth:`of` picks them out as the batches pass.

    Attributes:
        chosen: int64, ascending.
    """

    def __init__(self, total: int, most: int, seed: int) -> None:
        self.chosen = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:most].sort().values
        self.seen = 0

    def of(self, rows: torch.Tensor) -> torch.Tensor:
        """Of the next rows (n, C) those that were drawn, (m, C)."""
        first, self.seen = self.seen, self.seen + len(rows)
        here = self.chosen[(self.chosen >= first) & (self.chosen < self.seen)] - first
        return rows[here.to(rows.device)]
