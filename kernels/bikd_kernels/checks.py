"""Argument checks shared by the operators: one clear sentence for each mistake."""

from collections.abc import Sequence

import torch
from torch import Tensor

REDUCTIONS = ("mean", "sum", "per_scale", "none")
OVERS = ("position", "map")
DEAD = ("torch", "zero")


def one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    """Raise ValueError unless value is among allowed."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def as_levels(name: str, maps: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """A list of (B, C, H, W) maps from a list or one tensor; ValueError if it is empty, of another rank or not of tensors."""
    if not isinstance(maps, Tensor | list | tuple):
        raise ValueError(f"{name} must be a list of (B, C, H, W) maps, got {type(maps).__name__}")
    levels = [maps] if isinstance(maps, Tensor) else list(maps)
    if not levels:
        raise ValueError(f"{name} holds no feature maps")
    for k, x in enumerate(levels):
        if not isinstance(x, Tensor):
            raise ValueError(f"{name}[{k}] must be a (B, C, H, W) tensor, got {type(x).__name__}")
        if x.dim() != 4 or not x.is_floating_point():
            raise ValueError(f"{name}[{k}] must be a floating-point (B, C, H, W) map, got {x.dtype} {tuple(x.shape)}")
    return levels


def same_shapes(name: str, maps: Sequence[Tensor], other: str, others: Sequence[Tensor]) -> None:
    """Raise ValueError unless both lists hold maps of the same shapes, level by level."""
    if len(maps) != len(others):
        raise ValueError(f"{name} has {len(maps)} levels, {other} has {len(others)}")
    for k, (a, b) in enumerate(zip(maps, others)):
        if a.shape != b.shape:
            raise ValueError(f"{name}[{k}] has shape {tuple(a.shape)}, {other}[{k}] has {tuple(b.shape)}")


def positive_eps(eps: float) -> None:
    """Raise ValueError unless eps is positive and its square is a float32 number."""
    if not eps >= 1e-18:
        raise ValueError(f"eps must be at least 1e-18 (its square must not underflow float32), got {eps}")


def position_maps(name: str, maps: Sequence[Tensor], levels: Sequence[Tensor], per_image: bool = False) -> None:
    """Raise ValueError unless maps[k] has shape (B, H, W) of levels[k], or (B,) if per_image."""
    if len(maps) != len(levels):
        raise ValueError(f"{name} has {len(maps)} levels, the features have {len(levels)}")
    for k, (m, x) in enumerate(zip(maps, levels)):
        want = (x.shape[0],) if per_image else (x.shape[0], x.shape[2], x.shape[3])
        if tuple(m.shape) != want:
            raise ValueError(f"{name}[{k}] must have shape {want}, got {tuple(m.shape)}")


def bytes_only(name: str, maps: Sequence[Tensor]) -> None:
    """Raise ValueError unless every map is uint8, as region_maps makes it: a mask's True would be read as 1, the ring."""
    for k, m in enumerate(maps):
        if m.dtype != torch.uint8:
            raise ValueError(f"{name}[{k}] must be uint8, as region_maps makes it, got {m.dtype}")


def scale_list(scale_weights: Sequence[float] | None, levels: int) -> list[float]:
    """One float a level, 1 by default; ValueError on another length."""
    if scale_weights is None:
        return [1.0] * levels
    if len(scale_weights) != levels:
        raise ValueError(f"scale_weights has {len(scale_weights)} entries for {levels} levels")
    return [float(w) for w in scale_weights]
