"""The anomaly map in plain PyTorch: the specification, the CPU path and the oracle of the Triton kernel.

Blur and upsampling are two linear operators of one axis each, so a sum over levels collapses into small products:

    blur(sum_l w_l up(d_l)) = sum_l A_l d_l B_l^T        with A_l (H, h_l) and B_l (W, w_l) of bikd_kernels.resample

A product over levels does not: every level is upsampled by its matrices, multiplied, and blurred by one more pair.
The matrices are constants under torch.compile, torch.export and the ONNX exporter; the rest is matmul.
"""

import contextlib
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..layout import arranged, feature_view, is_channels_last, pieces, position_view
from ..resample import resample_matrix
from .cosine import Scratch, compared

Combine = Literal["sum", "mean", "product"]
Score = Literal["max", "topk"]
CHUNK_BYTES = 1 << 20  # of the maps made at a time on a CPU


class MapSpec(NamedTuple):
    """Everything that fixes the linear part of the map; hashable, so that it is the key of the cached matrices."""

    levels: tuple[tuple[int, int], ...]
    size: tuple[int, int]
    weights: tuple[float, ...]
    combine: Combine
    sigma: float
    align_corners: bool
    padding: str


def anomaly_map(
    teacher: Sequence[Tensor],
    student: Sequence[Tensor],
    spec: MapSpec,
    score: Score,
    topk: int,
    return_map: bool,
    eps: float = 1e-8,
) -> tuple[Tensor | None, Tensor]:
    """Reference of bikd_kernels.anomaly_map, arguments checked already; a CPU walks features and batch in pieces."""
    dtype = torch.float64 if any(x.dtype == torch.float64 for x in (*teacher, *student)) else torch.float32
    if torch.compiler.is_compiling():
        maps = combine_maps([discrepancy(t, s, eps).to(dtype) for t, s in zip(teacher, student)], spec)
        return (maps if return_map else None), score_of(maps, score, topk)
    levels = [_walked(t, s, eps, dtype) for t, s in zip(teacher, student)]
    batch, step = len(levels[0]), _slice_length(levels[0].device, spec)
    if step >= batch:
        maps = combine_maps(levels, spec)
        return (maps if return_map else None), score_of(maps, score, topk)
    whole = levels[0].new_empty((batch, *spec.size)) if return_map else None
    scores = levels[0].new_empty((batch,))
    for start in range(0, batch, step):
        part = slice(start, start + step)
        maps = combine_maps([d[part] for d in levels], spec)
        if whole is not None:
            whole[part] = maps
        scores[part] = score_of(maps, score, topk)
    return whole, scores


