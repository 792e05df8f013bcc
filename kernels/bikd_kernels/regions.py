"""Where a simulated defect is, where it certainly is not, and the ring between that no loss term looks at."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

NORMAL, IGNORED, DEFECT = 0, 1, 2


def region_maps(mask: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Area-pool a defect mask to each feature level and split it into normal, ignored and defect positions.

    mask: (B, H, W) bool or float in [0, 1]. Returns one uint8 (B, h, w) map a size: 0 where the pooled mask is exactly 0
    (N), 2 where it is at least 0.5 (P), 1 in the ring between.
    Raises ValueError if mask is not three-dimensional.
    """
    if mask.dim() != 3:
        raise ValueError(f"mask must have shape (B, H, W), got {tuple(mask.shape)}")
    covered = mask.detach().to(torch.float32).unsqueeze(1)
    maps = []
    for height, width in sizes:
        pooled = F.adaptive_avg_pool2d(covered, (height, width)).squeeze(1)
        maps.append((pooled > 0).to(torch.uint8) + (pooled >= 0.5).to(torch.uint8))
    return maps


def region_counts(regions: Sequence[Tensor]) -> Tensor:
    """int64 (L, 2): how many positions of each level are normal (N) and how many are defect (P). No host sync."""
    return torch.stack([torch.stack([(r == NORMAL).sum(), (r == DEFECT).sum()]) for r in regions])
