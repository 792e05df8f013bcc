"""nuisance: harmless noise on pictures - grain, brightness, contrast and a slight blur - in one pass."""

import torch
from torch import Tensor

from . import nuisance_kernel  # noqa: F401  registers torch.ops.bikd_kernels.nuisance
from .dispatch import choose
from .reference.nuisance import nuisance_one_by_one, nuisance_reference


def nuisance(images: Tensor, bank: Tensor, start: Tensor, numbers: Tensor, *, impl: str = "auto") -> Tensor:
    """n(x) = clamp(sigma z + shift + own x + side (the sum of x's four neighbours, edges repeated), 0, 1).

    images: (B, C, H, W) float32 x in 0..1. bank: (N,) float32 random numbers, of which sample b takes z = bank[start[b]:] in
    the order of its pixels. start: (B,) int64 in 0..N - C H W. numbers: (B, 4) float32 sigma, shift, own > 0 and side.
    Returns (B, C, H, W) float32; no gradient flows back. One launch on a GPU; on a CPU a picture at a time. Raises ValueError
    for what does not fit.
    """
    if images.dim() != 4 or images.dtype != torch.float32:
        raise ValueError(f"images must be float32 (B, C, H, W), got {images.dtype} {tuple(images.shape)}")
    b = len(images)
    if tuple(start.shape) != (b,) or tuple(numbers.shape) != (b, 4):
        raise ValueError(f"start must be ({b},) and numbers ({b}, 4), got {tuple(start.shape)} and {tuple(numbers.shape)}")
    if bank.dim() != 1 or (b and len(bank) < images[0].numel()):
        raise ValueError(f"bank must be a row of at least {images[0].numel()} numbers, got {tuple(bank.shape)}")
    images, bank, start, numbers = images.detach().contiguous(), bank.detach(), start.detach(), numbers.detach()
    if choose(impl, (images, bank, start, numbers)) == "triton":
        return torch.ops.bikd_kernels.nuisance(images, bank, start, numbers)
    if impl == "auto" and not images.is_cuda and not torch.compiler.is_compiling():
        return nuisance_one_by_one(images, bank, start, numbers)
    return nuisance_reference(images, bank, start, numbers)
