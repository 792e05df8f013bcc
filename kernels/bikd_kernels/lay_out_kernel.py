"""The Triton kernel of lay_out: noise and depth of a stretch of blocks in one go."""

import torch
from torch import Tensor

from .defects import LATTICE
from .depth_tile import base_depth, cosine, sine
from .dispatch import INTERPRETED
from .lang import tl, triton
from .registration import register

STRETCH = 256  # blocks a program
COLUMNS = 21  # of the parameters: Outline's 16 as draw_defects_kernel lists them, u's 3, exponent_y, exponent_x


@triton.jit
def _corner(BANK, row, col, dv, dw, LATTICE: tl.constexpr):
    """A lattice point's gradient times the way from it."""
    at = BANK + 2 * ((row & (LATTICE - 1)) * LATTICE + (col & (LATTICE - 1)))
    return tl.load(at) * dv + tl.load(at + 1) * dw


@triton.jit
def lay_out_kernel(
    PARAMETERS, BANK, NOISE, DEPTH, G: tl.constexpr, COLUMNS: tl.constexpr, LATTICE: tl.constexpr, STRETCH: tl.constexpr
):
    """NOISE, DEPTH (B, G, G)."""
    b = tl.program_id(1)
    i = tl.program_id(0) * STRETCH + tl.arange(0, STRETCH)
    on = i < G * G
    row = (i // G).to(tl.float32)
    col = (i % G).to(tl.float32)
    P = PARAMETERS + b * COLUMNS
    y = (row + 0.5) / G - 0.5
    x = (col + 0.5) / G - 0.5
    start_y = tl.load(P + 17)
    start_x = tl.load(P + 18)
    angle = tl.load(P + 16) * 6.283185307179586
    cos = cosine(angle)
    sin = sine(angle)
    v = (cos * y + sin * x) * tl.exp2(tl.load(P + 19)) + start_y * 97 + LATTICE
    w = (cos * x - sin * y) * tl.exp2(tl.load(P + 20)) + start_x * 89 + LATTICE
    top = tl.floor(v)
    left = tl.floor(w)
    fv = v - top
    fw = w - left
    r = top.to(tl.int32) + (start_y * LATTICE).to(tl.int32)
    c = left.to(tl.int32) + (start_x * LATTICE).to(tl.int32)
    sv = fv * fv * fv * (fv * (fv * 6 - 15) + 10)
    sw = fw * fw * fw * (fw * (fw * 6 - 15) + 10)
    above = _corner(BANK, r, c, fv, fw, LATTICE)
    above += (_corner(BANK, r, c + 1, fv, fw - 1, LATTICE) - above) * sw
    below = _corner(BANK, r + 1, c, fv - 1, fw, LATTICE)
    below += (_corner(BANK, r + 1, c + 1, fv - 1, fw - 1, LATTICE) - below) * sw
    noise = above + (below - above) * sv
    depth = base_depth(P, row * 4 + 1.5, col * 4 + 1.5) + tl.load(P + 13) * noise
    at = b.to(tl.int64) * (G * G) + i
    tl.store(NOISE + at, noise, mask=on)
    tl.store(DEPTH + at, depth, mask=on)


def launch(parameters: Tensor, bank: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """Run the kernel; arguments are checked already."""
    noise, depth = _shapes(parameters, bank, grid)
    if noise.numel() == 0:
        return noise, depth
    stretch = 4096 if INTERPRETED else STRETCH  # the interpreter's time is by the program
    with torch.cuda.device_of(parameters):
        lay_out_kernel[(triton.cdiv(grid * grid, stretch), len(parameters))](
            parameters, bank.contiguous(), noise, depth, G=grid, COLUMNS=COLUMNS, LATTICE=LATTICE, STRETCH=stretch, num_warps=4
        )
    return noise, depth


def _shapes(parameters: Tensor, bank: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    return parameters.new_empty((len(parameters), grid, grid)), parameters.new_empty((len(parameters), grid * grid))


register("lay_out(Tensor parameters, Tensor bank, int grid) -> (Tensor, Tensor)", launch, _shapes)
