"""More good pictures for nothing: mirrored and turned copies, where the training set itself shows that they are natural.

A surface has no left and right; a part that always lies the same way has. Nobody has to say which: a copy is natural if it is as
near to some other training picture as the training pictures are to each other, seen through the frozen backbone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from bikd_fast.models.backbone import Backbone
from bikd_fast.simulation.foreground import evenly

COPIES = {
    "left-right": lambda x: x.flip(-1),
    "top-bottom": lambda x: x.flip(-2),
    "half turn": lambda x: x.flip((-2, -1)),
}
AS_IT_IS = "as it is"  # no copy
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


def sampled(groups: torch.Tensor) -> list[torch.Tensor]:
    """Of every category the rows that are looked at; groups (M,) int64 say which the pictures are of."""
    each = [(groups == group).nonzero().flatten() for group in range(int(groups.max()) + 1)]
    return [rows[shown(len(rows))] for rows in each]


def group_numbers(names: Sequence[str]) -> torch.Tensor:
    """(M,) int64: names of categories as numbers, in the order in which they first come."""
    numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return torch.tensor([numbers[name] for name in names], dtype=torch.int64)


def rounds(natural: Sequence[Sequence[str]]) -> list[list[str]]:
    """What copies to add, round by round, with a name for each category, from the natural ones of each.

    All categories get as many, so that training sees each as often: one with fewer has its pictures repeated as they are.
    """
    most = max(map(len, natural), default=0)
    return [[names[i] if i < len(names) else AS_IT_IS for names in natural] for i in range(most)]


def turned(name: str, pictures: torch.Tensor) -> torch.Tensor:
    """The named copy of pictures (..., S, S)."""
    return pictures if name == AS_IT_IS else COPIES[name](pictures)


def with_copies(pictures: torch.Tensor, copies: Sequence[Sequence[str]], groups: torch.Tensor) -> torch.Tensor:
    """The pictures followed by copies of all of them, uint8 (M (1 + len(copies)), 3, S, S).

    Args:
        copies: as :func:`rounds` says.
        groups: (M,) int64, which category a picture is of.
    """
    made = [pictures]
    for names in copies:
        made.append(pictures.clone())
        for group, name in enumerate(names):
            rows = (groups == group).to(pictures.device)
            made[-1][rows] = turned(name, pictures[rows])
    return torch.cat(made)


def _describe(pictures: torch.Tensor, backbone: Backbone) -> torch.Tensor:
    """(N, D): every level averaged to a GRID x GRID map and brought to one length, concatenated."""
    parts = []
    for chunk in pictures.split(8):
        levels = backbone((chunk.float() / 255).contiguous(memory_format=torch.channels_last))
        parts.append(torch.cat([F.normalize(F.adaptive_avg_pool2d(f, GRID).flatten(1), dim=1) for f in levels], 1))
    return torch.cat(parts).float()
