"""The cosine discrepancy in plain PyTorch with its gradient worked out by hand: the CPU path.

A level is walked through in pieces that stay in the cache; value and gradient come out of one walk, and beyond the gradient
itself nothing of the size of a feature map is allocated. Arithmetic in float32 (float64 for float64 input).

Everything stands on one difference, e = t - k s with k = |t| / |s| (norms of at least eps), which nothing has to be normalised
for: d = 1 - cos = 1/2 |e|^2 / |t|^2, without the cancellation of 1 - <t, s>, dd/ds = -(e + k d s) / (|t| |s|) and
dd/dt = (e - d t) / |t|^2.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..layout import arranged, feature_view, gradient_like, is_channels_last, pieces, position_view
from .naive import wide


class Scratch:
    """Buffers that serve one piece after the other: fresh ones of their size would be mapped and cleared every time."""

    def __init__(self) -> None:
        self.held: dict[int, Tensor] = {}

    def __call__(self, slot: int, like: Tensor) -> Tensor:
        """An uninitialised tensor of the shape of like, in the arithmetic type; it is valid until the slot is asked for again."""
        dtype, count = (torch.float64 if like.dtype == torch.float64 else torch.float32), like.numel()
        buffer = self.held.get(slot)
        if buffer is None or buffer.numel() < count or buffer.dtype != dtype:
            buffer = self.held[slot] = torch.empty(count, dtype=dtype, device=like.device)
        return buffer[:count].view(like.shape)

    def wide(self, slot: int, x: Tensor) -> Tensor:
        """x itself if it is in an arithmetic type, else a copy that is."""
        return x if x.dtype in (torch.float32, torch.float64) else self(slot, x).copy_(x)


class Vectors(NamedTuple):
    """A wide piece with its vectors along dimension 1.

    squared: |x|^2. r: 1 / max(|x|, eps). missing: 1/2 (1 - |x r|^2) where |x| <= eps, else 0; plain 0.0 where none is that short.
    """

    x: Tensor
    squared: Tensor
    r: Tensor
    missing: Tensor | float


class Difference(NamedTuple):
    """e = t - k s, k = |t| / |s|, and the discrepancy d = 1 - cos(t, s)."""

    e: Tensor
    k: Tensor
    d: Tensor


def squared_norm(x: Tensor, spare: Tensor | None = None) -> Tensor:
    """Sum of squares over dimension 1. vector_norm needs no temporary but is slow unless that dimension is contiguous."""
    if x.stride(1) == 1:
        return torch.linalg.vector_norm(x, dim=1).square_()
    return (x * x if spare is None else torch.mul(x, x, out=spare)).sum(1)


def vectors(x: Tensor, eps: float, spare: Tensor | None = None) -> Vectors:
    """Norms of a wide piece; spare is written over."""
    squared = squared_norm(x, spare)
    if squared.is_cpu and squared.numel() and float(squared.amin()) > eps * eps:  # the usual case; of a GPU it would be a host sync
        return Vectors(x, squared, squared.rsqrt(), 0.0)
    r = squared.clamp_min(eps * eps).rsqrt_()
    dead = squared <= eps * eps
    return Vectors(x, squared, r, torch.where(dead, 0.5 - 0.5 * squared * r * r, 0))


def difference(t: Vectors, s: Vectors, out: Tensor | None = None, spare: Tensor | None = None) -> Difference:
    """Compare two pieces; e is written to out, spare is written over (it may not be out)."""
    k = s.r / t.r
    e = torch.addcmul(t.x, s.x, k.unsqueeze(1), value=-1, out=out)
    d = squared_norm(e, spare).mul_(t.r).mul_(t.r).mul_(0.5)
    for x in (t, s):
        d = d if isinstance(x.missing, float) else d + x.missing
    return Difference(e, k, d)


def pull(weight: Tensor | float, t: Vectors, s: Vectors, found: Difference, eps: float, dead_zero: bool) -> tuple[Tensor, Tensor]:
    """(a, b) such that weight * dd/ds = a e + b s; the projection vanishes where |s| <= eps."""
    a, b = (t.r * s.r).mul_(-1) * weight, (s.r * s.r).mul_(-1) * weight
    return _at_dead(a, b, found.d, s, eps, dead_zero)


def pull_back(weight: Tensor | float, t: Vectors, found: Difference, eps: float, dead_zero: bool) -> tuple[Tensor, Tensor]:
    """(a, b) such that weight * dd/dt = a e + b t."""
    a = (t.r * t.r) * weight
    return _at_dead(a, -a, found.d, t, eps, dead_zero)


def _at_dead(a: Tensor, b: Tensor, d: Tensor, x: Vectors, eps: float, dead_zero: bool) -> tuple[Tensor, Tensor]:
    if isinstance(x.missing, float):
        return a, b * d
    live = x.squared > eps * eps
    b = b * torch.where(live, d, 1)
    return (torch.where(live, a, 0), torch.where(live, b, 0)) if dead_zero else (a, b)


def write(out: Tensor, e: Tensor, a: Tensor, x: Tensor, b: Tensor, spare: Tensor | None = None) -> None:
    """out = a e + b x in out's type; float16 saturates instead of overflowing. out may be e."""
    if out.dtype == e.dtype:
        torch.mul(e, a.unsqueeze(1), out=out).addcmul_(x, b.unsqueeze(1))
    else:
        store(out, torch.mul(e, a.unsqueeze(1), out=spare).addcmul_(x, b.unsqueeze(1)))


