"""Harmless noise n(x), labelled normal: sensor noise, brightness and contrast, slight blur."""

import torch
from torch import Tensor

from .random import uniform

NOISE = 0.02  # greatest standard deviation of sensor noise
LIGHT = 0.05  # greatest change of brightness and of contrast
BLUR = 0.5  # greatest share of the four neighbours' mean
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


def add_nuisance(images: Tensor, keys: Tensor, strength: float, bank: Tensor) -> Tensor:
    """n(x) for pictures (B, 3, S, S) in 0..1; strength scales every effect, 0 returns the pictures themselves."""
    if strength == 0:
        return images
    b, c, h, w = images.shape
    n = c * h * w
    u = uniform(keys, 6, stream=6)
    grainy = (u[:, 0] > 0.5).long() * (len(bank) // 2)
    start = grainy + (u[:, 1] * OFFSETS).long()
    windows = bank.as_strided((len(bank) - n + 1, n), (1, 1))
    out = windows.index_select(0, start).view(b, c, h, w)
    contrast = 1 + (2 * u[:, 2] - 1) * (LIGHT * strength)
    brightness = (2 * u[:, 3] - 1) * (LIGHT * strength) + 0.5 * (1 - contrast)
    share = (u[:, 4] * (BLUR * strength)).clamp(max=1) * contrast
    sigma = u[:, 5] ** 2 * (NOISE * strength)

    def per_sample(x: Tensor) -> Tensor:
        return x.view(b, 1, 1, 1)

    out.mul_(per_sample(sigma)).add_(per_sample(brightness)).addcmul_(images, per_sample(contrast - share))
    side = per_sample(share / 4)
    for dim in (2, 3):  # the mean of the four neighbours, edges repeated
        size = images.shape[dim]
        out.narrow(dim, 1, size - 1).addcmul_(images.narrow(dim, 0, size - 1), side)
        out.narrow(dim, 0, size - 1).addcmul_(images.narrow(dim, 1, size - 1), side)
        for edge in (0, size - 1):
            out.narrow(dim, edge, 1).addcmul_(images.narrow(dim, edge, 1), side)
    return out.clamp_(0, 1)
