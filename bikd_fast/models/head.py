"""The segmentation head: where do teacher and student disagree in a way that a defect would make them?

A small network over the normalised products of the two networks' features, trained on simulated defects (DeSTSeg,
arXiv 2211.11317, section 3.3). It sees agreement channel by channel, where the cosine sees only the sum.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from bikd_kernels.resample import resample_matrix
from torch import nn

from bikd_fast.models.blocks import ChannelNorm, ResidualBlock

FOCUS = 2.0  # gamma of the focal loss (Lin et al., arXiv 1708.02002)
REACH = 4  # positions between the taps of the second block: a stain is darker than its surroundings, so look that far
TRUST = 0.7  # q of the generalised cross entropy (Zhang and Sabuncu, arXiv 1805.07836): 0 is cross entropy, 1 the mean error


class SegmentationHead(nn.Module):
    """Levels of teacher and student -> one logit a position of the finest level; positive = defect.

    Args:
        channels: the teacher's channels a level, finest level first.
        width: channels inside.
    """

    def __init__(self, channels: Sequence[int], width: int = 48) -> None:
        super().__init__()
        self.project = nn.ModuleList(nn.Conv2d(2 * c, width, 1) for c in channels)
        self.body = nn.Sequential(
            ResidualBlock(width), ResidualBlock(width, REACH), ChannelNorm(width), nn.Conv2d(width, 1, 1)
        )

    def forward(self, teacher: Sequence[torch.Tensor], student: Sequence[torch.Tensor]) -> torch.Tensor:
        """[(B, C_k, H_k, W_k)] twice -> logits (B, H_1, W_1)."""
        size = teacher[0].shape[-2:]
        total: torch.Tensor | None = None
        for project, t, s in zip(self.project, teacher, student):
            # the product's mean square is about 1/C: brought to order one, so that no level starts louder than another
            unit = F.normalize(t, dim=1)
            product = unit * F.normalize(s.to(t.dtype), dim=1) * t.shape[1]
            x = project(torch.cat([product, unit * t.shape[1] ** 0.5], dim=1))
            if x.shape[-2:] != size:
                x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
            total = x if total is None else total + x
        return self.body(total).squeeze(1)


def segmentation_loss(logits: torch.Tensor, mask: torch.Tensor, counts: torch.Tensor | None = None) -> torch.Tensor:
    """Mean over defect positions plus mean over normal ones, so that small defects weigh as large ones.

    Normal positions have the focal loss: the few that look like defects count. Defect positions have the generalised cross
    entropy (1 - p^q) / q, which is bounded: a simulated defect that nobody could see (a patch of gravel moved within gravel) is
    a wrong label, and cross entropy or a focal loss would learn from those above all others.

    Args:
        logits: (B, h, w).
        mask: (B, h, w) share of each position that is defect, in [0, 1]: from a quarter on it is a defect (a scratch of one
            pixel in a position of four), 0 is normal, what lies between is left out.
        counts: (2,) how many normal and defect positions to divide by; default this batch's own (data-parallel: global
            counts over the number of ranks).
    """
    logits = logits.float()
    defect, normal = (mask >= 0.25).float(), (mask == 0).float()
    if counts is None:
        counts = torch.stack([normal.sum(), defect.sum()])
    wrong = torch.sigmoid(logits)
    missed = defect * (1 - torch.exp(-TRUST * F.softplus(-logits))) / TRUST  # p^q without underflow
    alarmed = normal * wrong**FOCUS * F.softplus(logits)
    return alarmed.sum() / counts[0].clamp(min=1) + missed.sum() / counts[1].clamp(min=1)


def smoothing(source: int, size: int, sigma: float) -> torch.Tensor:
    """A (size, source), float32: A m A^T upsamples a map m bilinearly to ``size`` and blurs it, as the discrepancy's map is."""
    return torch.tensor(resample_matrix(source, size, sigma), dtype=torch.float32)
