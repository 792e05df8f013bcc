"""Harmless noise n(x), labelled normal: sensor noise, brightness and contrast, slight blur."""

import torch
from bikd_kernels import nuisance
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
    return nuisance(images, bank, start, torch.stack((sigma, brightness, contrast - share, share / 4), 1))
