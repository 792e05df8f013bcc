"""Cosine discrepancy by saved statistics: a value for every position (or image), the gradient in a second pass.

This is the path of reduction="none" and "per_scale" and of over="map", where the upstream gradient of each value is not
known before the backward pass. It saves three numbers a position and reads the features again.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import Function
from torch.library import Library

from .cosine_kernel import load_wide, missing_norm, offsets, place, rnorm, store_as, tile_mask
from .lang import tl, triton
from .layout import arranged, gradient_like, is_channels_last
from .reference import cosine as reference
from .tiles import launches

FLAT_BLOCK = 4096


@triton.jit
def statistics_kernel(T, S, OUT, eps2, HW, ROWS, CHANNELS, C: tl.constexpr, BLOCK_C: tl.constexpr,
                      BLOCK_P: tl.constexpr, NHWC: tl.constexpr, EVEN_P: tl.constexpr):
    """OUT[0..2] of ROWS positions = d, |t|^2, |s|^2 of one level."""
    base, first, limit = place(tl.program_id(0), HW, ROWS, BLOCK_P, C, NHWC)
    p = tl.arange(0, BLOCK_P)
    c = tl.arange(0, BLOCK_C)
    tt = tl.zeros([BLOCK_P], tl.float32)
    ss = tl.zeros([BLOCK_P], tl.float32)
    for c0 in range(0, CHANNELS, BLOCK_C):
        off = offsets(p, c0 + c, HW, C, NHWC)
        mask = tile_mask(p, c0 + c, limit, C, EVEN_P, C % BLOCK_C == 0)
        t = load_wide(T + base + off, mask)
        s = load_wide(S + base + off, mask)
        tt += tl.sum(t * t, axis=1)
        ss += tl.sum(s * s, axis=1)
    rt = rnorm(tt, eps2)
    rs = rnorm(ss, eps2)
    d = missing_norm(tt, eps2) + missing_norm(ss, eps2)
    for c0 in range(0, CHANNELS, BLOCK_C):
        off = offsets(p, c0 + c, HW, C, NHWC)
        mask = tile_mask(p, c0 + c, limit, C, EVEN_P, C % BLOCK_C == 0)
        e = load_wide(T + base + off, mask) * rt[:, None] - load_wide(S + base + off, mask) * rs[:, None]
        d += 0.5 * tl.sum(e * e, axis=1)
    inside = p < limit
    tl.store(OUT + first + p, d, mask=inside)
    tl.store(OUT + ROWS + first + p, tt, mask=inside)
    tl.store(OUT + 2 * ROWS + first + p, ss, mask=inside)


@triton.jit
def flat_kernel(T, S, PART, size, chunks, stride, BLOCK: tl.constexpr):
    """PART[0..2] of one chunk of one image = its share of |t|^2, |s|^2 and, k being the chunk's own |t| / |s|, |t - k s|^2 / k."""
    pid = tl.program_id(0)
    image = pid // chunks
    i = (pid % chunks) * BLOCK + tl.arange(0, BLOCK)
    base = image.to(tl.int64) * size
    t = load_wide(T + base + i, i < size)
    s = load_wide(S + base + i, i < size)
    tt = tl.sum(t * t, axis=0)
    ss = tl.sum(s * s, axis=0)
    both = (tt != 0) & (ss != 0)  # else <t, s> is 0, and so is what is stored; a NaN stays
    k = tl.sqrt(tl.where(both, tt, 1.0)) / tl.sqrt(tl.where(both, ss, 1.0))
    e = t - k * s
    tl.store(PART + pid, tt)
    tl.store(PART + stride + pid, ss)
    tl.store(PART + 2 * stride + pid, tl.where(both, tl.sum(e * e, axis=0) / k, 0.0))


