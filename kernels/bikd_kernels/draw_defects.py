"""draw_defects: how deep every pixel lies inside a simulated defect, and what the defect shows there."""

import torch
from torch import Tensor

from . import draw_defects_kernel  # noqa: F401  registers torch.ops.bikd_kernels.draw_defects
from .defects import BLOCK, SHUFFLE_GRID, Fill, Outline, packed
from .dispatch import choose
from .draw_defects_kernel import COLUMNS
from .reference.draw_defects import draw_defects_reference


def _check(
    images: Tensor, low: Tensor, outline: Outline, fill: Fill, parameters: Tensor, pictures: dict[str, Tensor | None]
) -> None:
    if images.dim() != 4 or images.dtype != torch.float32 or images.shape[1:] != (3, images.shape[-1], images.shape[-1]):
        raise ValueError(f"images must be float32 (B, 3, S, S), got {images.dtype} {tuple(images.shape)}")
    b, size = len(images), images.shape[-1]
    if size % (2 * SHUFFLE_GRID):
        raise ValueError(f"images must have a side that is a multiple of {2 * SHUFFLE_GRID}, got {size}")
    grid = size // BLOCK
    for name, x, want in (
        ("low", low, (b, 3, grid, grid)),
        ("outline.noise", outline.noise, (b, grid, grid)),
        ("fill.order", fill.order, (b, SHUFFLE_GRID**2)),
        ("outline, fill, opacity and feather together", parameters, (b, COLUMNS)),
    ):
        if tuple(x.shape) != want:
            raise ValueError(f"{name} must have shape {want}, got {tuple(x.shape)}")
    for name, found in pictures.items():
        if found is not None and (found.dtype != torch.uint8 or found.shape[1:] != (3, size, size)):
            raise ValueError(f"{name} must be uint8 (N, 3, {size}, {size}), got {found.dtype} {tuple(found.shape)}")


def draw_defects(
    images: Tensor,
    low: Tensor,
    outline: Outline,
    fill: Fill,
    opacity: Tensor,
    feather: Tensor,
    pool: Tensor,
    textures: Tensor | None = None,
    foreground: Tensor | None = None,
    rows: Tensor | None = None,
    *,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Depth and content of one simulated defect a picture, as :func:`simulate` takes them.

    images: (B, 3, S, S) float32 in 0..1, S a multiple of 16. low: (B, 3, S/4, S/4) their means over blocks of 4 x 4.
    outline, fill: bikd_kernels.defects. opacity, feather: (B, 1) float32 as in simulate, opacity > 0.
    pool, textures: (M, 3, S, S), (K, 3, S, S) uint8 pictures, the rows that fill.which counts; textures may be missing where no
    fill is textured. foreground: (M, S, S) bool, with rows (B,) int64 the samples' rows of it: nothing lies beyond it.

    depth: of a bent box or ellipse, or of noise above a level, plus noise: bikd_kernels.reference.draw_defects.base_depth.
    content: own or foreign pixels from a displaced place (bilinear, mirrored at the edges), towards the smoothed picture, towards
    a flat colour, times a gain and a shade, plus a bias, clamped to 0..1. A defect of which fewer than 96 pixels, 12 % of a large
    or 85 % of a small one, would change by more than 5/255 becomes a plain shift of brightness.
    Returns (depth (B, S, S), content (B, 3, S, S)) float32; content may hold anything where depth <= 0.
    Two launches on a GPU; sums are of whole numbers, so the bits are the same from run to run and in any batch.
    Raises ValueError for shapes and types that do not fit.
    """
    parameters = packed(outline, fill, (opacity, feather))
    _check(images, low, outline, fill, parameters, {"pool": pool, "textures": textures})
    if (foreground is None) != (rows is None):
        raise ValueError("foreground needs rows, and rows a foreground")
    if foreground is not None and (foreground.dtype != torch.bool or foreground.shape[1:] != images.shape[2:]):
        raise ValueError(f"foreground must be bool (M, {images.shape[2]}, {images.shape[3]}), got {tuple(foreground.shape)}")
    if rows is not None and (rows.dtype != torch.int64 or tuple(rows.shape) != (len(images),)):
        raise ValueError(f"rows must be int64 ({len(images)},), got {rows.dtype} {tuple(rows.shape)}")
    tensors = [x for x in (images, low, parameters, pool, textures, foreground, rows) if x is not None]
    if choose(impl, tensors) == "triton":
        return torch.ops.bikd_kernels.draw_defects(
            images, low, outline.noise, parameters, fill.order, pool, textures, foreground, rows
        )
    return draw_defects_reference(images, low, outline, fill, opacity, feather, pool, textures, foreground, rows)
