"""The resizing of training as two matrices and two roundings, so that any runtime that multiplies matrices can do it.

8-bit pictures are resized along the width, rounded to 8 bits, then along the height and rounded again, with weights held in
15 bits: the arithmetic of Pillow's and torchvision's bilinear filter with antialiasing.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn


def antialias_matrix(source: int, target: int) -> np.ndarray:
    """Weights float32 (target, source) of one axis: the triangle filter, as wide as the shrinking asks for."""
    scale = source / target
    support = max(1.0, scale)
    matrix = np.zeros((target, source))
    for i in range(target):
        center = scale * (i + 0.5)
        low = max(int(center - support + 0.5), 0)
        high = min(int(center + support + 0.5), source)
        taps = np.maximum(0.0, 1.0 - np.abs((np.arange(low, high) - center + 0.5) / support))
        matrix[i, low:high] = taps / taps.sum()
    bits = min(22, 14 - math.floor(math.log2(matrix.max())))
    while matrix.max() * 2**bits + 0.5 >= 2**15:  # the largest number of bits at which the weights fit 16-bit integers
        bits -= 1
    return (np.floor(matrix * 2**bits + 0.5) / 2**bits).astype(np.float32)


class Resize(nn.Module):
    """float (B, 3, H, W) of whole numbers 0..255 -> (B, 3, size, size) of whole numbers 0..255."""

    rows: torch.Tensor
    columns: torch.Tensor

    def __init__(self, height: int, width: int, size: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.from_numpy(antialias_matrix(height, size)))
        self.register_buffer("columns", torch.from_numpy(antialias_matrix(width, size).T.copy()))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        narrow = torch.floor(torch.matmul(pictures, self.columns) + 0.5).clamp(0, 255)
        return torch.floor(torch.matmul(self.rows, narrow) + 0.5).clamp(0, 255)
