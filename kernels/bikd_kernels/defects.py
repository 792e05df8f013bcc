"""A batch's simulated defects as parameters: their outlines, and what they are filled with."""

from collections.abc import Iterable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

BLOCK = 4  # pixels a side of a block: noise and pictures' means are laid out on a grid of them
LATTICE = 256  # gradients a side of the bank that Perlin lattices are cut from, a power of 2
SHUFFLE_GRID = 8  # pieces a side of a picture whose pieces are shuffled


class Outline(NamedTuple):
    """Parameters of a batch's outlines, (B, 1) float32 each unless said otherwise; lengths in pixels."""

    center_y: Tensor
    center_x: Tensor
    cos: Tensor
    sin: Tensor
    length: Tensor  # half the length
    width: Tensor  # half the width
    sag: Tensor
    wave: Tensor
    cycles: Tensor
    phase: Tensor
    box: Tensor  # bool
    noisy: Tensor  # bool
    fall: Tensor  # fall-off of depth with distance from the centre, noisy outlines
    amplitude: Tensor  # depth per unit of noise
    level: Tensor  # depth at which a noisy outline is cut, 0 for primitives
    peak: Tensor  # about the greatest depth
    noise: Tensor  # (B, h, h) Perlin noise at block centres


class Fill(NamedTuple):
    """Per-sample parameters of content, (B, 1) unless said otherwise."""

    foreign: Tensor  # bool: from pool or textures, not from the picture itself
    textured: Tensor  # bool: from textures
    which: Tensor  # int64, row of pool or of textures
    shuffled: Tensor  # bool
    order: Tensor  # (B, 64) int64 permutation of the grid
    from_y: Tensor  # place that the outline's centre shows
    from_x: Tensor
    angle: Tensor
    zoom: Tensor
    mirror: Tensor  # 1 or -1
    drag_y: Tensor
    drag_x: Tensor
    warp: Tensor  # bool
    low: Tensor
    fill: Tensor
    color: Tensor  # (B, 3)
    gain: Tensor  # (B, 3)
    bias: Tensor
    light: Tensor  # angle of the direction that shade is measured along
    shade: Tensor  # log of the factor on brightness on the side in that direction; its reciprocal on the other


class Pixels(NamedTuple):
    """N blocks under work: sample (N,) int64, y and x (N, BLOCK^2) float32, flat (N, BLOCK^2) int64 = y S + x."""

    sample: Tensor
    y: Tensor
    x: Tensor
    flat: Tensor


Parameters = TypeVar("Parameters", bound=NamedTuple)


def _is_narrow(x: Tensor) -> bool:
    return x.dim() == 2 and x.shape[1] in (1, 3)


def packed(*parameters: Iterable[Tensor]) -> Tensor:
    """One float32 row a sample, (B, P), of the (B, 1) and (B, 3) fields in their order; whole numbers stay below 2^24."""
    return torch.cat([x.float() for p in parameters for x in p if _is_narrow(x)], 1)


def rows_of(parameters: Parameters, sample: Tensor) -> Parameters:
    """A parameter tuple whose (B, 1) and (B, 3) fields have become one row a block, (N, 1) and (N, 3); others are passed on."""
    narrow = [x for x in parameters if _is_narrow(x)]
    rows = packed(parameters).index_select(0, sample)
    parts = iter(rows.split([x.shape[1] for x in narrow], 1))
    return type(parameters)(*(next(parts).to(x.dtype) if _is_narrow(x) else x for x in parameters))


def pixels_of(sample: Tensor, block: Tensor, size: int) -> Pixels:
    """The pixels of blocks (N,) int64, counted along the rows of a picture of ``size`` pixels a side, of samples (N,)."""
    grid = size // BLOCK
    within = torch.arange(BLOCK, device=sample.device)
    top, left = torch.div(block, grid, rounding_mode="floor") * BLOCK, (block % grid) * BLOCK
    y = top.unsqueeze(1) + within.repeat_interleave(BLOCK)
    x = left.unsqueeze(1) + within.repeat(BLOCK)
    return Pixels(sample, y.float(), x.float(), y * size + x)


def all_pixels(batch: int, size: int, device: torch.device) -> Pixels:
    """Every block of every sample, in (sample, y, x) order."""
    count = (size // BLOCK) ** 2
    sample = torch.arange(batch, device=device).repeat_interleave(count)
    return pixels_of(sample, torch.arange(count, device=device).repeat(batch), size)
