"""Outlines: how deep inside the defect every pixel lies, as thresholded Perlin noise or a bent, wobbling primitive.

Everything is first laid out on a coarse grid of BLOCK-pixel blocks; pixels are computed only in blocks that may lie
inside (on the CPU), or in all of them (on a GPU, where asking how many would stall the device).
"""

import math
from math import pi
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .kinds import Draw
from .random import Numbers, Stream, uniform

BLOCK = 4  # pixels a side of a block
FINEST_CELL = 8  # pixels a side of the finest Perlin cells: 2^5 of them across 256 pixels
CELL = 16  # pixels a side of a position of the coarsest level
POSITION_BLOCKS = 11  # of the 16 blocks of one coarsest position lie inside, so that half of it does after feathering
LEAST_BLOCKS = 24  # inside in all
REACH = 0.55 * BLOCK  # pixels from a block's centre to its corner pixels, and a little
LATTICE = 256  # gradients a side of the bank that Perlin lattices are cut from, a power of 2

PERLIN, OUTLINE = Stream(1, 3), Stream(2, 2)


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


Parameters = TypeVar("Parameters", bound=NamedTuple)


def rows_of(parameters: Parameters, sample: Tensor) -> Parameters:
    """A parameter tuple whose (B, 1) and (B, 3) fields have become one row a block, (N, 1) and (N, 3).

    They travel as one float32 matrix, so whole numbers in them stay below 2^24; other fields are passed on.
    """
    narrow = [x for x in parameters if x.dim() == 2 and x.shape[1] in (1, 3)]
    rows = torch.cat([x.float() for x in narrow], 1).index_select(0, sample)
    parts = iter(rows.split([x.shape[1] for x in narrow], 1))
    return type(parameters)(
        *(next(parts).to(x.dtype) if x.dim() == 2 and x.shape[1] in (1, 3) else x for x in parameters)
    )


class Pixels(NamedTuple):
    """The N blocks under work: sample (N,) int64, y and x (N, BLOCK^2) float32, flat (N, BLOCK^2) int64 = y S + x."""

    sample: Tensor
    y: Tensor
    x: Tensor
    flat: Tensor


def gradient_bank(device: torch.device) -> Tensor:
    """(LATTICE^2, 2) fixed unit vectors; a sample's lattice is a window of it at a place of its own."""
    angle = torch.rand(LATTICE * LATTICE, generator=torch.Generator().manual_seed(0)) * (2 * pi)
    return torch.stack((angle.cos(), angle.sin()), 1).to(device)


def block_means(images: Tensor) -> Tensor:
    """Means (B, C, h, h) over the blocks of (B, C, S, S); on a CPU two sums are quicker than a pooling."""
    b, c, size, _ = images.shape
    grid = size // BLOCK
    return (images.view(b * c * grid, BLOCK, grid, BLOCK).sum(1).sum(2) / BLOCK**2).view(b, c, grid, grid)


