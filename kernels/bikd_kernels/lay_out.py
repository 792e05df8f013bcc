"""lay_out: Perlin noise, and the depths of outlines, on the coarse grid of blocks that defects are laid out on."""

import torch
from torch import Tensor

from . import lay_out_kernel  # noqa: F401  registers torch.ops.bikd_kernels.lay_out
from .defects import LATTICE, Outline, packed
from .dispatch import choose
from .lay_out_kernel import COLUMNS
from .reference.lay_out import lay_out_reference


def lay_out(
    outline: Outline, u: Tensor, exponent_y: Tensor, exponent_x: Tensor, bank: Tensor, grid: int, *, impl: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Noise at the centres of blocks, and how deep each lies in its sample's outline.

    outline: bikd_kernels.defects.Outline; its noise, level and peak are not looked at yet. u: (B, 3) float32 in [0, 1): rotation of
    the noise and the place of its lattice in the bank. exponent_y, exponent_x: (B, 1) float32 whole numbers; a picture has
    2^exponent cells an axis. bank: (LATTICE^2, 2) float32 unit gradients. grid: blocks a side.
    noise: gradient noise with quintic interpolation (Perlin, "Improving noise", SIGGRAPH 2002), about -0.7..0.7.
    depth: of the bent box or ellipse or of the fall-off around the centre, plus the outline's amplitude times the noise, in pixels.
    Returns (noise (B, grid, grid), depth (B, grid^2)) float32. One launch on a GPU. Raises ValueError for shapes that do not fit.
    """
    parameters = packed(outline, (u, exponent_y, exponent_x))
    if parameters.shape[1] != COLUMNS or tuple(bank.shape) != (LATTICE**2, 2):
        raise ValueError(
            f"outline, u and exponents must have {COLUMNS} numbers a sample and bank the shape {(LATTICE**2, 2)}, "
            f"got {parameters.shape[1]} and {tuple(bank.shape)}"
        )
    if choose(impl, (parameters, bank)) == "triton":
        return torch.ops.bikd_kernels.lay_out(parameters, bank, grid)
    return lay_out_reference(outline, u, exponent_y, exponent_x, bank, grid)
