"""Inputs for the tests of nuisance, and its formula with numpy in double precision."""

import numpy as np
import torch
from torch import Tensor


def case(
    batch: int = 4, channels: int = 3, size: tuple[int, int] = (16, 24), device: str = "cpu"
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """images, bank, start, numbers; sharp and blurred pictures, the first and the last place of the bank."""
    g = torch.Generator().manual_seed(0)
    images = torch.rand(batch, channels, *size, generator=g)
    n = images[0].numel()
    bank = torch.randn(n + 100, generator=g)
    start = torch.randint(0, 101, (batch,), generator=g)
    start[0], start[-1] = 0, 100
    numbers = torch.rand(batch, 4, generator=g) * torch.tensor([0.05, 0.1, 0.5, 0.1]) + torch.tensor([0, -0.05, 0.5, 0])
    numbers[::2, 3] = 0
    return images.to(device), bank.to(device), start.to(device), numbers.to(device)


def oracle(images: Tensor, bank: Tensor, start: Tensor, numbers: Tensor) -> Tensor:
    """(B, C, H, W) float64."""
    x = images.double().cpu().numpy()
    out = np.empty_like(x)
    for i, (one, first, (sigma, shift, own, side)) in enumerate(zip(x, start.tolist(), numbers.double().cpu().numpy())):
        z = bank.double().cpu().numpy()[first : first + one.size].reshape(one.shape)
        wide = np.pad(one, ((0, 0), (1, 1), (1, 1)), mode="edge")
        around = wide[:, :-2, 1:-1] + wide[:, 2:, 1:-1] + wide[:, 1:-1, :-2] + wide[:, 1:-1, 2:]
        out[i] = np.clip(sigma * z + shift + own * one + side * around, 0, 1)
    return torch.from_numpy(out)
