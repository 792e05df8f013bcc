"""The cosine discrepancy in plain PyTorch with its gradient worked out by hand: the CPU path.

A level is walked through in pieces that stay in the cache; value and gradient come out of one pass, and beyond the
gradient itself nothing of the size of a feature map is allocated. Arithmetic in float32 (float64 for float64 input).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..layout import arranged, feature_view, gradient_like, is_channels_last, pieces, position_view
from .naive import wide


def squared_norm(x: Tensor, dim: int) -> Tensor:
    """Sum of squares over dim. vector_norm needs no temporary but is slow unless dim is the contiguous one."""
    if x.stride(dim) == 1:
        return torch.linalg.vector_norm(x, dim=dim).square_()
    return (x * x).sum(dim)


def normalised(x: Tensor, dim: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """(x / max(|x|, eps), 1 / max(|x|, eps), |x|^2) of a wide piece."""
    squared = squared_norm(x, dim)
    r = squared.clamp_min(eps * eps).rsqrt_()
    return x * r.unsqueeze(dim), r, squared


def missing_norm(squared: Tensor, r: Tensor, eps: float) -> Tensor | float:
    """1/2 (1 - |x^|^2) where |x| <= eps, else 0."""
    dead = squared <= eps * eps
    if not dead.is_cuda and not bool(dead.any()):  # the usual case; asking a GPU would be a host sync
        return 0.0
    return torch.where(dead, 0.5 - 0.5 * squared * r * r, 0)


def unit_discrepancy(t: Tensor, s: Tensor, dim: int) -> Tensor:
    """1/2 |t - s|^2 over dim: 1 - cos of unit vectors without its cancellation."""
    return squared_norm(t - s, dim).mul_(0.5)


def pull(weight: Tensor | float, c: Tensor, rs: Tensor, ss: Tensor, eps: float, dead_zero: bool) -> tuple[Tensor, Tensor]:
    """(a, b) such that weight * dd/ds = a t^ + b s^; the projection vanishes where |s| <= eps."""
    live = ss > eps * eps
    a = rs * weight
    b = torch.where(live, a * c, 0)
    return (torch.where(live, -a, 0) if dead_zero else -a), b


def write(out: Tensor, t: Tensor, a: Tensor, s: Tensor, b: Tensor, dim: int) -> None:
    """out = a t + b s in out's type; float16 saturates instead of overflowing."""
    if out.dtype == t.dtype:
        torch.mul(t, a.unsqueeze(dim), out=out).addcmul_(s, b.unsqueeze(dim))
        return
    value = (t * a.unsqueeze(dim)).addcmul_(s, b.unsqueeze(dim))
    out.copy_(value.clamp_(-65504, 65504) if out.dtype == torch.float16 else value)


def pair(
    teacher: Sequence[Tensor], student: Sequence[Tensor], weights: Sequence[Tensor], scale: Sequence[float],
    inverse: Tensor | None, fold: Sequence[float], eps: float, dead_zero: bool, grad_teacher: bool, grad_student: bool,
) -> tuple[Tensor, list[Tensor]]:
    """sum_k scale_k inverse_k sum(weights_k d_k), and its gradients times fold_k: teacher's levels, then student's.

    weights: one contiguous (B, H, W) map a level, or none. inverse: (L,) or None. fold keeps float16 gradients out of
    the subnormals. A list of gradients that was not asked for is left out.
    """
    total = torch.zeros((), dtype=torch.float64, device=student[0].device)
    grads_t: list[Tensor] = []
    grads_s: list[Tensor] = []
    for k, (t_map, s_map) in enumerate(zip(teacher, student)):
        last = is_channels_last(s_map)
        dim = 1
        t_all, s_all = feature_view(arranged(t_map, last), last), feature_view(arranged(s_map, last), last)
        w_all = position_view(weights[k], last) if weights else None
        factor: Tensor | float = scale[k] if inverse is None else scale[k] * inverse[k]
        if grad_teacher:
            grads_t.append(gradient_like(t_map, last))
        if grad_student:
            grads_s.append(gradient_like(s_map, last))
        for at, where in pieces(s_all):
            t, rt, tt = normalised(wide(t_all[at]), dim, eps)
            s, rs, ss = normalised(wide(s_all[at]), dim, eps)
            d = unit_discrepancy(t, s, dim).add_(missing_norm(tt, rt, eps)).add_(missing_norm(ss, rs, eps))
            w = factor if w_all is None else wide(w_all[where]) * factor
            total += (d * w).sum(dtype=torch.float64)
            if grad_student:
                a, b = pull(w * fold[k], 1 - d, rs, ss, eps, dead_zero)
                write(feature_view(grads_s[k], last)[at], t, a, s, b, dim)
            if grad_teacher:
                a, b = pull(w * fold[k], 1 - d, rt, tt, eps, dead_zero)
                write(feature_view(grads_t[k], last)[at], s, a, t, b, dim)
    return total.to(wide(student[0]).dtype), grads_t + grads_s


