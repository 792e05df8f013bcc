"""The teacher T: the frozen backbone with a bounded adapter, T_k = E_k (1 + r tanh(G_k(E_k)))."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from bikd_fast.models.blocks import zero_initialised


class Adapter(nn.Module):
    """G: two 1x1 convolutions a level, the last zero-initialised, so that at step 0 the teacher equals the backbone exactly.

    Every channel is multiplied by a factor in (1 - r, 1 + r), so the angle between T_k and E_k is at most arcsin(r) at every
    position and the teacher cannot collapse (form after AAND, arXiv 2411.09441).

    Args:
        channels: of the levels.
        bound: r, in [0, 1).
    """

    def __init__(self, channels: Sequence[int], bound: float = 0.5) -> None:
        super().__init__()
        self.bound = bound
        self.levels = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, 2 * c, 1), nn.ReLU(inplace=True), zero_initialised(nn.Conv2d(2 * c, c, 1)))
            for c in channels
        )

    def forward(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """E -> G(E), the raw output; :meth:`adapt` or the fused objective makes T of it."""
        return [level(f) for level, f in zip(self.levels, features)]

    def adapt(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """E -> T, both [(B, C_k, H_k, W_k)]."""
        return [f * (1 + self.bound * torch.tanh(a.to(f.dtype))) for f, a in zip(features, self(features))]
