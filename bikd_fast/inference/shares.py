"""Who looks at which pictures where several processes measure one detector together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bikd_fast.metrics.ranks import gather


@dataclass(frozen=True)
class Share:
    """This process among those that measure one detector: ``rank`` of ``world``.

    Attributes:
        group: what the world talks over, any torch.distributed group; None in a world of one.
    """

    rank: int = 0
    world: int = 1
    group: Any = None

    @property
    def first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def of(self, count: int) -> range:
        """Positions in a set of ``count`` that are this rank's: every position is exactly one rank's."""
        return range(self.rank, count, self.world)

    def collect(self, rows: np.ndarray, places: np.ndarray) -> np.ndarray:
        """The rows of all ranks, in the order of their places in the whole set; every rank has to call.

        Args:
            rows: (n, ...) of this rank, any dtype; places: (n,) int64.
        """
        whole = np.ascontiguousarray(rows)
        raw = whole.view(np.uint8).reshape(len(whole), -1) if whole.size else np.empty((0, _bytes_a_row(whole)), np.uint8)
        everything = np.concatenate(gather(raw, self.group))
        order = np.argsort(np.concatenate(gather(places.astype(np.int64), self.group)), kind="stable")
        return np.ascontiguousarray(everything[order]).view(whole.dtype).reshape(len(order), *whole.shape[1:])


def _bytes_a_row(rows: np.ndarray) -> int:
    return int(np.prod(rows.shape[1:], dtype=np.int64)) * rows.dtype.itemsize


ALONE = Share()