def statistics(teacher: Sequence[Tensor], student: Sequence[Tensor], over_map: bool, eps: float) -> list[Tensor]:
    """One wide (3, B, H, W) tensor a level, (3, B) over the flattened map: d, |t|^2, |s|^2."""
    result = []
    for t_map, s_map in zip(teacher, student):
        batch, _, height, width = s_map.shape
        last = is_channels_last(s_map)
        t_map, s_map = arranged(t_map, last), arranged(s_map, last)
        dtype = wide(s_map[:0]).dtype
        if over_map:
            result.append(torch.stack([map_statistics(wide(t), wide(s), eps) for t, s in zip(t_map, s_map)], 1)
                          if batch else torch.zeros(3, 0, dtype=dtype, device=s_map.device))
            continue
        out = torch.empty(3, batch, height, width, dtype=dtype, device=s_map.device)
        views = [position_view(x, last) for x in out]
        t_all, s_all = feature_view(t_map, last), feature_view(s_map, last)
        for at, where in pieces(s_all):
            t, rt, tt = normalised(wide(t_all[at]), 1, eps)
            s, rs, ss = normalised(wide(s_all[at]), 1, eps)
            views[0][where] = unit_discrepancy(t, s, 1) + missing_norm(tt, rt, eps) + missing_norm(ss, rs, eps)
            views[1][where] = tt
            views[2][where] = ss
        result.append(out)
    return result


def map_statistics(t: Tensor, s: Tensor, eps: float) -> Tensor:
    """(3,) of one image's whole map, both maps in one memory layout."""
    tt, ss = (torch.linalg.vector_norm(x).square() for x in (t, s))
    rt, rs = (x.clamp_min(eps * eps).rsqrt() for x in (tt, ss))
    d = 0.5 * torch.linalg.vector_norm((t * rt).sub_(s * rs)).square()
    dead = [torch.where(x <= eps * eps, 0.5 - 0.5 * x * r * r, 0) for x, r in ((tt, rt), (ss, rs))]
    return torch.stack([d + dead[0] + dead[1], tt, ss])


def blend(teacher: Sequence[Tensor], student: Sequence[Tensor], coefficients: Sequence[Tensor], grad_teacher: bool,
          grad_student: bool) -> list[Tensor]:
    """Gradients from per-position coefficients (4, B, H, W): teacher's levels a2 s + a3 t, then student's a0 t + a1 s."""
    grads_t, grads_s = [], []
    for t_map, s_map, coefficient in zip(teacher, student, coefficients):
        last = is_channels_last(s_map)
        t_all, s_all = feature_view(arranged(t_map, last), last), feature_view(arranged(s_map, last), last)
        a = [position_view(x, last) for x in coefficient]
        gs = gradient_like(s_map, last) if grad_student else None
        gt = gradient_like(t_map, last) if grad_teacher else None
        for at, where in pieces(s_all):
            t, s = wide(t_all[at]), wide(s_all[at])
            if gs is not None:
                write(feature_view(gs, last)[at], t, a[0][where], s, a[1][where], 1)
            if gt is not None:
                write(feature_view(gt, last)[at], s, a[2][where], t, a[3][where], 1)
        grads_t += [gt] if gt is not None else []
        grads_s += [gs] if gs is not None else []
    return grads_t + grads_s
