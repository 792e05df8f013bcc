"""What evaluation accepts, brought to one form: lists of (H, W) maps and masks, NumPy on the CPU and torch on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

Plane = Any  # a numpy array or a torch tensor of shape (H, W)


def as_planes(values: Any, what: str) -> list[Plane]:
    """(N, H, W) stack or sequence of (H, W) arrays or tensors -> list of N planes, views where possible.

    CPU tensors become NumPy views (bfloat16, which NumPy lacks, becomes float32 exactly); CUDA tensors stay where
    they are.
    """
    planes = [plane_of(value) for value in values]
    for i, plane in enumerate(planes):
        if plane.ndim != 2:
            raise ValueError(
                f"{what}[{i}] has shape {tuple(plane.shape)}; each of the {what} must be (H, W): "
                "give a list of them or one (N, H, W) stack"
            )
        if 0 in plane.shape:
            raise ValueError(f"{what}[{i}] has no pixels: shape {tuple(plane.shape)}")
    return planes


def plane_of(value: Any) -> Plane:
    """One array or tensor in the form of as_planes."""
    if not isinstance(value, torch.Tensor):
        return np.asarray(value)
    value = value.detach()
    if value.device.type != "cpu":
        return value
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()


def check_pairs(maps: Sequence[Plane], masks: Sequence[Plane]) -> None:
    """Raise unless there is one floating map for each boolean or integer mask, all maps on one device."""
    if len(maps) != len(masks):
        raise ValueError(
            f"{len(maps)} maps for {len(masks)} masks: give one mask for each map (all zeros for a normal image)"
        )
    for i, (m, k) in enumerate(zip(maps, masks)):
        if not is_float(m):
            raise TypeError(
                f"maps[{i}] is {m.dtype}: anomaly maps must be floating point (they are never rescaled or cast)"
            )
        if is_float(k):
            raise TypeError(f"masks[{i}] is {k.dtype}: masks must be bool or integer (any non-zero value is anomalous)")
    if len({device_of(m) for m in maps}) > 1:
        raise ValueError(f"maps lie on several devices: {sorted({str(device_of(m)) for m in maps})}")


def nan_error(image: int) -> ValueError:
    return ValueError(
        f"maps[{image}] contains NaN, which cannot be ranked: look for the division or overflow that made it"
    )


def is_float(plane: Plane) -> bool:
    return plane.dtype.is_floating_point if isinstance(plane, torch.Tensor) else plane.dtype.kind == "f"


def device_of(plane: Plane) -> torch.device:
    return plane.device if isinstance(plane, torch.Tensor) else torch.device("cpu")


def common_dtype(maps: Sequence[Plane]) -> np.dtype:
    """float64 if any map is float64, otherwise float32 (which holds float16 and bfloat16 exactly)."""
    wide = any(str(m.dtype).removeprefix("torch.") not in ("float16", "bfloat16", "float32") for m in maps)
    return np.dtype(np.float64 if wide else np.float32)


def fit(plane: Plane, size: tuple[int, int]) -> Plane:
    """Map resized to its mask's size: bilinear, half-pixel centres, edges replicated (torch's align_corners=False).

    Separate elementwise operations in one order, so that NumPy and torch, CPU and GPU, give the same bits. The mask is
    never resized: that loses thin regions. A map of the right size is returned as it is.

    Raises:
        ValueError: the map needs resizing and holds infinities, between which nothing can be interpolated.
    """
    height, width = int(plane.shape[0]), int(plane.shape[1])
    if (height, width) == tuple(size):
        return plane
    xp: Any = torch if isinstance(plane, torch.Tensor) else np
    if bool(xp.isinf(plane).any()):
        raise ValueError(
            f"a map of {height} x {width} with infinite values cannot be resized to its mask's {size[0]} x {size[1]}"
        )
    if str(plane.dtype).endswith("float16"):
        plane = plane.float() if xp is torch else plane.astype(np.float32)
    vertical, horizontal = _taps(height, int(size[0])), _taps(width, int(size[1]))
    (top, bottom, down), (left, right, across) = (_like(plane, *taps) for taps in (vertical, horizontal))
    upper = plane[top]
    step = plane[bottom] - upper
    step *= down[:, None]
    step += upper
    upper = step[:, left]
    step = step[:, right] - upper
    step *= across
    step += upper
    return step


def _like(plane: Plane, low: np.ndarray, high: np.ndarray, weight: np.ndarray) -> tuple[Any, Any, Any]:
    """Places and weights as the plane's own kind of array, the weights in its dtype."""
    if isinstance(plane, torch.Tensor):
        low_t, high_t, weight_t = (torch.from_numpy(x).to(plane.device) for x in (low, high, weight))
        return low_t, high_t, weight_t.to(plane.dtype)
    return low, high, weight.astype(plane.dtype)


@lru_cache(maxsize=64)
def _taps(source: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For every target position: the two source positions it lies between, and its weight towards the second."""
    place = ((np.arange(target) + 0.5) * (source / target) - 0.5).clip(0, source - 1)
    low = np.floor(place).astype(np.int64)
    return low, np.minimum(low + 1, source - 1), place - low
