"""Argument checks shared by the operators: one clear sentence for each mistake."""

import sys
from collections.abc import Iterable, Sequence, Sized
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

REDUCTIONS = ("mean", "sum", "per_scale", "none")
OVERS = ("position", "map")
DEAD = ("torch", "zero")
MOST = sys.float_info.max


def one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    """Raise ValueError unless value is among allowed."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def _shown(value: Any) -> str:
    """A number, a string or None itself; of anything else, which may be large, its type."""
    return repr(value) if value is None or isinstance(value, str | Real) else type(value).__name__


def number(name: str, value: Any, low: float = -MOST, high: float = MOST, why: str = "") -> float:
    """value as a float; ValueError unless it is a finite number in low..high, of Python or numpy: a tensor would be a host sync."""
    if not isinstance(value, Real) or not low <= float(value) <= high:
        where = "" if low == -MOST else f" >= {low}" if high == MOST else f" in {low}..{high}"
        raise ValueError(f"{name} must be a finite number{where}{why}, got {_shown(value)}")
    return float(value)


def whole(name: str, value: Any, low: int | None = None, high: int | None = None) -> int:
    """value as an int; ValueError unless it is a whole number in low..high, of Python or numpy."""
    if isinstance(value, bool) or not isinstance(value, Integral | torch.SymInt):
        raise ValueError(f"{name} must be a whole number, got {_shown(value)}")
    n = int(value)
    if (low is not None and n < low) or (high is not None and n > high):
        raise ValueError(f"{name} must {f'be at least {low}' if high is None else f'lie in {low}..{high}'}, got {n}")
    return n


def blur_sigma(sigma: Any) -> float:
    """sigma as a float; ValueError unless it is a finite number >= 0."""
    return number("sigma", sigma, 0, why=" (pixels of the map; 0 is no blur)")


def positive_eps(eps: Any) -> float:
    """eps as a float; ValueError unless it is positive and its square is a float32 number."""
    return number("eps", eps, 1e-18, 1e18, " (its square must be one of float32)")


def size_pair(name: str, size: Any, square: bool = True) -> tuple[int, int]:
    """(height, width) as ints of a pair or, if square, of one number; ValueError unless they are whole numbers of at least 1."""
    pair = size if isinstance(size, list | tuple) else (size, size) if square else ()
    if len(pair) != 2:
        raise ValueError(f"{name} must be (height, width){' or one whole number' if square else ''}, got {size!r}")
    height, width = (whole(name, n) for n in pair)
    if height < 1 or width < 1:
        raise ValueError(f"{name} must be at least 1 x 1, got {height} x {width}")
    return height, width


def tensor(name: str, x: Any, form: str = "a") -> Tensor:
    """x itself; ValueError unless it is a tensor. form: "a", or with its shape."""
    if not isinstance(x, Tensor):
        raise ValueError(f"{name} must be {form} tensor, got {type(x).__name__}")
    return x


def _level_list(name: str, maps: Any, form: str) -> Sequence[Tensor]:
    """maps themselves; ValueError unless they are tensors in a list, a tuple or a tensor."""
    if not isinstance(maps, Tensor | list | tuple):
        raise ValueError(f"{name} must be a list of {form} maps, got {type(maps).__name__}")
    for k, x in enumerate(maps if isinstance(maps, list | tuple) else ()):
        tensor(f"{name}[{k}]", x, f"a {form}")
    return maps  # type: ignore[return-value]


def as_levels(name: str, maps: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """A list of (B, C, H, W) maps from a list or one tensor; ValueError if it is empty, of another rank, not of tensors, C = 0."""
    maps = _level_list(name, maps, "(B, C, H, W)")
    levels = [maps] if isinstance(maps, Tensor) else list(maps)
    if not levels:
        raise ValueError(f"{name} holds no feature maps")
    for k, x in enumerate(levels):
        if x.dim() != 4 or not x.is_floating_point():
            raise ValueError(f"{name}[{k}] must be a floating-point (B, C, H, W) map, got {x.dtype} {tuple(x.shape)}")
        if x.shape[1] == 0:
            raise ValueError(f"{name}[{k}] has no channels, which a cosine is taken over: {tuple(x.shape)}")
    return levels


def same_shapes(name: str, maps: Sequence[Tensor], other: str, others: Sequence[Tensor]) -> None:
    """Raise ValueError unless both lists hold maps of the same shapes, level by level."""
    if len(maps) != len(others):
        raise ValueError(f"{name} has {len(maps)} levels, {other} has {len(others)}")
    for k, (a, b) in enumerate(zip(maps, others)):
        if a.shape != b.shape:
            raise ValueError(f"{name}[{k}] has shape {tuple(a.shape)}, {other}[{k}] has {tuple(b.shape)}")


def position_maps(name: str, maps: Sequence[Tensor], levels: Sequence[Tensor], per_image: bool = False) -> None:
    """Raise ValueError unless maps[k] is real and has shape (B, H, W) of levels[k], or (B,) if per_image."""
    _level_list(name, maps, "(B,)" if per_image else "(B, H, W)")
    if len(maps) != len(levels):
        raise ValueError(f"{name} has {len(maps)} levels, the features have {len(levels)}")
    for k, (m, x) in enumerate(zip(maps, levels)):
        want = (x.shape[0],) if per_image else (x.shape[0], x.shape[2], x.shape[3])
        if tuple(m.shape) != want:
            raise ValueError(f"{name}[{k}] must have shape {want}, got {tuple(m.shape)}")
        if m.is_complex():
            raise ValueError(f"{name}[{k}] must hold real numbers, got {m.dtype}")


def bytes_only(name: str, maps: Sequence[Tensor]) -> None:
    """Raise ValueError unless there are maps, all uint8, as region_maps makes it: a mask's True would be read as 1, the ring."""
    if not len(_level_list(name, maps, "(B, H, W)")):
        raise ValueError(f"{name} holds no maps")
    for k, m in enumerate(maps):
        if m.dtype != torch.uint8:
            raise ValueError(f"{name}[{k}] must be uint8, as region_maps makes it, got {m.dtype}")


def scale_list(scale_weights: Sequence[float] | None, levels: int) -> list[float]:
    """One float a level, 1 by default; ValueError on another length and on what is not a finite number."""
    if scale_weights is None:
        return [1.0] * levels
    if not isinstance(scale_weights, Sized) or isinstance(scale_weights, str | Tensor):
        raise ValueError(f"scale_weights must be a list of {levels} numbers, got {type(scale_weights).__name__}")
    if len(scale_weights) != levels:
        raise ValueError(f"scale_weights has {len(scale_weights)} entries for {levels} levels")
    return [number(f"scale_weights[{k}]", w) for k, w in enumerate(scale_weights)]


def has_values(x: Tensor) -> bool:
    """Whether the numbers of x can be looked at for nothing: no wait for a GPU, not traced, neither meta nor fake."""
    return not torch.compiler.is_compiling() and x.device.type == "cpu" and type(x) is Tensor


def refuse_forward_mode(tensors: Iterable[Tensor]) -> None:
    """Raise RuntimeError where a tensor carries a tangent, which an operator without a rule for it would drop without a word."""
    if any(forward_ad.unpack_dual(x).tangent is not None for x in tensors):
        raise RuntimeError(
            "bikd_kernels has gradients of reverse mode only: forward-mode differentiation (jvp, jacfwd) is not supported; "
            "take bikd_kernels.reference.naive, which PyTorch differentiates in either mode")
