"""Outlines: thresholded Perlin noise or a bent, wobbling primitive, laid out on a coarse grid of BLOCK-pixel blocks.

How deep every pixel lies inside is bikd_kernels.draw_defects' to say; on a CPU of pixels in blocks that may lie inside only.
"""

import math
from math import pi

import torch
import torch.nn.functional as F
from bikd_kernels import lay_out
from bikd_kernels.defects import BLOCK, LATTICE, Outline, Pixels, pixels_of
from bikd_kernels.reference.lay_out import base_depth, block_centers
from torch import Tensor

from .kinds import Draw
from .random import Numbers, Stream, uniform

FINEST_CELL = 8  # pixels a side of the finest Perlin cells: 2^5 of them across 256 pixels
CELL = 16  # pixels a side of a position of the coarsest level
POSITION_BLOCKS = 11  # of the 16 blocks of one coarsest position lie inside, so that half of it does after feathering
LEAST_BLOCKS = 24  # inside in all
REACH = 0.55 * BLOCK  # pixels from a block's centre to its corner pixels, and a little

PERLIN, OUTLINE = Stream(1, 3), Stream(2, 2)


def gradient_bank(device: torch.device) -> Tensor:
    """(LATTICE^2, 2) fixed unit vectors; a sample's lattice is a window of it at a place of its own."""
    angle = torch.rand(LATTICE * LATTICE, generator=torch.Generator().manual_seed(0)) * (2 * pi)
    return torch.stack((angle.cos(), angle.sin()), 1).to(device)


def block_means(images: Tensor) -> Tensor:
    """Means (B, C, h, h) over the blocks of (B, C, S, S); on a CPU two sums are quicker than a pooling."""
    b, c, size, _ = images.shape
    grid = size // BLOCK
    return (images.view(b * c * grid, BLOCK, grid, BLOCK).sum(1).sum(2) / BLOCK**2).view(b, c, grid, grid)


def draw_outlines(
    keys: Tensor | Numbers,
    draw: Draw,
    coverage: tuple[float, float],
    size_factor: float,
    center: tuple[Tensor, Tensor],
    object_grid: Tensor | None,
    size: int,
    bank: Tensor,
) -> Outline:
    """Outlines of a batch. center: y, x (B, 1) pixels; object_grid: (B, h, h) bool foreground at block centres.

    A primitive's area is the drawn coverage of the picture unless its kind gives a width. Noise is cut at the level
    that gives the drawn coverage of the foreground, and at a lower one where no position of the coarsest level would be
    covered: what redrawing until it covers enough would find, without the loop.
    """
    grid = size // BLOCK
    scale = size / 256
    low, high = coverage
    share = low * (high / low) ** draw["cover"] * size_factor**2
    u = uniform(keys, OUTLINE)
    angle = u[:, :1] * (2 * pi)
    stretch = 2 ** draw["aspect"]
    width = draw["width"] * (scale * size_factor)
    shape_factor = torch.where(draw.on("box"), 4.0, pi)
    from_share = (share * size * size / (shape_factor * stretch)).sqrt().clamp(min=8)
    thinnest = torch.where(draw["aspect"] < 1.5, 2.5, 1.1)  # what the clean-up does not take for a speck
    width = torch.where(width > 0, torch.maximum(width, thinnest), from_share)
    length = torch.minimum(width * stretch, torch.full_like(width, 0.45 * size))
    width = torch.minimum(width, length)
    sag, wave = draw["sag"] * length, draw["wave"] * length
    noisy = draw.on("noisy")
    finest = math.log2(size / FINEST_CELL)
    ey, ex = (draw[name].floor().clamp(max=finest) for name in ("exponent_y", "exponent_x"))
    cell = 0.7 * size / 2 ** torch.maximum(ey, ex)
    outline = Outline(
        center_y=center[0], center_x=center[1], cos=angle.cos(), sin=angle.sin(), length=length, width=width,
        sag=sag, wave=wave, cycles=draw["cycles"], phase=u[:, 1:] * (2 * pi),
        box=draw.on("box"), noisy=noisy, fall=draw["local"].clamp(min=0) * cell / size,
        amplitude=torch.where(noisy, cell, draw["wobble"].clamp(min=0) * width), level=torch.zeros_like(width),
        peak=width, noise=width.new_empty(0),
    )  # fmt: skip
    noise, depth = lay_out(outline, uniform(keys, PERLIN), ey, ex, bank, grid)
    level, peak = _cut(depth, share, high * size_factor**2, object_grid, size)
    return outline._replace(noise=noise, level=torch.where(noisy, level, 0.0), peak=torch.where(noisy, peak, width))


def _cut(value: Tensor, share: Tensor, greatest: float, object_grid: Tensor | None, size: int) -> tuple[Tensor, Tensor]:
    """Level at which depths (B, h * h) of blocks are cut and the depth above it, (B, 1) each."""
    b, grid = len(value), size // BLOCK
    if object_grid is not None:
        value = torch.where(object_grid.flatten(1), value, -torch.inf)
        usable = object_grid.flatten(1).sum(1, keepdim=True)
    else:
        usable = torch.full_like(share, grid * grid)
    at_least = LEAST_BLOCKS
    ranked = value.topk(min(grid * grid, max(at_least + 1, int(greatest * grid * grid) + 1)), dim=1).values
    rank = (share * usable).long().clamp(at_least, ranked.shape[1] - 1)
    wanted = ranked.gather(1, rank)
    side = CELL // BLOCK
    cells = value.view(b, grid // side, side, grid // side, side).transpose(2, 3).flatten(3)
    covers = cells.kthvalue(side * side - POSITION_BLOCKS, dim=-1).values.flatten(1).amax(1, keepdim=True)
    covers = torch.maximum(covers, ranked[:, -1:])  # but never more than the greatest coverage
    level = torch.minimum(wanted, torch.where(covers.isfinite(), covers, ranked[:, at_least : at_least + 1]))
    level = torch.where(level.isfinite(), level, torch.where(value.isfinite(), value, torch.inf).amin(1, keepdim=True))
    return level, (ranked[:, :1] - level).clamp(min=0.5)


def pixels_inside(o: Outline, object_grid: Tensor | None, size: int) -> Pixels:
    """The blocks that may hold a pixel with positive depth, in (sample, y, x) order. Their number is data: the host waits."""
    grid = o.noise.shape[-1]
    y, x = block_centers(grid, o.noise.device)
    around = F.max_pool2d(o.noise.unsqueeze(1), 3, stride=1, padding=1).flatten(1)
    reach = REACH * torch.where(o.noisy, o.fall, 1.5)
    maybe = base_depth(o, y, x) + reach + o.amplitude * around - o.level > 0
    if object_grid is not None:
        maybe &= F.max_pool2d(object_grid.unsqueeze(1).float(), 3, stride=1, padding=1).flatten(1) > 0
    sample, block = maybe.nonzero(as_tuple=True)
    return pixels_of(sample, block, size)
