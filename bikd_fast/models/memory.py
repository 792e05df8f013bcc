"""A memory instead of a student: how far is every position from the nearest features that good pictures had?

Source: Roth et al., "Towards total recall in industrial anomaly detection" (PatchCore, arXiv 2106.08265), without its greedy choice
of what to remember and without the reweighting of the score: positions are drawn at random, which costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from bikd_fast.models.plain_students import Student

CAPACITY = 12_000  # positions remembered
NEIGHBOURS = 3
_ROWS = 3000  # of the memory compared at a time, which bounds what a picture takes


class Memory(Student):
    """Standardised features of good pictures, and the distance to the nearest of them.

    Every level is averaged over 3 x 3 positions, brought to the positions of the second finest stride and standardised channel by
    channel; the levels weigh the same, whatever their number of channels.

    Args:
        channels, strides: the teacher's levels, finest first.

    Attributes:
        stride: of the positions, in pixels.
        known: (M, C) what is remembered, in the units of :meth:`describe`; empty until :meth:`remember`.
    """

    reads = "features"
    compares = False
    known: torch.Tensor
    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, channels: Sequence[int], strides: Sequence[int], size: float = 1.0, depth: int = 1) -> None:
        super().__init__([1])
        total = sum(channels)
        self.finest, self.stride = min(strides), sorted(set(strides))[min(1, len(set(strides)) - 1)]
        self.widths = tuple(channels)
        self.register_buffer("known", torch.zeros(0, total))
        self.register_buffer("mean", torch.zeros(total))
        self.register_buffer("scale", torch.ones(total))

    def gather(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """[(B, C_k, H_k, W_k)] -> (B, h, w, C): all levels at the memory's positions, not yet standardised."""
        height, width = (side * self.finest // self.stride for side in features[0].shape[-2:])
        pooled = [F.avg_pool2d(f.float(), 3, 1, 1) for f in features]
        placed = [F.interpolate(f, size=(height, width), mode="bilinear", align_corners=False) for f in pooled]
        return torch.cat(placed, 1).permute(0, 2, 3, 1)

    def remember(self, rows: torch.Tensor, mean: torch.Tensor, deviation: torch.Tensor) -> None:
        """Keep (M, C) rows of :meth:`gather`; mean and deviation (C,) of all positions of the good pictures."""
        shares = torch.cat([torch.full((n,), n**-0.5) for n in self.widths]).to(rows.device)
        self.mean = mean
        self.scale = shares / (deviation + 1e-6)
        self.known = (rows - self.mean) * self.scale

    def forward(self, picture: torch.Tensor | None, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """One level (B, 1, h, w): mean distance to the three nearest remembered positions."""
        described = (self.gather(features) - self.mean) * self.scale
        batch, height, width, channels = described.shape
        flat = described.reshape(-1, channels)
        squares = flat.square().sum(1, keepdim=True)
        nearest = []
        for part in self.known.split(_ROWS):
            distance = squares + part.square().sum(1) - 2 * flat @ part.T
            nearest.append(distance.topk(min(NEIGHBOURS, len(part)), dim=1, largest=False).values)
        every = torch.cat(nearest, 1)
        closest = every.topk(min(NEIGHBOURS, every.shape[1]), dim=1, largest=False).values
        return [closest.clamp(min=0).sqrt().mean(1).view(batch, 1, height, width)]

    def targets(self, teacher: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return []

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """The file says how much is remembered."""
        found = state_dict.get(prefix + "known")
        if isinstance(found, torch.Tensor) and found.dim() == 2 and found.shape[1] == self.known.shape[1]:
            self.known = torch.empty_like(found, device=self.known.device)
        super()._load_from_state_dict(state_dict, prefix, *rest)
