"""anomaly_map: discrepancy -> upsample -> combine -> blur -> score, in as few passes as the mathematics allows."""

import operator
from collections.abc import Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from . import map_launch  # noqa: F401  registers torch.ops.bikd_kernels.anomaly_map
from .checks import as_levels, blur_sigma, one_of, same_shapes, scale_list, size_pair, whole
from .dispatch import choose
from .reference import anomaly_map as reference
from .resample import PADDINGS, Padding

COMBINES: tuple[str, ...] = get_args(reference.Combine)
SCORES: tuple[str, ...] = get_args(reference.Score)


def anomaly_map(
    teacher: Sequence[Tensor],
    student: Sequence[Tensor],
    size: int | tuple[int, int],
    *,
    scale_weights: Sequence[float] | None = None,
    combine: reference.Combine = "sum",
    sigma: float = 4.0,
    align_corners: bool = False,
    padding: Padding = "reflect",
    score: reference.Score = "max",
    topk: int = 100,
    return_map: bool = True,
    impl: str = "auto",
) -> tuple[Tensor | None, Tensor]:
    """Anomaly map and image score of a teacher-student pair, for inference: no gradient flows back.

    map = blur(combine_l w_l up(d_l)), d_l = 1 - cosine over the channels at each position (eps 1e-8), up = bilinear.

    Args:
        teacher, student: one (B, C_l, h_l, w_l) tensor a level, any float dtype, contiguous or channels_last.
        size: (H, W) of the map, or one int for a square.
        scale_weights: a number >= 0 a level, 1 by default. "sum" and "mean" multiply by them ("mean" divides by their
            sum); "product" raises to their power, so that a weight of 0 leaves a level out there too.
        sigma: of the Gaussian in pixels of the map, truncated at 4 sigma; 0 is no blur.
        align_corners: of the bilinear upsampling, as in torch.nn.functional.interpolate.
        padding: of the blur: "zeros", "replicate", "reflect", "circular" as in torch.nn.functional.pad,
            "symmetric" as in numpy.pad, which is what scipy.ndimage.gaussian_filter calls "reflect".
        score: "max" of the map, or "topk", the mean of its `topk` highest values (of all, where there are fewer).
        return_map: False leaves the map out and returns None for it.
        impl: "auto", "triton" or "reference".

    Returns:
        map (B, H, W) and score (B,), float32 (float64 for float64 features).

    Raises:
        ValueError: for arguments that do not fit each other; the message says which.
    """
    teacher, student = as_levels("teacher", teacher), as_levels("student", student)
    spec = _checked(teacher, student, size, scale_weights, combine, sigma, align_corners, padding)
    one_of("score", score, SCORES)
    topk = whole("topk", topk, 1)
    teacher, student = [t.detach() for t in teacher], [s.detach() for s in student]
    if choose(impl, [*teacher, *student]) == "reference":
        return reference.anomaly_map(teacher, student, spec, score, topk, return_map)
    options = (spec.combine, spec.sigma, spec.align_corners, spec.padding, score, topk, return_map)
    maps, scores = torch.ops.bikd_kernels.anomaly_map(teacher, student, spec.size, spec.weights, *options)
    return (maps if return_map else None), scores


def _checked(
    teacher: list[Tensor],
    student: list[Tensor],
    size: int | tuple[int, int],
    scale_weights: Sequence[float] | None,
    combine: reference.Combine,
    sigma: float,
    align_corners: bool,
    padding: str,
) -> reference.MapSpec:
    same_shapes("teacher", teacher, "student", student)
    for level, t in enumerate(teacher):
        if t.shape[0] != teacher[0].shape[0]:
            raise ValueError(f"level {level} holds {t.shape[0]} images, level 0 holds {teacher[0].shape[0]}")
        if min(t.shape[1:]) < 1:
            raise ValueError(f"level {level} is empty: {tuple(t.shape)}")
    height, width = size_pair("size", _fixed(size))
    weights = tuple(scale_list(_fixed(scale_weights), len(teacher)))
    if min(weights) < 0:
        raise ValueError(f"scale_weights must be finite and >= 0, got {weights}")
    one_of("combine", combine, COMBINES)
    if combine == "mean" and sum(weights) == 0:
        raise ValueError("combine='mean' divides by the sum of scale_weights, which is 0")
    sigma = blur_sigma(_fixed(sigma))
    one_of("padding", padding, PADDINGS)
    levels = tuple(_fixed(tuple(t.shape[2:])) for t in teacher)
    return reference.MapSpec(levels, (height, width), weights, combine, sigma, bool(align_corners), padding)


def _fixed(given: Any) -> Any:
    """Ints, floats and sequences of them as they are; where torch.compile would leave them open, as this graph's own: the matrices
    are made from them."""
    if isinstance(given, list | tuple):
        return tuple([_fixed(x) for x in given])
    if isinstance(given, float):
        return float(f"{given}")
    return operator.index(given) if isinstance(given, int) else given