def store(out: Tensor, value: Tensor) -> None:
    """out = value in out's type; value may be written over."""
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
    scratch = Scratch()
    for k, (t_map, s_map) in enumerate(zip(teacher, student)):
        last = is_channels_last(s_map)
        t_all, s_all = feature_view(arranged(t_map, last), last), feature_view(arranged(s_map, last), last)
        w_all = position_view(weights[k], last) if weights else None
        factor: Tensor | float = scale[k] if inverse is None else scale[k] * inverse[k]
        if grad_teacher:
            grads_t.append(gradient_like(t_map, last))
        if grad_student:
            grads_s.append(gradient_like(s_map, last))
        for at, where in pieces(s_all):
            out_t = feature_view(grads_t[k], last)[at] if grad_teacher else None
            out_s = feature_view(grads_s[k], last)[at] if grad_student else None
            t_wide, s_wide = _alike(scratch.wide(0, t_all[at]), scratch.wide(1, s_all[at]))
            only = out_t if out_s is None else out_s if out_t is None else None  # then e can grow into the gradient
            if only is not None and only.dtype == s_wide.dtype:
                e = only
            else:
                spent = out_t is None and t_wide.dtype != t_all.dtype  # a copy that nothing after the difference reads
                e = t_wide if spent else scratch(2, s_wide)
            spare = scratch(3, s_wide)
            t, s = vectors(t_wide, eps, spare), vectors(s_wide, eps, spare)
            found = difference(t, s, e, spare)
            w = factor if w_all is None else wide(w_all[where]) * factor
            total += (found.d * w).sum(dtype=torch.float64)
            if out_t is not None:
                a, b = pull_back(w * fold[k], t, found, eps, dead_zero)
                write(out_t, e, a, t.x, b, spare)
            if out_s is not None:
                a, b = pull(w * fold[k], t, s, found, eps, dead_zero)
                write(out_s, e, a, s.x, b, spare)
    return total.to(wide(student[0]).dtype), grads_t + grads_s


def _alike(t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64 if one is."""
    return (t, s) if t.dtype == s.dtype else (t.double(), s.double())


def statistics(teacher: Sequence[Tensor], student: Sequence[Tensor], over_map: bool, eps: float) -> list[Tensor]:
    """One wide (3, B, H, W) tensor a level, (3, B) over the flattened map: d, |t|^2, |s|^2."""
    result = []
    scratch = Scratch()
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
            t, s, d = compared(t_all[at], s_all[at], eps, scratch)
            views[0][where], views[1][where], views[2][where] = d, t.squared, s.squared
        result.append(out)
    return result


def compared(t: Tensor, s: Tensor, eps: float, scratch: Scratch) -> tuple[Vectors, Vectors, Tensor]:
    """Norms and discrepancy of two pieces of any type."""
    t, s = _alike(scratch.wide(0, t), scratch.wide(1, s))
    e, spare = scratch(2, s), scratch(3, s)
    one, two = vectors(t, eps, spare), vectors(s, eps, spare)
    return one, two, difference(one, two, e, spare).d


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
                write(feature_view(gs, last)[at], t, a[0][where], s, a[1][where])
            if gt is not None:
                write(feature_view(gt, last)[at], s, a[2][where], t, a[3][where])
        grads_t += [gt] if gt is not None else []
        grads_s += [gs] if gs is not None else []
    return grads_t + grads_s
