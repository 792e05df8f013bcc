"""A student that sees all but what it is asked for: it predicts the teacher's features of hidden cells from what surrounds them.

Sources: random masking and restoring, Huang, Xu, Wang, Wang, Zhang, "Self-supervised masking for unsupervised anomaly detection and
localization", IEEE Trans. Multimedia (arXiv 2205.06568); a picture covered by disjoint sets of cells of several sizes, each
restored in turn, Zavrtanik, Kristan, Skocaj, "Reconstruction by inpainting for visual anomaly detection" (RIAD), Pattern
Recognition 2021. Both restore pixels; ours restores the teacher's features, as everything here does. The first paper's progressive
refinement of the mask is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from bikd_fast.models.plain_students import ImageStudent, Student
from bikd_fast.simulation.random import Stream, uniform

CELLS = (1 / 16, 1 / 8)  # sides of the cells, as shares of the picture's side
SETS = 4  # disjoint sets of cells, every second one a row and a column, so that what is around a hidden cell is seen
STREAM = Stream(31, 1)  # of the random choice of a mask, apart from those of the simulation


class InpaintingStudent(Student):
    """Outputs the restored levels for every size of cell: [(B, C_k, H_k, W_k)] of the first, then of the second.

    In use every picture goes through the network once a size of cell and set; in training once, with one of those masks.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], size: float = 1.0, depth: int = 1) -> None:
        super().__init__(tuple(channels) * len(CELLS))
        self.net = ImageStudent(channels, strides, size, depth, planes=4)
        self.strides = tuple(strides)

    def forward(self, picture: torch.Tensor, features: Sequence[torch.Tensor] | None = None) -> list[torch.Tensor]:
        hidden = masks(picture.shape[-2], picture.shape[-1], max(self.strides), picture)
        height, width = picture.shape[-2:]
        count = len(hidden)
        seen = hide(picture.unsqueeze(1), hidden.unsqueeze(1))  # (B, masks, 4, H, W)
        restored = self.net(seen.reshape(-1, 4, height, width))
        outputs: list[list[torch.Tensor]] = [[] for _ in CELLS]
        for level in restored:
            channels, h, w = level.shape[1:]
            share = F.adaptive_avg_pool2d(hidden, (h, w)).view(1, count, 1, h, w)
            parts = (level.reshape(-1, count, channels, h, w) * share).unflatten(1, (len(CELLS), SETS)).sum(2)
            for output, part in zip(outputs, parts.unbind(1)):
                output.append(part)
        return [level for output in outputs for level in output]

    def masked(self, picture: torch.Tensor, keys: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """One mask a picture, chosen by its key: restored levels [(B, C_k, H_k, W_k)], and where they count [(B, H_k, W_k)]."""
        every = masks(picture.shape[-2], picture.shape[-1], max(self.strides), picture)
        chosen = (uniform(keys.to(picture.device), STREAM)[:, 0] * len(every)).long()
        hidden = every[chosen]
        restored = self.net(hide(picture, hidden.unsqueeze(1)))
        return restored, [F.adaptive_avg_pool2d(hidden, f.shape[-2:]).float() for f in restored]

    def targets(self, teacher: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return list(teacher) * len(CELLS)


def masks(height: int, width: int, coarsest: int, like: torch.Tensor) -> torch.Tensor:
    """(len(CELLS) x SETS, height, width), 1 where hidden, in the dtype and on the device of ``like``.

    The sets of one size together hide everything once. A cell is a whole number of positions of the coarsest level.
    """
    found = []
    for share in CELLS:
        side = max(1, round(share * height / coarsest)) * coarsest
        rows = torch.arange(height, device=like.device) // side % 2
        columns = torch.arange(width, device=like.device) // side % 2
        which = rows.unsqueeze(1) * 2 + columns
        found += [(which == i).to(like.dtype) for i in range(SETS)]
    return torch.stack(found)


def hide(picture: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """(..., 3, H, W) normalised and (..., 1, H, W) -> (..., 4, H, W): zero, the mean colour, where hidden, and the mask itself."""
    shown = picture * (1 - hidden)
    return torch.cat([shown, hidden.expand_as(shown[..., :1, :, :])], dim=-3)
