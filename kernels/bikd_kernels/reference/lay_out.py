"""Perlin noise and outlines on the grid of blocks in plain PyTorch: the specification of bikd_kernels.lay_out."""

from math import pi

import torch
from torch import Tensor

from ..defects import BLOCK, LATTICE, Outline


def block_centers(grid: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """y and x (grid^2,) of the block centres, in pixels."""
    c = torch.arange(grid, device=device, dtype=torch.float32) * BLOCK + (BLOCK - 1) / 2
    return c.repeat_interleave(grid), c.repeat(grid)


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


def perlin(u: Tensor, exponent_y: Tensor, exponent_x: Tensor, grid: int, bank: Tensor) -> Tensor:
    """Rotated Perlin noise (B, grid, grid), about -0.7..0.7, with 2^exponent cells an axis across the picture; see lay_out."""
    angle = u[:, :1] * (2 * pi)
    c = (torch.arange(grid, device=u.device, dtype=torch.float32) + 0.5) / grid - 0.5
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


def lay_out_reference(
    outline: Outline, u: Tensor, exponent_y: Tensor, exponent_x: Tensor, bank: Tensor, grid: int
) -> tuple[Tensor, Tensor]:
    """See bikd_kernels.lay_out."""
    noise = perlin(u, exponent_y, exponent_x, grid, bank)
    y, x = block_centers(grid, noise.device)
    return noise, base_depth(outline, y, x) + outline.amplitude * noise.flatten(1)
