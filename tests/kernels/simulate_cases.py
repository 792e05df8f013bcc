"""Inputs for the simulate tests, and the rule spelled out pixel by pixel with numpy and scipy."""

import numpy as np
import torch
from scipy.ndimage import convolve
from torch import Tensor

VISIBLE = 2 / 255


def case(
    batch: int = 3, channels: int = 3, size: tuple[int, int] = (40, 56), seed: int = 0,
    dtype: torch.dtype = torch.float32, last: bool = False, device: str = "cpu",
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """images, content, depth, opacity, feather: blobs of every size with specks; content is NaN outside the outline."""
    g = torch.Generator().manual_seed(seed)
    images = torch.rand(batch, channels, *size, generator=g)
    coarse = torch.randn(batch, 1, -(-size[0] // 6), -(-size[1] // 6), generator=g)
    depth = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear")[:, 0] * 6
    depth = depth + torch.where(torch.rand(depth.shape, generator=g) < 0.05, 4.0, 0.0)
    near = images + (torch.rand(images.shape, generator=g) - 0.5) * torch.rand(batch, 1, 1, 1, generator=g) ** 3
    content = torch.where((depth > 0).unsqueeze(1), near.clamp(0, 1), torch.nan)
    opacity = 0.1 + 0.9 * torch.rand(batch, generator=g)
    feather = 0.1 + 4 * torch.rand(batch, generator=g)
    layout = torch.channels_last if last else torch.contiguous_format
    images, content = (x.to(device, dtype).contiguous(memory_format=layout) for x in (images, content))
    return images, content, depth.to(device), opacity.to(device), feather.to(device)


def oracle(arguments, visible: float = VISIBLE, radius: int = 3, speck: int = 8, full: int = 20):
    """corrupted and label as float64 and bool arrays, by the docstring of bikd_kernels.simulate."""
    images, content, depth, opacity, feather = (np.asarray(x.double().cpu()) for x in arguments)
    t = np.clip(depth / feather[:, None, None], 0, 1)
    alpha = (opacity[:, None, None] * t * t * (3 - 2 * t))[:, None]
    step = np.where(alpha > 0, (np.nan_to_num(content) - images) * alpha, 0)
    changed = (np.abs(step).max(1) > visible).astype(int)
    label = np.zeros(changed.shape, bool)
    for i, one in enumerate(changed):
        median = (convolve(one, np.ones((3, 3), int), mode="constant") >= 5).astype(int)
        count = convolve(median, np.ones((2 * radius + 1,) * 2, int), mode="constant")
        label[i] = ((median > 0) & (count >= speck)) | ((alpha[i, 0] > 0) & (count >= full))
    return np.where(label[:, None], images + step, images), label
