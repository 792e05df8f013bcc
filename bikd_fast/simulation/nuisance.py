"""Harmless noise n(x), labelled normal: sensor noise, brightness and contrast, slight blur."""

import torch
from torch import Tensor

from .random import Numbers, Stream, uniform

NOISE = 0.02  # greatest standard deviation of sensor noise
LIGHT = 0.05  # greatest change of brightness and of contrast
BLUR = 0.5  # greatest share of the four neighbours' mean, in the half of the pictures that are blurred
NUISANCE = Stream(6, 6)
OFFSETS = 1 << 16  # different places of the bank at which a sample's noise may start


def noise_bank(size: int, device: torch.device) -> Tensor:
    """One long row of standard normal noise, white in its first half and grainy (2 x 2) in its second.

    Every sample reads a window of it at an offset of its own: as random as hashing every pixel to any network that sees
    a few thousand pictures, and a plain copy.
    """
    white = torch.randn(3 * size * size + OFFSETS, generator=torch.Generator().manual_seed(1))
    grain = torch.randn(3 * size * size + OFFSETS + size + 1, generator=torch.Generator().manual_seed(2))
    n = len(white)
    grain = (grain[:n] + grain[1 : n + 1] + grain[size : n + size] + grain[size + 1 : n + size + 1]) / 2
    return torch.cat((white, grain)).to(device)


def add_nuisance(images: Tensor, keys: Tensor | Numbers, strength: float, bank: Tensor) -> Tensor:
    """n(x) for pictures (B, 3, S, S) in 0..1; strength scales every effect, 0 returns the pictures themselves."""
    if strength == 0:
        return images
    u = uniform(keys, NUISANCE)
    start = (u[:, 0] > 0.5).long() * (len(bank) // 2) + (u[:, 1] * OFFSETS).long()
    contrast = 1 + (2 * u[:, 2] - 1) * (LIGHT * strength)
    brightness = (2 * u[:, 3] - 1) * (LIGHT * strength) + 0.5 * (1 - contrast)
    share = ((2 * u[:, 4] - 1) * (BLUR * strength)).clamp(0, 1) * contrast  # half of the pictures stay sharp
    sigma = u[:, 5] ** 2 * (NOISE * strength)
    if images.is_cuda:
        return _all_at_once(images, start, sigma, brightness, contrast - share, share / 4, bank)
    numbers = torch.stack((sigma, brightness, contrast - share, share / 4), 1).tolist()
    return _one_by_one(images, start.tolist(), numbers, bank)


def _shifts(size: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """(dimension from the end, first row written, first row read, rows): the four neighbours, edges repeated."""
    return [
        shift
        for dim, n in ((-2, size[0]), (-1, size[1]))
        for shift in ((dim, 1, 0, n - 1), (dim, 0, 1, n - 1), (dim, 0, 0, 1), (dim, n - 1, n - 1, 1))
    ]


def _all_at_once(
    images: Tensor, start: Tensor, sigma: Tensor, brightness: Tensor, own: Tensor, side: Tensor, bank: Tensor
) -> Tensor:
    b, c, h, w = images.shape
    n = c * h * w
    windows = bank.as_strided((len(bank) - n + 1, n), (1, 1))
    out = windows.index_select(0, start).view(b, c, h, w)
    out.mul_(sigma.view(b, 1, 1, 1)).add_(brightness.view(b, 1, 1, 1)).addcmul_(images, own.view(b, 1, 1, 1))
    for dim, to, source, rows in _shifts((h, w)):
        out.narrow(dim, to, rows).addcmul_(images.narrow(dim, source, rows), side.view(b, 1, 1, 1))
    return out.clamp_(0, 1)


def _one_by_one(images: Tensor, start: list[int], numbers: list[list[float]], bank: Tensor) -> Tensor:
    """The same, a picture at a time: on a CPU each stays in the cache, and the sharp ones skip the blur."""
    out = torch.empty_like(images)
    for picture, noisy, first, (sigma, brightness, own, side) in zip(images, out, start, numbers):
        torch.add(picture, bank[first : first + picture.numel()].view_as(picture), alpha=sigma / own, out=noisy)
        noisy.mul_(own).add_(brightness)
        if side:
            for dim, to, source, rows in _shifts((picture.shape[-2], picture.shape[-1])):
                noisy.narrow(dim, to, rows).add_(picture.narrow(dim, source, rows), alpha=side)
        noisy.clamp_(0, 1)
    return out