def _walked(teacher: Tensor, student: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """discrepancy in dtype, a piece of the features at a time, so that temporaries stay in a CPU's cache."""
    last = is_channels_last(student)
    t, s = (feature_view(arranged(x, last), last) for x in (teacher, student))
    batch, _, height, width = student.shape
    d = t.new_empty((batch, height, width), dtype=dtype)
    flat, scratch = position_view(d, last), Scratch()
    for at, where in pieces(s):
        flat[where] = compared(t[at], s[at], eps, scratch)[2]
    return d


def combine_maps(discrepancies: Sequence[Tensor], spec: MapSpec) -> Tensor:
    """Maps d_l (B, h_l, w_l), float32 or float64, into the anomaly map (B, H, W) of the same dtype."""
    device_type, dtype = discrepancies[0].device.type, discrepancies[0].dtype
    constants = matrices(dtype == torch.float64, str(discrepancies[0].device), *spec)
    with _full_precision(device_type):
        if spec.combine != "product":
            left, right = constants[:-1], constants[-1]
            halves = [torch.matmul(a, d) for a, d in zip(left, discrepancies)]
            return torch.matmul(torch.cat(halves, dim=2), right)
        rows, columns, blur = constants[: len(spec.levels)], constants[len(spec.levels) : 2 * len(spec.levels)], None
        if spec.sigma > 0:
            blur = constants[-2:]
        product: Tensor | None = None
        for d, a, b, weight in zip(discrepancies, rows, columns, spec.weights):
            level = torch.matmul(torch.matmul(a, d), b)
            if weight != 1.0:
                level = level.clamp_min(0.0) ** weight
            product = level if product is None else product * level
        assert product is not None
        return product if blur is None else torch.matmul(torch.matmul(blur[0], product), blur[1])


def score_of(maps: Tensor, score: Score, topk: int) -> Tensor:
    """(B,) maximum, or mean of the `topk` highest positions (of all of them where the map has fewer)."""
    flat = maps.flatten(1)
    if score == "max":
        return flat.amax(dim=1)
    return flat.topk(min(topk, maps.shape[1] * maps.shape[2]), dim=1).values.mean(dim=1)


def discrepancy(teacher: Tensor, student: Tensor, eps: float) -> Tensor:
    """1 - cosine over the channels, (B, C, ...) -> (B, ...), float32 (float64 for float64 inputs), in few nodes of a graph."""
    dtype = torch.float64 if torch.float64 in (teacher.dtype, student.dtype) else torch.float32
    t, s = teacher.to(dtype), student.to(dtype)
    squared = [(x * x).sum(dim=1) for x in (t, s)]
    held = [x.clamp_min(eps * eps) for x in squared]
    e = t * held[0].rsqrt().unsqueeze(1) - s * held[1].rsqrt().unsqueeze(1)
    missing = 2.0 - squared[0] / held[0] - squared[1] / held[1]  # exactly 0 where neither norm is below eps
    return 0.5 * ((e * e).sum(dim=1) + missing)


@torch.compiler.assume_constant_result
def matrices(double: bool, device: str, *spec: Any) -> list[Tensor]:
    """The constants of a spec: A_1 .. A_L and all B^T stacked; for a product all A, all B^T, then the blur's pair.

    The fields of the spec come one by one because dynamo, which runs this while it traces, takes plain tuples only.
    """
    if torch.device(device).type == "cpu" or torch.compiler.is_compiling():
        return [torch.from_numpy(a).to(device) for a in _arrays(MapSpec(*spec), double)]
    return _device_matrices(MapSpec(*spec), double, device)


@lru_cache(maxsize=64)
def _device_matrices(spec: MapSpec, double: bool, device: str) -> list[Tensor]:
    return [torch.from_numpy(a).to(device) for a in _arrays(spec, double)]


@lru_cache(maxsize=64)
def _arrays(spec: MapSpec, double: bool) -> list[NDArray[Any]]:
    product = spec.combine == "product"
    sigma = 0.0 if product else spec.sigma
    share = sum(spec.weights) if spec.combine == "mean" else 1.0
    rows, columns = [], []
    for (h, w), weight in zip(spec.levels, spec.weights):
        factor = 1.0 if product else weight / share
        rows.append(factor * resample_matrix(h, spec.size[0], sigma, spec.align_corners, spec.padding))
        columns.append(resample_matrix(w, spec.size[1], sigma, spec.align_corners, spec.padding).T)
    if product:
        arrays = rows + columns
        if spec.sigma > 0:
            height, width = spec.size
            arrays.append(resample_matrix(height, height, spec.sigma, False, spec.padding))
            arrays.append(resample_matrix(width, width, spec.sigma, False, spec.padding).T)
    else:
        arrays = [*rows, np.concatenate(columns)]
    return [np.ascontiguousarray(a, dtype=np.float64 if double else np.float32).copy() for a in arrays]


def _slice_length(device: torch.device, spec: MapSpec) -> int:
    """Images whose maps are made at a time: what fits a core's cache on a CPU, the whole batch elsewhere."""
    return max(1, CHUNK_BYTES // (4 * spec.size[0] * spec.size[1])) if device.type == "cpu" else sys.maxsize


def _full_precision(device_type: str) -> contextlib.AbstractContextManager:
    """Leave autocast: a map in bfloat16 has steps of 1 %, which merge neighbouring scores."""
    if device_type != "meta" and torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return contextlib.nullcontext()
