"""Multi-scale cosine discrepancy 1 - cos(teacher, student): loss, per-scale losses and maps.

For a scalar loss the gradient is computed inside the forward pass: features are read once and the gradient is written
once, 3 feature sets of traffic instead of the 33 of eager PyTorch. Kernels are in cosine_kernel.py.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.library import Library

from .checks import (
    DEAD,
    OVERS,
    REDUCTIONS,
    as_levels,
    one_of,
    position_maps,
    positive_eps,
    refuse_forward_mode,
    same_shapes,
    scale_list,
)
from .cosine_kernel import pair_kernel
from .cosine_statistics import Statistics, refuse_double_backward
from .dispatch import choose
from .layout import arranged, gradient_like, is_channels_last
from .partials import by_list, folded, folds_of, ordered_sum, scaled
from .reference import cosine as reference
from .tiles import entries_of, launches


def launch_pair(
    teacher: Sequence[Tensor], student: Sequence[Tensor], weights: Sequence[Tensor], scale: Sequence[float],
    inverse: Tensor | None, fold: Sequence[float], eps: float, dead_zero: bool, grad_teacher: bool, grad_student: bool,
) -> tuple[Tensor, list[Tensor]]:
    """reference.pair as one launch for all levels of a layout and one ordered sum."""
    layouts = [is_channels_last(s) for s in student]
    grads_t = [gradient_like(t, last) for t, last in zip(teacher, layouts)] if grad_teacher else []
    grads_s = [gradient_like(s, last) for s, last in zip(student, layouts)] if grad_student else []
    teacher = [arranged(t, last) for t, last in zip(teacher, layouts)]
    student = [arranged(s, last) for s, last in zip(student, layouts)]
    groups = launches("pair", layouts, (teacher, student))
    part = torch.empty(1, sum(p.ends[-1] for _, p in groups), dtype=torch.float32, device=student[0].device)
    start = 0
    for levels, p in groups:
        def pick(maps: Sequence[Any], levels: list[int] = levels) -> tuple[Any, ...]:
            return tuple(maps[k] for k in levels)
        pair_kernel[(p.ends[-1],)](
            pick(teacher), pick(student), pick(weights or student), part if inverse is None else entries_of(inverse, levels),
            pick(grads_t or student), pick(grads_s or student), part[0, start:], pick(scale), pick(fold), eps * eps, p.hw,
            p.rows, p.channels, p.ends, L=len(levels), C=p.channels, BLOCK_C=p.block_c, BLOCK_P=p.block_p,
            NHWC=p.channels_last, EVEN_P=p.even, GRAD_T=grad_teacher, GRAD_S=grad_student, HAS_W=inverse is not None,
            DEAD_ZERO=dead_zero, num_warps=p.warps)
        start += p.ends[-1]
    return ordered_sum(part, torch.float32)[0], grads_t + grads_s


library = Library("bikd_kernels", "FRAGMENT")
library.define("pair(Tensor[] teacher, Tensor[] student, Tensor[] weights, float[] scale, Tensor? inverse, bool mean, "
               "float eps, bool dead_zero, bool grad_teacher, bool grad_student, str impl) -> (Tensor, Tensor[])")


def _pair(teacher, student, weights, scale, inverse, mean, eps, dead_zero, grad_teacher, grad_student, impl):
    run = launch_pair if impl == "triton" else reference.pair
    if mean and inverse is None:  # here, where shapes are numbers: torch.compile and torch.export may leave the batch open
        scale = [w / max(1, s.shape[0] * s.shape[2] * s.shape[3]) for w, s in zip(scale, student)]
    wanted = [side for side, asked in ((teacher, grad_teacher), (student, grad_student)) if asked]
    fold = folds_of(wanted, len(student), mean)
    with torch.cuda.device_of(student[0]):
        return run(teacher, student, weights, scale, inverse, fold, eps, dead_zero, grad_teacher, grad_student)


library.impl("pair", _pair, "CompositeExplicitAutograd")


@torch.library.register_fake("bikd_kernels::pair", lib=library)
def _(teacher, student, weights, scale, inverse, mean, eps, dead_zero, grad_teacher, grad_student, impl):
    layouts = [is_channels_last(s) for s in student]
    dtype = torch.float64 if student[0].dtype == torch.float64 else torch.float32
    grads = [gradient_like(x, last) for maps, wanted in ((teacher, grad_teacher), (student, grad_student)) if wanted
             for x, last in zip(maps, layouts)]
    return student[0].new_empty((), dtype=dtype), grads


class Pair(Function):
    """The scalar loss from (settings, inverse, *teacher, *student, *weights); the gradient waits in the context."""

    @staticmethod
    def forward(ctx, settings, inverse, *tensors):
        levels, scale, *options = settings
        loss, grads = torch.ops.bikd_kernels.pair(
            list(tensors[:levels]), list(tensors[levels:2 * levels]), list(tensors[2 * levels:]), list(scale), inverse, *options)
        ctx.settings = settings
        ctx.extra = len(tensors) - 2 * levels
        keep_gradients(ctx, grads)
        return loss

    @staticmethod
    def backward(ctx, upstream):
        levels, _, mean, _, _, grad_teacher, grad_student, impl = ctx.settings
        grads = take_gradients(ctx)
        sides = by_list(grads, levels)
        grads = scaled(grads, upstream, folded(sides, mean) * len(sides), impl == "triton")
        none = (None,) * levels
        return (None, None, *(grads[:levels] if grad_teacher else none), *(grads[-levels:] if grad_student else none),
                *(None,) * ctx.extra)


def keep_gradients(ctx, grads: Sequence[Tensor]) -> None:
    """Hold gradients computed in a forward pass until the backward pass, out of reach of anything else."""
    if torch.compiler.is_compiling():
        ctx.save_for_backward(*grads)
    else:
        ctx.grads = list(grads)


def take_gradients(ctx) -> list[Tensor]:
    """Hand the held gradients over, once: they will be scaled in place.

    Raises RuntimeError on a second backward pass and on double backward.
    """
    if torch.compiler.is_compiling():
        return list(ctx.saved_tensors) or list(ctx.grads)  # the latter: compiled autograd behind an eager forward pass
    refuse_double_backward()
    if ctx.grads is None:
        raise RuntimeError(
            "second backward through a loss of bikd_kernels: its gradient is computed once, in the forward pass, and has "
            "been handed over already; call the operator again, or use reduction='per_scale', which keeps its inputs")
    grads, ctx.grads = ctx.grads, None
    return grads


def cosine_discrepancy(
    teacher: Sequence[Tensor], student: Sequence[Tensor], *, weights: Sequence[Tensor] | None = None,
    scale_weights: Sequence[float] | None = None, reduction: str = "mean", over: str = "position", eps: float = 1e-8,
    dead: str = "torch", impl: str = "auto",
) -> Tensor | list[Tensor]:
    """1 - cos between teacher and student features, over channels at each position or over each whole map.

    teacher, student: lists of (B, C, H, W) maps of equal shapes level by level; float32, bfloat16, float16 (float64
        takes the reference), mixed as you like, any strides (NCHW and channels_last without a copy, where both maps of a
        level agree). Gradient flows to whichever requires it. Arithmetic is float32 throughout.
    weights: one (B, H, W) map a level ((B,) with over="map"), without gradient. A weighted mean divides by the sum of the
        weights; where that is 0 the level contributes 0.
    scale_weights: one float a level, 1 by default; multiplies every reduction.
    reduction: "mean" over batch and positions, summed over the levels; "sum" over everything; "per_scale", (L,) means
        that add up to "mean"; "none", a list of (B, H, W) maps ((B,) with over="map").
    over: "position" (STPM and most of its successors) or "map", the cosine of the flattened C*H*W map of each image
        (reverse distillation, Deng and Li, CVPR 2022).
    eps: vectors are divided by max(norm, eps), as torch.nn.functional.cosine_similarity does.
    dead: gradient where a norm is <= eps, as in ReLU features: "torch" keeps the slope 1/eps of that division (finite:
        float16 saturates), "zero" gives none.
    impl: see bikd_kernels.dispatch.

    Returns float32 values (float64 for float64 input), 0 for an empty batch. A scalar loss carries its gradient with it (but for
    float16 with weights, whose gradients have a range that only the upstream gradient tells): a second backward pass, except
    under torch.compile, and double backward raise RuntimeError, and so does forward mode. ValueError for arguments that do not fit
    together.
    """
    one_of("reduction", reduction, REDUCTIONS)
    one_of("over", over, OVERS)
    one_of("dead", dead, DEAD)
    eps = positive_eps(eps)
    teacher, student = as_levels("teacher", teacher), as_levels("student", student)
    same_shapes("teacher", teacher, "student", student)
    refuse_forward_mode([*teacher, *student])
    levels = len(student)
    scales = scale_list(scale_weights, levels)
    weight_maps: list[Tensor] = []
    if weights is not None:
        position_maps("weights", weights, student, per_image=over == "map")
        weight_maps = [w.detach().contiguous() for w in weights]
    impl = choose(impl, [*teacher, *student, *weight_maps])
    recorded = torch.is_grad_enabled()
    grad_teacher = recorded and any(t.requires_grad for t in teacher)
    grad_student = recorded and any(s.requires_grad for s in student)

    wanted = (teacher if grad_teacher else []) + (student if grad_student else [])
    narrow = weight_maps and any(x.dtype == torch.float16 for x in wanted)
    if over == "position" and reduction in ("mean", "sum") and not narrow:
        inverse = None
        if weight_maps:
            wide = torch.float64 if student[0].dtype == torch.float64 else torch.float32
            totals = torch.stack([w.sum(dtype=wide) for w in weight_maps])
            live = totals != 0 if reduction == "mean" else torch.zeros_like(totals, dtype=torch.bool)
            inverse = torch.where(live, 1 / torch.where(live, totals, 1), 1)
        options = (reduction == "mean", eps, dead == "zero", grad_teacher, grad_student, impl)
        if not wanted:
            return torch.ops.bikd_kernels.pair(teacher, student, weight_maps, scales, inverse, *options)[0]
        return Pair.apply((levels, tuple(scales), *options), inverse, *teacher, *student, *weight_maps)

    if wanted:
        saved_path = (over == "map", eps, dead == "zero", grad_teacher, grad_student, impl)
        values = list(Statistics.apply(saved_path, *teacher, *student))
    else:
        values = [x[0] for x in torch.ops.bikd_kernels.statistics(teacher, student, over == "map", eps, impl)]
    result = []
    for k, d in enumerate(values):
        divisor: Tensor | float = max(1, d.numel())
        if weight_maps:
            w = weight_maps[k].to(d.dtype)
            total = w.sum()
            divisor = torch.where(total != 0, total, 1)
            d = d * w
        if reduction != "none":
            d = d.sum() if reduction == "sum" else d.sum() / divisor
        result.append(d * scales[k])
    if reduction == "none":
        return result
    return torch.stack(result) if reduction == "per_scale" else torch.stack(result).sum()
