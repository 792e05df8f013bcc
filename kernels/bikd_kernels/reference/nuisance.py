"""Harmless noise in plain PyTorch: the specification of bikd_kernels.nuisance, and its form for a CPU."""

import torch
from torch import Tensor


def _shifts(size: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """(dimension from the end, first row written, first row read, rows): the four neighbours, edges repeated."""
    return [
        shift
        for dim, n in ((-2, size[0]), (-1, size[1]))
        for shift in ((dim, 1, 0, n - 1), (dim, 0, 1, n - 1), (dim, 0, 0, 1), (dim, n - 1, n - 1, 1))
    ]


def nuisance_reference(images: Tensor, bank: Tensor, start: Tensor, numbers: Tensor) -> Tensor:
    """See bikd_kernels.nuisance."""
    b, c, h, w = images.shape
    if b == 0:
        return torch.empty_like(images)
    n = c * h * w
    sigma, shift, own, side = numbers.view(b, 4, 1, 1, 1).unbind(1)
    out = bank.unfold(0, n, 1).index_select(0, start).view(b, c, h, w)
    out.mul_(sigma).add_(shift).addcmul_(images, own)
    for dim, to, source, rows in _shifts((h, w)):
        out.narrow(dim, to, rows).addcmul_(images.narrow(dim, source, rows), side)
    return out.clamp_(0, 1)


def nuisance_one_by_one(images: Tensor, bank: Tensor, start: Tensor, numbers: Tensor) -> Tensor:
    """The same, a picture at a time: on a CPU each stays in the cache, and the sharp ones skip the blur."""
    out = torch.empty_like(images)
    for picture, noisy, first, (sigma, shift, own, side) in zip(images, out, start.tolist(), numbers.tolist()):
        torch.mul(picture, own, out=noisy)  # own is 0 where the neighbours take all
        noisy.add_(bank[first : first + picture.numel()].view_as(picture), alpha=sigma).add_(shift)
        if side:
            for dim, to, source, rows in _shifts((picture.shape[-2], picture.shape[-1])):
                noisy.narrow(dim, to, rows).add_(picture.narrow(dim, source, rows), alpha=side)
        noisy.clamp_(0, 1)
    return out
