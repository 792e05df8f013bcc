"""nuisance: harmless noise on pictures - grain, brightness, contrast and a slight blur - in one pass."""

import torch
from torch import Tensor

from . import nuisance_kernel  # noqa: F401  registers torch.ops.bikd_kernels.nuisance
from .checks import has_values, tensor
from .dispatch import choose
from .reference.nuisance import nuisance_one_by_one, nuisance_reference


def nuisance(images: Tensor, bank: Tensor, start: Tensor, numbers: Tensor, *, impl: str = "auto") -> Tensor:
    """n(x) = clamp(sigma z + shift + own x + side (the sum of x's four neighbours, edges repeated), 0, 1).

    images: (B, C, H, W) float32 x in 0..1. bank: (N,) float32 random numbers, of which sample b takes z = bank[start[b]:] in
    the order of its pixels. start: (B,) int64 in 0..N - C H W. numbers: (B, 4) float32 sigma, shift, own > 0 and side.
    Returns (B, C, H, W) float32; no gradient flows back. One launch on a GPU; on a CPU a picture at a time. Raises ValueError
    for what does not fit; for a start outside the bank on a CPU only, as reading it from a GPU would be a host sync.
    """
    for name, x in (("images", images), ("bank", bank), ("start", start), ("numbers", numbers)):
        tensor(name, x)
    if images.dim() != 4 or images.dtype != torch.float32:
        raise ValueError(f"images must be float32 (B, C, H, W), got {images.dtype} {tuple(images.shape)}")
    b, c, h, w = images.shape
    n = c * h * w
    if tuple(start.shape) != (b,) or tuple(numbers.shape) != (b, 4):
        raise ValueError(f"start must be ({b},) and numbers ({b}, 4), got {tuple(start.shape)} and {tuple(numbers.shape)}")
    if bank.dim() != 1 or bank.dtype != torch.float32 or (b and len(bank) < n):
        raise ValueError(f"bank must be a row of at least {n} float32 numbers, got {bank.dtype} {tuple(bank.shape)}")
    if start.dtype != torch.int64:
        raise ValueError(f"start must be int64, got {start.dtype}")
    if has_values(start) and not all(0 <= first <= len(bank) - n for first in start.tolist()):
        raise ValueError(f"start must lie in 0..{len(bank) - n}, with a picture's numbers from there on, got {start.tolist()}")
    images, bank, start, numbers = images.detach().contiguous(), bank.detach(), start.detach(), numbers.detach()
    if choose(impl, (images, bank, start, numbers)) == "triton":
        return torch.ops.bikd_kernels.nuisance(images, bank, start, numbers)
    if impl == "auto" and has_values(images):
        return nuisance_one_by_one(images, bank, start, numbers)
    return nuisance_reference(images, bank, start, numbers)
