"""Small pools of pictures, and the simulation run on one thread so that it does not fight for the cores."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

SIZE = 64


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def texture_pool(count: int = 6, size: int = SIZE, seed: int = 0) -> Tensor:
    """(count, 3, size, size) uint8: coloured noise at two scales."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, size // 8, size // 8, generator=g)
    picture = 0.3 + 0.3 * torch.nn.functional.interpolate(coarse, size=size, mode="bilinear")
    return ((picture + 0.2 * torch.rand(count, 3, size, size, generator=g)) * 255).byte()


def object_pool(count: int = 6, size: int = 128, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Bright discs of slightly varying place and size on a dark noisy background, uint8, and where they are, bool."""
    g = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    pictures, masks = [], []
    for _ in range(count):
        cy, cx = size / 2 + (torch.rand(2, generator=g) - 0.5) * 0.2 * size
        radius = size * (0.25 + 0.02 * torch.rand((), generator=g))
        mask = (y - cy) ** 2 + (x - cx) ** 2 < radius**2
        picture = torch.where(mask, 0.7, 0.2) + 0.05 * torch.randn(3, size, size, generator=g)
        pictures.append((picture.clamp(0, 1) * 255).byte())
        masks.append(mask)
    return torch.stack(pictures), torch.stack(masks)


@pytest.fixture
def pool() -> Tensor:
    return texture_pool()