@triton.jit
def blend_kernel(T, S, COEFFICIENTS, GT, GS, HW, ROWS, CHANNELS, C: tl.constexpr, BLOCK_C: tl.constexpr,
                 BLOCK_P: tl.constexpr, NHWC: tl.constexpr, EVEN_P: tl.constexpr, GRAD_T: tl.constexpr,
                 GRAD_S: tl.constexpr):
    """GS = a0 t + a1 s and GT = a2 s + a3 t with four coefficients a position."""
    base, first, limit = place(tl.program_id(0), HW, ROWS, BLOCK_P, C, NHWC)
    p = tl.arange(0, BLOCK_P)
    c = tl.arange(0, BLOCK_C)
    inside = p < limit
    a0 = tl.load(COEFFICIENTS + first + p, mask=inside, other=0.0)
    a1 = tl.load(COEFFICIENTS + ROWS + first + p, mask=inside, other=0.0)
    a2 = tl.load(COEFFICIENTS + 2 * ROWS + first + p, mask=inside, other=0.0)
    a3 = tl.load(COEFFICIENTS + 3 * ROWS + first + p, mask=inside, other=0.0)
    for c0 in range(0, CHANNELS, BLOCK_C):
        off = offsets(p, c0 + c, HW, C, NHWC)
        mask = tile_mask(p, c0 + c, limit, C, EVEN_P, C % BLOCK_C == 0)
        t = load_wide(T + base + off, mask)
        s = load_wide(S + base + off, mask)
        if GRAD_S:
            store_as(GS + base + off, t * a0[:, None] + s * a1[:, None], mask)
        if GRAD_T:
            store_as(GT + base + off, s * a2[:, None] + t * a3[:, None], mask)


def launch_statistics(teacher: Sequence[Tensor], student: Sequence[Tensor], over_map: bool, eps: float) -> list[Tensor]:
    """Float32 (3, B, H, W), or (3, B) over the map, a level."""
    layouts = [is_channels_last(s) for s in student]
    teacher = [arranged(t, last) for t, last in zip(teacher, layouts)]
    student = [arranged(s, last) for s, last in zip(student, layouts)]
    if over_map:
        return [flat_statistics(t, s, eps) for t, s in zip(teacher, student)]
    out = [s.new_empty((3, s.shape[0], s.shape[2], s.shape[3]), dtype=torch.float32) for s in student]
    for levels, p in launches("pair", layouts, (teacher, student)):
        start = 0
        for j, k in enumerate(levels):
            statistics_kernel[(p.ends[j] - start,)](
                teacher[k], student[k], out[k], eps * eps, p.hw[j], p.rows[j], p.channels[j], C=p.channels[j],
                BLOCK_C=p.block_c[j], BLOCK_P=p.block_p[j], NHWC=p.channels_last[j], EVEN_P=p.even[j], num_warps=p.warps)
            start = p.ends[j]
    return out


