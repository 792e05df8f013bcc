"""More good pictures for nothing: mirrored and turned copies, where the training set itself shows that they are natural.

A surface has no left and right; a part that always lies the same way has. Nobody has to say which: a copy is natural if it is as
near to some other training picture as the training pictures are to each other, seen through the frozen backbone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from bikd_fast.models.backbone import Backbone
from bikd_fast.simulation.foreground import evenly

COPIES = {
    "left-right": lambda x: x.flip(-1),
    "top-bottom": lambda x: x.flip(-2),
    "half turn": lambda x: x.flip((-2, -1)),
}
SAMPLE = 16  # pictures looked at
GRID = 8  # positions a side that features are averaged to: coarse enough to forgive small shifts, fine enough to see a pose
TOLERANCE = 1.02  # a copy may be this much farther from its nearest neighbour than a training picture from its own


def shown(count: int) -> torch.Tensor:
    """Positions (int64) of the pictures that are looked at, in a set of ``count``."""
    return evenly(count, SAMPLE)


@torch.no_grad()
def natural_copies(pictures: torch.Tensor, backbone: Backbone) -> list[str]:
    """Names of :data:`COPIES` that the training set supports.

    Args:
        pictures: uint8 (M, 3, S, S), all good, on the backbone's device.
    """
    some = pictures[shown(len(pictures))]
    if len(some) < 4:
        return []
    own = _describe(some, backbone)
    between = torch.cdist(own, own).fill_diagonal_(float("inf")).amin(1).median()
    natural = []
    for name, copy in COPIES.items():
        distance = torch.cdist(_describe(copy(some), backbone), own).fill_diagonal_(float("inf")).amin(1).median()
        if distance <= TOLERANCE * between:
            natural.append(name)
    return natural


def with_copies(pictures: torch.Tensor, names: list[str]) -> torch.Tensor:
    """The pictures followed by the named copies of all of them, uint8 (M (1 + len(names)), 3, S, S)."""
    return torch.cat([pictures, *(COPIES[name](pictures) for name in names)])


def _describe(pictures: torch.Tensor, backbone: Backbone) -> torch.Tensor:
    """(N, D): every level averaged to a GRID x GRID map and brought to one length, concatenated."""
    parts = []
    for chunk in pictures.split(8):
        levels = backbone((chunk.float() / 255).contiguous(memory_format=torch.channels_last))
        parts.append(torch.cat([F.normalize(F.adaptive_avg_pool2d(f, GRID).flatten(1), dim=1) for f in levels], 1))
    return torch.cat(parts).float()
