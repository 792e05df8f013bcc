"""Filling a map: what high values surround belongs to the defect.

Networks answer to where a picture breaks its own order. The middle of a large stain or of a turned patch looks in itself like any
good place, so maps show rings and arcs where defects are. Two operators of greyscale morphology make areas of them: a closing
bridges gaps narrower than its disk, and hole filling raises every place to the lowest value that has to be crossed from it to the
border (Soille, "Morphological Image Analysis", 2nd edition 2003, sections 4.4 and 6.3.7; Vincent, "Morphological grayscale
reconstruction in image analysis", IEEE Transactions on Image Processing 2, 1993). Neither lowers a value nor exceeds the maximum.

What a detector adds to its map is the difference, softened: nobody knows where inside a ring the defect ends to a position. So the
ring itself rises a little too, and with it the score of a picture that has one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

RADIUS = 7 / 64  # of the closing's disk, in sides of the map: 28 pixels at 256
NEVER = -1e30  # lower than any map; infinities are not for exported networks


def added(maps: torch.Tensor) -> torch.Tensor:
    """(B, h, w) float -> what closing adds, at least 0, averaged over 5 x 5 positions."""
    return F.avg_pool2d((closed(maps) - maps).unsqueeze(1), 5, 1, 2, count_include_pad=False).squeeze(1)


def closed(maps: torch.Tensor, reach: int | None = None) -> torch.Tensor:
    """(B, h, w) float -> the same with gaps bridged and holes filled. No step depends on values, so it can be exported.

    Args:
        reach: length of the paths along which a place is left, in positions; default half the larger side. Where the only
            way to the border winds for longer than that, the place comes out too high.
    """
    height, width = maps.shape[-2:]
    radius = max(1, round(RADIUS * max(height, width)))
    x = F.pad(maps.unsqueeze(1), (radius,) * 4, value=NEVER)  # what touches the border is not surrounded by it
    low = _grown(-_grown(x, radius), radius)[..., radius : radius + height, radius : radius + width]
    # low is the closed map upside down; water comes in from the border, as far as the map lets it
    inside = F.pad(torch.ones(max(0, height - 2), max(0, width - 2), device=x.device), _frame(height, width)) > 0
    water = low.masked_fill(inside, NEVER)
    for _ in range(max(height, width) // 2 if reach is None else reach):
        water = torch.minimum(low, _beside(_beside(water, -1), -2))
    return -water.squeeze(1)


def _frame(height: int, width: int) -> tuple[int, int, int, int]:
    """Widths of the border around what lies inside: one position, none is left of a map of one."""
    return (1, min(1, width - 1), 1, min(1, height - 1))


def _grown(x: torch.Tensor, radius: int) -> torch.Tensor:
    """Maximum over an octagon, the square of half the radius grown by the rhombus of the rest."""
    for step in range(radius):
        across = _beside(x, -1)
        x = _beside(across, -2) if step < radius // 2 else torch.maximum(across, _beside(x, -2))
    return x


def _beside(x: torch.Tensor, along: int) -> torch.Tensor:
    """Maximum over three neighbours along a dimension of (B, 1, h, w)."""
    if torch.compiler.is_exporting() or x.is_cuda:  # a small graph, few launches
        return F.max_pool2d(x, (1, 3), 1, (0, 1)) if along == -1 else F.max_pool2d(x, (3, 1), 1, (1, 0))
    length = x.shape[along]  # torch's own pooling of one channel is ten times slower on a CPU
    wide = F.pad(x, (1, 1) if along == -1 else (0, 0, 1, 1), value=NEVER)
    first, middle, last = (wide.narrow(along, start, length) for start in range(3))
    return torch.maximum(torch.maximum(first, middle), last)
