"""Depth and content of simulated defects in plain PyTorch: the specification of bikd_kernels.draw_defects.

Everything but draw_defects_reference works on lists of blocks of pixels, so that on a CPU only those near a defect are computed.
"""

import torch
from torch import Tensor

from ..defects import BLOCK, SHUFFLE_GRID, Fill, Outline, Pixels, all_pixels, rows_of
from .lay_out import base_depth
from .simulate import ramp

SEEN = 5 / 255  # a change that counts as seen; well above 2/255, from which on the label calls it changed
SEEN_PIXELS = 96  # of a defect, SEEN_SHARE of a great one, and SMALL_SHARE of a small one have to be seen to change,
SEEN_SHARE = 0.12  # else it gets a plain shift of brightness
SMALL_SHARE = 0.85
PLAIN_SHIFT = 0.5


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


def _source_places(fill: Fill, outline: Outline, pixels: Pixels, depth: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Where every pixel's content comes from, y and x (N, BLOCK^2), inside the picture (mirrored at its edges)."""
    t = (depth / (0.9 * outline.peak)).clamp(0, 1)
    strength = torch.where(fill.warp, t * t * (3 - 2 * t), 1.0)
    dy, dx = pixels.y - outline.center_y, (pixels.x - outline.center_x) * fill.mirror
    angle = fill.angle * strength
    reach = torch.exp2(fill.zoom * strength)
    cos, sin = angle.cos() * reach, angle.sin() * reach
    y = fill.from_y + cos * dy + sin * dx + fill.drag_y * strength
    x = fill.from_x + cos * dx - sin * dy + fill.drag_x * strength
    last = size - 1.0
    y = last - (last - y.abs()).abs()
    x = last - (last - x.abs()).abs()
    piece = size // SHUFFLE_GRID
    row, col = (y / piece).clamp(0, SHUFFLE_GRID - 1).floor(), (x / piece).clamp(0, SHUFFLE_GRID - 1).floor()
    cell = fill.order.view(-1)[(pixels.sample.unsqueeze(1) * SHUFFLE_GRID**2) + (row * SHUFFLE_GRID + col).long()]
    row_to, col_to = torch.div(cell, SHUFFLE_GRID, rounding_mode="floor"), cell % SHUFFLE_GRID
    y = torch.where(fill.shuffled, y + (row_to - row) * piece, y)
    x = torch.where(fill.shuffled, x + (col_to - col) * piece, x)
    return y.clamp(0, last), x.clamp(0, last)


def _bilinear(flat: Tensor, row: Tensor, y: Tensor, x: Tensor, size: int) -> Tensor:
    """Values (3, N, BLOCK^2) float32 of flattened (rows, 3, S, S) pictures at y, x of their rows (N, 1)."""
    plane = torch.arange(3, device=flat.device).view(3, 1, 1) * (size * size)
    y0, x0 = y.floor(), x.floor()
    fy, fx = y - y0, x - x0
    at = (row * (3 * size * size) + y0.long() * size + x0.long()) + plane
    right = (x0 < size - 1).long()
    down = (y0 < size - 1).long() * size

    def value(index: Tensor) -> Tensor:
        return flat[index].float()

    top = torch.lerp(value(at), value(at + right), fx)
    at = at + down
    return torch.lerp(top, torch.lerp(value(at), value(at + right), fx), fy)


def _fetch(
    images: Tensor, pool: Tensor, textures: Tensor | None, fill: Fill, sample: Tensor, y: Tensor, x: Tensor, compact: bool
) -> Tensor:
    """Geometric content (3, N, BLOCK^2): every block from its own source. compact: each source is asked only for its
    blocks (their number is data), else every source for all."""
    size = images.shape[-1]
    own = images.reshape(-1)
    pictured = fill.foreign & ~fill.textured
    choices = [(~fill.foreign, own, sample.unsqueeze(1), 1.0), (pictured, pool.view(-1), fill.which, 1 / 255)]
    if textures is not None:
        choices.append((fill.textured, textures.view(-1), fill.which, 1 / 255))
    out = images.new_zeros(3, *y.shape)
    for mine, flat, row, factor in choices:
        if compact:
            blocks = mine.squeeze(1).nonzero().squeeze(1)
            out[:, blocks] = _bilinear(flat, row[blocks], y[blocks], x[blocks], size) * factor
        else:
            out = torch.where(mine, _bilinear(flat, torch.where(mine, row, 0), y, x, size) * factor, out)
    return out


def render(
    images: Tensor,
    images_low: Tensor,
    pool: Tensor,
    textures: Tensor | None,
    fill: Fill,
    outline: Outline,
    pixels: Pixels,
    depth: Tensor,
    compact: bool,
) -> Tensor:
    """Content (3, N, BLOCK^2) in 0..1 of the pixels; fill and outline hold one row a block."""
    size = images.shape[-1]
    y, x = _source_places(fill, outline, pixels, depth, size)
    content = _fetch(images, pool, textures, fill, pixels.sample, y, x, compact)
    content = torch.lerp(content, upsample_at(images_low, pixels), fill.low)
    content = torch.lerp(content, fill.color.T.unsqueeze(2), fill.fill)
    towards = fill.light.sin() * (pixels.y - outline.center_y) + fill.light.cos() * (pixels.x - outline.center_x)
    shade = fill.shade * (towards / outline.peak).clamp(-1, 1)
    return (content * (fill.gain.T.unsqueeze(2) * shade.exp()) + fill.bias).clamp_(0, 1)


def make_visible(
    content: Tensor, images: Tensor, pixels: Pixels, alpha: Tensor, opacity: Tensor, batch: int
) -> Tensor:
    """content, with a plain shift of brightness for samples that it would hardly change.

    content, images: (3, N, BLOCK^2) of the same pixels; alpha: (N, BLOCK^2) blend weight; opacity (N, 1).
    """
    inside = alpha > 0.5 * opacity
    seen = (((content - images).abs().amax(0) * alpha) > SEEN) & inside
    counts = images.new_zeros(3, batch)
    light = (images.mean(0) * 64).round()  # whole numbers add up exactly, in whatever order
    sums = torch.stack((inside.sum(1).float(), seen.sum(1).float(), (light * inside).sum(1)))
    counts.index_add_(1, pixels.sample, sums)
    area, changed, brightness = counts
    enough = torch.minimum(SMALL_SHARE * area, (SEEN_SHARE * area).clamp(min=SEEN_PIXELS))
    weak = (changed < enough)[pixels.sample].view(-1, 1)
    bright = (brightness > 32 * area)[pixels.sample].view(-1, 1)
    level = images.mean(0)
    darker = torch.where(bright, level > 0.2, level > 0.8)  # a pixel that is dark already in a bright place turns bright
    plain = images + (torch.where(darker, 0.0, 1.0) - images) * PLAIN_SHIFT
    return torch.where(weak, plain, content)


def draw_defects_reference(
    images: Tensor,
    low: Tensor,
    outline: Outline,
    fill: Fill,
    opacity: Tensor,
    feather: Tensor,
    pool: Tensor,
    textures: Tensor | None,
    foreground: Tensor | None,
    rows: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """See bikd_kernels.draw_defects."""
    b, size = len(images), images.shape[-1]
    pixels = all_pixels(b, size, images.device)
    of_block = rows_of(outline, pixels.sample)
    depth = pixel_depth(of_block, pixels)
    if foreground is not None and rows is not None:
        depth = on_object(depth, pixels, foreground, rows, size)
    content = render(images, low, pool, textures, rows_of(fill, pixels.sample), of_block, pixels, depth, False)
    alpha = opacity[pixels.sample] * ramp(depth, feather[pixels.sample])
    where = places(pixels, size)
    content = make_visible(content, images.reshape(-1)[where], pixels, alpha, opacity[pixels.sample], b)
    whole = torch.empty_like(images, memory_format=torch.contiguous_format)
    whole.view(-1)[where] = content
    deep = images.new_empty(b, size, size)
    deep.view(-1)[pixels.sample.unsqueeze(1) * (size * size) + pixels.flat] = depth
    return deep, whole


def on_object(depth: Tensor, pixels: Pixels, foreground: Tensor, rows: Tensor, size: int) -> Tensor:
    """depth (N, BLOCK^2), -1 beyond the object; foreground (M, S, S) bool, rows (B,) the samples' rows of it."""
    inside = foreground.view(-1)[rows[pixels.sample].unsqueeze(1) * (size * size) + pixels.flat]
    return torch.where(inside, depth, -1.0)


def places(pixels: Pixels, size: int) -> Tensor:
    """Flat positions (3, N, BLOCK^2) in (B, 3, S, S) pictures."""
    channel = torch.arange(3, device=pixels.sample.device).view(3, 1, 1) * (size * size)
    return pixels.sample.unsqueeze(1) * (3 * size * size) + pixels.flat + channel