def flat_statistics(t: Tensor, s: Tensor, eps: float) -> Tensor:
    """(3, B): d, |t|^2, |s|^2 of the flattened maps, both dense in one layout; sums of partials in float64.

    With a = |t|, b = |s| and q = |t - (a / b) s|^2 / (a / b) of every chunk, <t, s> = sum of a b - q / 2, and for norms A and B of
    the whole 1 - cos = 1/2 sum of (a / A - b / B)^2 + q / (A B): nothing cancels, whatever the lengths.
    """
    batch, size = t.shape[0], t[:1].numel()
    chunks = -(-size // FLAT_BLOCK)
    part = torch.empty(3, batch, chunks, dtype=torch.float32, device=t.device)
    if part.numel():
        flat_kernel[(batch * chunks,)](t, s, part, size, chunks, batch * chunks, BLOCK=FLAT_BLOCK, num_warps=4)
    part = part.double()
    tt, ss, q = part.sum(-1)
    nt, ns = (x.clamp_min(eps * eps).sqrt() for x in (tt, ss))
    a, b = part[:2].sqrt()
    away = 0.5 * (((a / nt[:, None] - b / ns[:, None]) ** 2).sum(-1) + q / (nt * ns))
    live = (tt > eps * eps) & (ss > eps * eps)
    d = torch.where(live, away, 1 - ((a * b).sum(-1) - 0.5 * q) / (nt * ns))
    return torch.stack([d, tt, ss]).float()


def launch_blend(teacher: Sequence[Tensor], student: Sequence[Tensor], coefficients: Sequence[Tensor],
                 grad_teacher: bool, grad_student: bool) -> list[Tensor]:
    """See reference.blend."""
    layouts = [is_channels_last(s) for s in student]
    grads_t = [gradient_like(t, last) for t, last in zip(teacher, layouts)] if grad_teacher else []
    grads_s = [gradient_like(s, last) for s, last in zip(student, layouts)] if grad_student else []
    teacher = [arranged(t, last) for t, last in zip(teacher, layouts)]
    student = [arranged(s, last) for s, last in zip(student, layouts)]
    for levels, p in launches("pair", layouts, (teacher, student)):
        start = 0
        for j, k in enumerate(levels):
            blend_kernel[(p.ends[j] - start,)](
                teacher[k], student[k], coefficients[k], grads_t[k] if grad_teacher else student[k],
                grads_s[k] if grad_student else student[k], p.hw[j], p.rows[j], p.channels[j], C=p.channels[j],
                BLOCK_C=p.block_c[j], BLOCK_P=p.block_p[j], NHWC=p.channels_last[j], EVEN_P=p.even[j],
                GRAD_T=grad_teacher, GRAD_S=grad_student, num_warps=p.warps)
            start = p.ends[j]
    return grads_t + grads_s


library = Library("bikd_kernels", "FRAGMENT")
library.define("statistics(Tensor[] teacher, Tensor[] student, bool over_map, float eps, str impl) -> Tensor[]")
library.define("blend(Tensor[] teacher, Tensor[] student, Tensor[] coefficients, bool grad_teacher, bool grad_student, "
               "str impl) -> Tensor[]")


def _statistics(teacher: list[Tensor], student: list[Tensor], over_map: bool, eps: float, impl: str) -> list[Tensor]:
    run = launch_statistics if impl == "triton" else reference.statistics
    with torch.cuda.device_of(student[0]):
        return run(teacher, student, over_map, eps)


def _blend(teacher: list[Tensor], student: list[Tensor], coefficients: list[Tensor], grad_teacher: bool,
           grad_student: bool, impl: str) -> list[Tensor]:
    run = launch_blend if impl == "triton" else reference.blend
    with torch.cuda.device_of(student[0]):
        return run(teacher, student, coefficients, grad_teacher, grad_student)


library.impl("statistics", _statistics, "CompositeExplicitAutograd")
library.impl("blend", _blend, "CompositeExplicitAutograd")


@torch.library.register_fake("bikd_kernels::statistics", lib=library)
def _(teacher, student, over_map, eps, impl):
    return [s.new_empty((3, s.shape[0]) if over_map else (3, s.shape[0], s.shape[2], s.shape[3]),
                        dtype=torch.float64 if s.dtype == torch.float64 else torch.float32) for s in student]


@torch.library.register_fake("bikd_kernels::blend", lib=library)
def _(teacher, student, coefficients, grad_teacher, grad_student, impl):
    layouts = [is_channels_last(s) for s in student]
    return [gradient_like(x, last) for maps, wanted in ((teacher, grad_teacher), (student, grad_student)) if wanted
            for x, last in zip(maps, layouts)]


def coefficients_of(upstream: Tensor, saved: Tensor, eps: float, dead_zero: bool, shape: torch.Size) -> Tensor:
    """(4, B, H, W) of blend from the gradient of each value and the saved d, |t|^2, |s|^2."""
    d, tt, ss = saved
    e2 = eps * eps
    rt, rs = tt.clamp_min(e2).rsqrt(), ss.clamp_min(e2).rsqrt()
    parts = []
    for r, squared in ((rs, ss), (rt, tt)):
        live = squared > e2
        a = -upstream * rt * rs
        parts += [torch.where(live, a, 0) if dead_zero else a, torch.where(live, upstream * (1 - d) * r * r, 0)]
    four = torch.stack(parts)
    if four.dim() == 2:  # over the map: one value an image
        four = four[:, :, None, None].expand(4, shape[0], shape[2], shape[3])
    return four.contiguous()


class Statistics(Function):
    """Maps of d from (settings, *teacher, *student)."""

    @staticmethod
    def forward(ctx, settings, *tensors):
        over_map, eps, *_, impl = settings
        levels = len(tensors) // 2
        saved = torch.ops.bikd_kernels.statistics(list(tensors[:levels]), list(tensors[levels:]), over_map, eps, impl)
        ctx.settings = settings
        ctx.levels = levels
        ctx.save_for_backward(*tensors, *saved)
        return tuple(x[0].clone() for x in saved)

    @staticmethod
    def backward(ctx, *upstream):
        refuse_double_backward()
        _, eps, dead_zero, grad_teacher, grad_student, impl = ctx.settings
        n = ctx.levels
        held = ctx.saved_tensors
        coefficients = [coefficients_of(u, x, eps, dead_zero, t.shape)
                        for u, x, t in zip(upstream, held[2 * n:], held[:n])]
        grads = torch.ops.bikd_kernels.blend(list(held[:n]), list(held[n:2 * n]), coefficients, grad_teacher,
                                             grad_student, impl)
        none = (None,) * n
        return (None, *(grads[:n] if grad_teacher else none), *(grads[-n:] if grad_student else none))


def refuse_double_backward() -> None:
    """Raise RuntimeError inside a backward pass that is itself being recorded (create_graph=True)."""
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise RuntimeError(
            "bikd_kernels computes first derivatives only: double backward (create_graph=True) is not supported; "
            "take bikd_kernels.reference.naive, which PyTorch differentiates any number of times")
