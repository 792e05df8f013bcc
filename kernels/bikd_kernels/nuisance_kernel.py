"""The Triton kernel of nuisance: pictures and noise are read once and the noisy pictures written once."""

import torch
from torch import Tensor

from .dispatch import INTERPRETED
from .lang import tl, triton
from .registration import register

BLOCK = 1024  # pixels a program


@triton.jit
def nuisance_kernel(X, BANK, START, NUMBERS, OUT, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, BLOCK: tl.constexpr):
    """OUT (B, C, H, W): program (i, b) makes the i-th block of sample b's values, counted over its channels too."""
    N: tl.constexpr = C * H * W
    b = tl.program_id(1)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    on = i < N
    sample = b.to(tl.int64) * N
    sigma = tl.load(NUMBERS + b * 4)
    shift = tl.load(NUMBERS + b * 4 + 1)
    own = tl.load(NUMBERS + b * 4 + 2)
    side = tl.load(NUMBERS + b * 4 + 3)
    z = tl.load(BANK + tl.load(START + b) + i, mask=on, other=0.0)
    out = sigma * z + shift + own * tl.load(X + sample + i, mask=on, other=0.0)
    if side != 0:
        y = (i // W) % H
        x = i % W
        around = tl.load(X + sample + i - tl.where(y > 0, W, 0), mask=on, other=0.0)
        around += tl.load(X + sample + i + tl.where(y < H - 1, W, 0), mask=on, other=0.0)
        around += tl.load(X + sample + i - tl.where(x > 0, 1, 0), mask=on, other=0.0)
        around += tl.load(X + sample + i + tl.where(x < W - 1, 1, 0), mask=on, other=0.0)
        out += side * around
    tl.store(OUT + sample + i, tl.minimum(tl.maximum(out, 0.0), 1.0), mask=on)


def launch(images: Tensor, bank: Tensor, start: Tensor, numbers: Tensor) -> Tensor:
    """Run the kernel; arguments are checked already."""
    b, c, h, w = images.shape
    out = torch.empty_like(images)
    if images.numel() == 0:
        return out
    block = 4 * BLOCK if INTERPRETED else BLOCK
    with torch.cuda.device_of(images):
        nuisance_kernel[(triton.cdiv(c * h * w, block), b)](
            images, bank.contiguous(), start.contiguous(), numbers.contiguous(), out, C=c, H=h, W=w, BLOCK=block, num_warps=4
        )
    return out


def _shapes(images: Tensor, bank: Tensor, start: Tensor, numbers: Tensor) -> Tensor:
    return torch.empty_like(images)


register("nuisance(Tensor images, Tensor bank, Tensor start, Tensor numbers) -> Tensor", launch, _shapes)