def block_centers(grid: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """y and x (grid^2,) of the block centres, in pixels."""
    c = torch.arange(grid, device=device, dtype=torch.float32) * BLOCK + (BLOCK - 1) / 2
    return c.repeat_interleave(grid), c.repeat(grid)


def perlin(keys: Tensor | Numbers, exponent_y: Tensor, exponent_x: Tensor, grid: int, bank: Tensor) -> Tensor:
    """Rotated Perlin noise (B, grid, grid), about -0.7..0.7, with 2^exponent cells an axis across the picture."""
    u = uniform(keys, PERLIN)
    angle = u[:, :1] * (2 * pi)
    c = (torch.arange(grid, device=keys.device, dtype=torch.float32) + 0.5) / grid - 0.5
    y, x = c.repeat_interleave(grid), c.repeat(grid)
    start = (u[:, 1:] * LATTICE).floor()
    v = (angle.cos() * y + angle.sin() * x) * 2**exponent_y + u[:, 1:2] * 97 + LATTICE
    w = (angle.cos() * x - angle.sin() * y) * 2**exponent_x + u[:, 2:3] * 89 + LATTICE
    v0, w0 = v.floor(), w.floor()
    fv, fw = v - v0, w - w0
    row = (v0 + start[:, :1]).long() & (LATTICE - 1)
    col = (w0 + start[:, 1:]).long() & (LATTICE - 1)
    row1, col1 = ((row + 1) & (LATTICE - 1)) * LATTICE, (col + 1) & (LATTICE - 1)
    row = row * LATTICE

    def corner(index: Tensor, dv: Tensor, dw: Tensor) -> Tensor:
        g = bank[index]
        return g[..., 0] * dv + g[..., 1] * dw

    sv = fv * fv * fv * (fv * (fv * 6 - 15) + 10)
    sw = fw * fw * fw * (fw * (fw * 6 - 15) + 10)
    top = torch.lerp(corner(row + col, fv, fw), corner(row + col1, fv, fw - 1), sw)
    bottom = torch.lerp(corner(row1 + col, fv - 1, fw), corner(row1 + col1, fv - 1, fw - 1), sw)
    return torch.lerp(top, bottom, sv).view(-1, grid, grid)


def base_depth(o: Outline, y: Tensor, x: Tensor) -> Tensor:
    """Depth without noise at pixels y, x (broadcast against (B or N, 1)): of the primitive, or the noise's fall-off."""
    dy, dx = y - o.center_y, x - o.center_x
    u = o.cos * dx + o.sin * dy
    v = o.cos * dy - o.sin * dx
    t = u / o.length
    turn = o.cycles * pi * t + o.phase
    bent = v - o.sag * (t * t - 0.33) - o.wave * turn.sin()
    slope = (2 * o.sag * t + o.wave * o.cycles * pi * turn.cos()) / o.length
    side = bent.abs() * torch.rsqrt(1 + slope * slope)  # about the distance, so that a line is as thick uphill
    box = torch.minimum(o.length - u.abs(), o.width - side)
    ellipse = o.width * (1 - torch.sqrt(t * t + (side / o.width) ** 2))
    fall = -o.fall * torch.sqrt(dy * dy + dx * dx)
    return torch.where(o.noisy, fall, torch.where(o.box, box, ellipse))


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
    noise = perlin(keys, ey, ex, grid, bank)
    cell = 0.7 * size / 2 ** torch.maximum(ey, ex)
    outline = Outline(
        center_y=center[0], center_x=center[1], cos=angle.cos(), sin=angle.sin(), length=length, width=width,
        sag=sag, wave=wave, cycles=draw["cycles"], phase=u[:, 1:] * (2 * pi),
        box=draw.on("box"), noisy=noisy, fall=draw["local"].clamp(min=0) * cell / size,
        amplitude=torch.where(noisy, cell, draw["wobble"].clamp(min=0) * width), level=torch.zeros_like(width),
        peak=width, noise=noise,
    )  # fmt: skip
    level, peak = _cut(outline, share, high * size_factor**2, object_grid, size)
    return outline._replace(level=torch.where(noisy, level, 0.0), peak=torch.where(noisy, peak, width))


def _cut(o: Outline, share: Tensor, greatest: float, object_grid: Tensor | None, size: int) -> tuple[Tensor, Tensor]:
    """Level at which noise is cut and the depth above it, (B, 1) each."""
    b, grid, _ = o.noise.shape
    y, x = block_centers(grid, o.noise.device)
    value = base_depth(o, y, x) + o.amplitude * o.noise.flatten(1)
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


def pixels_inside(o: Outline, object_grid: Tensor | None, size: int, compact: bool) -> Pixels:
    """The blocks that may hold a pixel with positive depth (compact), or all of them, in (sample, y, x) order."""
    b, grid, _ = o.noise.shape
    device = o.noise.device
    if compact:
        y, x = block_centers(grid, device)
        around = F.max_pool2d(o.noise.unsqueeze(1), 3, stride=1, padding=1).flatten(1)
        reach = REACH * torch.where(o.noisy, o.fall, 1.5)
        maybe = base_depth(o, y, x) + reach + o.amplitude * around - o.level > 0
        if object_grid is not None:
            maybe &= F.max_pool2d(object_grid.unsqueeze(1).float(), 3, stride=1, padding=1).flatten(1) > 0
        sample, block = maybe.nonzero(as_tuple=True)
    else:
        sample = torch.arange(b, device=device).repeat_interleave(grid * grid)
        block = torch.arange(grid * grid, device=device).repeat(b)
    within = torch.arange(BLOCK, device=device)
    top, left = torch.div(block, grid, rounding_mode="floor") * BLOCK, (block % grid) * BLOCK
    y = top.unsqueeze(1) + within.repeat_interleave(BLOCK)
    x = left.unsqueeze(1) + within.repeat(BLOCK)
    return Pixels(sample, y.float(), x.float(), y * size + x)


def upsample_at(coarse: Tensor, pixels: Pixels) -> Tensor:
    """Bilinear values (C, N, BLOCK^2) of (B, C, h, h) maps of block centres at the pixels, edges repeated."""
    _, c, grid, _ = coarse.shape
    y = ((pixels.y - (BLOCK - 1) / 2) / BLOCK).clamp(0, grid - 1)
    x = ((pixels.x - (BLOCK - 1) / 2) / BLOCK).clamp(0, grid - 1)
    y0, x0 = y.floor(), x.floor()
    fy, fx = y - y0, x - x0
    channel = torch.arange(c, device=coarse.device).view(c, 1, 1) * (grid * grid)
    at = pixels.sample.unsqueeze(1) * (c * grid * grid) + (y0 * grid + x0).long() + channel
    right, down = (x0 < grid - 1).long(), (y0 < grid - 1).long() * grid
    flat = coarse.reshape(-1)
    top = torch.lerp(flat[at], flat[at + right], fx)
    at = at + down
    return torch.lerp(top, torch.lerp(flat[at], flat[at + right], fx), fy)


def pixel_depth(o: Outline, pixels: Pixels) -> Tensor:
    """Depth (N, BLOCK^2) in pixels, positive inside; o holds one row a block."""
    noise = upsample_at(o.noise.unsqueeze(1), pixels).squeeze(0)
    return base_depth(o, pixels.y, pixels.x) + o.amplitude * noise - o.level
