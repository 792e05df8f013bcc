"""What surrounds the fused kernels: the ordered sum of their partial results, and the upstream scale of their gradients."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .lang import tl, triton

SCALE_PROGRAMS = 1024  # enough to fill any GPU; few enough that an unneeded scaling costs only its launch


@triton.jit
def sum_kernel(PART, OUT, count, stride, BLOCK: tl.constexpr):
    """OUT[i] = sum of row i of PART in float64, always in the same order."""
    row = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float64)
    for start in range(0, count, BLOCK):
        i = start + lane
        total += tl.load(PART + row * stride + i, mask=i < count, other=0.0).to(tl.float64)
    tl.store(OUT + row, tl.sum(total, axis=0).to(OUT.dtype.element_ty))


@triton.jit
def scale_kernel(G, COUNT, UPSTREAM, folds, L: tl.constexpr, BLOCK: tl.constexpr):
    """G[k] *= UPSTREAM / folds[k] in place. Returns at once where that is 1, which the host need not know."""
    upstream = tl.load(UPSTREAM).to(tl.float32)
    pid = tl.program_id(0)
    step = tl.num_programs(0) * BLOCK
    for k in tl.static_range(L):
        factor = upstream / folds[k]
        if factor != 1.0:
            for start in range(pid * BLOCK, COUNT[k], step):
                i = start + tl.arange(0, BLOCK)
                inside = i < COUNT[k]
                g = tl.load(G[k] + i, mask=inside, other=0.0).to(tl.float32) * factor
                tl.store(G[k] + i, g.to(G[k].dtype.element_ty), mask=inside)


def ordered_sum(partials: Tensor, dtype: torch.dtype) -> Tensor:
    """Row sums of a contiguous float32 (R, N) in float64, bit-identical from run to run."""
    out = torch.empty(partials.shape[0], dtype=dtype, device=partials.device)
    sum_kernel[(partials.shape[0],)](partials, out, partials.shape[1], partials.stride(0), BLOCK=16384, num_warps=32)
    return out


def by_list(tensors: Sequence[Tensor], levels: int) -> list[list[Tensor]]:
    """Several lists of levels out of one row of tensors."""
    return [list(tensors[start:start + levels]) for start in range(0, len(tensors), levels)]


def folded(sides: Sequence[Sequence[Tensor]], mean: bool = True) -> list[int | None]:
    """Over how many positions each level of the loss is a mean (1 of a sum), where its gradients are stored with a factor: where
    one of its (B, C, H, W) maps is float16. None elsewhere. sides: lists of levels whose gradient is wanted."""
    counts = []
    for maps in zip(*sides):
        b, _, h, w = maps[0].shape
        counts.append((b * h * w if mean else 1) if any(x.dtype == torch.float16 for x in maps) else None)
    return counts


def fold_for(divisor: int | None) -> float:
    """Power of two that float16 gradients of a mean over `divisor` positions are stored with; 1 for None.

    Unscaled, most of them would underflow. From 4096 positions on it is 65536, the initial loss scale of GradScaler and of
    DeepSpeed, with which the backward pass has nothing left to do.
    """
    if divisor is None:
        return 1.0
    return float(min(1 << 16, 16 << max(0, divisor.bit_length() - 1)))


def folds_of(sides: Sequence[Sequence[Tensor]], levels: int, mean: bool = True) -> list[float]:
    """fold_for of every level; 1 where no side's gradient is wanted."""
    return [fold_for(n) for n in folded(sides, mean)] or [1.0] * levels


def traced_fold(divisor: int, device: torch.device) -> Tensor:
    """fold_for as a tensor, for a number of positions that torch.compile leaves open."""
    powers = 2 ** torch.arange(1, 13, device=device)
    return 16 * 2 ** (torch.full((), divisor, dtype=torch.int64, device=device) >= powers).sum()


def scaled(grads: Sequence[Tensor], upstream: Tensor, positions: Sequence[int | None], on_triton: bool) -> list[Tensor]:
    """grads[k] * upstream / fold_for(positions[k]), in place and without a host sync on a GPU; new tensors under torch.compile."""
    if torch.compiler.is_compiling():
        factors = [upstream if n is None else upstream / traced_fold(n, g.device) for g, n in zip(grads, positions)]
        return [g * (factor if g.dtype == torch.float64 else factor.float()) for g, factor in zip(grads, factors)]
    folds = [fold_for(n) for n in positions]
    if on_triton:
        held = [(g, fold) for g, fold in zip(grads, folds) if g.numel()]
        if held:
            with torch.cuda.device_of(held[0][0]):
                scale_kernel[(SCALE_PROGRAMS,)](
                    tuple(g for g, _ in held), tuple(g.numel() for g, _ in held), upstream,
                    tuple(fold for _, fold in held), L=len(held), BLOCK=2048, num_warps=4)
        return list(grads)
    for g, fold in zip(grads, folds):
        if g.device.type != "cpu":
            g.mul_(upstream / fold)
        elif float(upstream) != fold:
            g.mul_(float(upstream) / fold)
    return list(grads)
