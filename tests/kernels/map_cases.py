"""Inputs and an independent oracle for the anomaly map tests: torch's own interpolate, scipy's own Gaussian filter."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor

SCIPY_MODE = {
    "zeros": "constant", "replicate": "nearest", "reflect": "mirror", "symmetric": "reflect", "circular": "grid-wrap"
}
LEVELS = ((8, 12, 16), (20, 8, 7), (5, 4, 3))


def features(
    levels: Sequence[tuple[int, int, int]] = LEVELS, batch: int = 2, dtype: torch.dtype = torch.float32, seed: int = 0,
    teacher_last: bool = False, student_last: bool = False, device: str = "cpu",
) -> tuple[list[Tensor], list[Tensor]]:
    """A teacher and a student that half agrees with it; levels as (C, h, w)."""
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for shape in levels:
        t = torch.randn(batch, *shape, generator=generator)
        pairs.append((t, t + 0.7 * torch.randn(batch, *shape, generator=generator)))
    formats = [torch.channels_last if last else torch.contiguous_format for last in (teacher_last, student_last)]
    teacher = [t.to(device, dtype).contiguous(memory_format=formats[0]) for t, _ in pairs]
    return teacher, [s.to(device, dtype).contiguous(memory_format=formats[1]) for _, s in pairs]


def oracle(
    teacher: Sequence[Tensor], student: Sequence[Tensor], size: int | tuple[int, int], *, weights: Any = None,
    combine: str = "sum", sigma: float = 4.0, align_corners: bool = False, padding: str = "reflect",
    score: str = "max", topk: int = 100,
) -> tuple[Tensor, Tensor]:
    """The definition, operator by operator, in float64: map (B, H, W) and score (B,)."""
    weights = [1.0] * len(teacher) if weights is None else weights
    size = (size, size) if isinstance(size, int) else size
    levels = []
    for t, s in zip(teacher, student):
        t, s = t.double().cpu(), s.double().cpu()
        d = 1 - (F.normalize(t, dim=1, eps=1e-8) * F.normalize(s, dim=1, eps=1e-8)).sum(1, keepdim=True)
        levels.append(F.interpolate(d, size=size, mode="bilinear", align_corners=align_corners)[:, 0])
    if combine == "product":
        maps = torch.stack([level.clamp_min(0) ** w for level, w in zip(levels, weights)]).prod(0)
    else:
        maps = torch.stack([w * level for level, w in zip(levels, weights)]).sum(0)
        maps = maps / sum(weights) if combine == "mean" else maps
    if sigma > 0:
        mode = SCIPY_MODE[padding]
        maps = torch.from_numpy(np.stack([gaussian_filter(m.numpy(), sigma, mode=mode) for m in maps]))
    flat = maps.flatten(1)
    if score == "max":
        return maps, flat.amax(1)
    return maps, flat.sort(dim=1, descending=True).values[:, :topk].mean(1)


def nearly_parallel(ratio: float, last: bool = False) -> tuple[Tensor, Tensor]:
    """(1, 1024, 4, 4) twice, d = 5e-7: 1 - c in float32 keeps one digit of it. The first is `ratio` times as long."""
    generator = torch.Generator().manual_seed(0)
    t = torch.randn(1, 1024, 4, 4, generator=generator)
    s = (t + 1e-3 * torch.randn(1, 1024, 4, 4, generator=generator)) / ratio
    kind = torch.channels_last if last else torch.contiguous_format
    return t.contiguous(memory_format=kind), s.contiguous(memory_format=kind)


def worst(got: Tensor, expected: Tensor, floor: float = 0.01) -> float:
    """Largest deviation relative to the largest expected value, or to `floor`; inf where anything is not a number."""
    deviation = (got.double().cpu() - expected).abs().max() / expected.abs().max().clamp_min(floor)
    return float(deviation) if bool(torch.isfinite(got).all()) else float("inf")
