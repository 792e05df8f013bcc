"""What a defect is filled with: own or foreign pixels, displaced, smoothed, flattened, recoloured."""

from math import pi
from typing import NamedTuple

import torch
from torch import Tensor

from .config import SourceShares
from .kinds import Draw
from .masks import BLOCK, Outline, Pixels, upsample_at
from .random import Numbers, Stream, uniform

SHUFFLE_GRID = 8
FILL, ORDER = Stream(4, 14), Stream(5, SHUFFLE_GRID**2)
SEEN = 5 / 255  # a change that counts as seen; well above 2/255, from which on the label calls it changed
SEEN_PIXELS = 96  # of a defect, SEEN_SHARE of a great one, and SMALL_SHARE of a small one have to be seen to change,
SEEN_SHARE = 0.12  # else it gets a plain shift of brightness
SMALL_SHARE = 0.85
PLAIN_SHIFT = 0.5


class Sources(NamedTuple):
    """Foreign pictures and shares: pool (M, 3, S, S) uint8, textures (K, 3, S, S) uint8 or None, shares in order
    picture, texture, shuffle as cumulative ends in 0..1."""

    pool: Tensor
    textures: Tensor | None
    ends: tuple[float, float]


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


def make_sources(pool: Tensor, textures: Tensor | None, shares: SourceShares) -> Sources:
    texture = shares.texture if textures is not None and len(textures) else 0.0
    picture = shares.picture
    if picture + texture + shares.shuffle <= 0:  # textures were asked for alone, and there are none
        picture = 1.0
    total = picture + texture + shares.shuffle
    return Sources(pool, textures if texture else None, (picture / total, (picture + texture) / total))


def _other(index: Tensor, u: Tensor, count: int) -> Tensor:
    return (index + 1 + (u * (count - 1)).long()) % count


def foreign_rows(index: Tensor, keys: Tensor, count: int) -> Tensor:
    """(B,) int64: which of ``count`` pictures the samples index (B,) with keys (B,) take foreign content from, if they do."""
    return _other(index, uniform(keys, FILL)[:, 1], count)


def _colors(images_low: Tensor, object_grid: Tensor | None, draw: Draw, outline: Outline, u: Tensor) -> Tensor:
    """Flat colours (B, 3): the surroundings' or the background's, mixed with a drawn one."""
    b, _, grid, _ = images_low.shape
    angle = u[:, :1] * (2 * pi)
    away = 1.5 * outline.length + 4
    y = ((outline.center_y + away * angle.sin()) / BLOCK).long().clamp(0, grid - 1)
    x = ((outline.center_x + away * angle.cos()) / BLOCK).long().clamp(0, grid - 1)
    around = torch.arange(-2, 3, device=u.device)
    rows = (y + around.repeat_interleave(5)).clamp(0, grid - 1)
    columns = (x + around.repeat(5)).clamp(0, grid - 1)
    near = images_low.flatten(2).gather(2, (rows * grid + columns).unsqueeze(1).expand(b, 3, 25)).mean(2)
    if object_grid is not None:
        behind = (~object_grid).float().flatten(1).unsqueeze(1)
        count = behind.sum(2)
        background = (images_low.flatten(2) * behind).sum(2) / count.clamp(min=1)
        near = torch.where((count > 0) & (u[:, 1:2] > 0.5), background, near)
    level = draw["level"].clamp(0, 1)
    level = torch.where((level - near.mean(1, keepdim=True)).abs() < 0.15, (level + 0.5) % 1.0, level)
    drawn = level + draw["chroma"] * (u[:, 2:5] - 0.5)
    return torch.lerp(drawn, near, draw["own"].clamp(0, 1))


def draw_fill(
    keys: Tensor | Numbers,
    draw: Draw,
    index: Tensor,
    outline: Outline,
    place: tuple[Tensor, Tensor],
    images_low: Tensor,
    object_grid: Tensor | None,
    sources: Sources,
    brought: bool = False,
) -> Fill:
    """Content parameters of a batch. index: (B,) the pictures' rows in the pool; place: y, x (B, 1) elsewhere.

    brought: sources.pool holds the foreign picture of each sample of the batch, one a row, instead of the pool."""
    u = uniform(keys, FILL)
    foreign = draw.on("foreign")
    shuffled = foreign & (u[:, :1] >= sources.ends[1])
    textured = foreign & ~shuffled & (u[:, :1] >= sources.ends[0])
    foreign = foreign & ~shuffled
    if brought:
        other = torch.arange(len(index), device=index.device).unsqueeze(1)
    else:
        other = _other(index.unsqueeze(1), u[:, 1:2], len(sources.pool))
    if sources.textures is not None:
        other = torch.where(textured, (u[:, 1:2] * len(sources.textures)).long(), other)
    order = uniform(keys, ORDER).argsort(dim=1)
    away = draw.on("away")
    several = (away | draw.on("foreign")).float()  # where it lies as it was, it must at least be turned
    quarter = (1 - several + (u[:, 2:3] * (3 + several)).floor()) * (pi / 2)
    angle = torch.where(draw.on("turn"), u[:, 3:4] * (2 * pi), torch.where(draw.on("quarter"), quarter, 0.0))
    drag = draw["drag"] * outline.peak
    direction = u[:, 4:5] * (2 * pi)
    tint = draw["tint"].clamp(min=0) * (2 * u[:, 5:8] - 1)
    return Fill(
        foreign=foreign, textured=textured, which=other, shuffled=shuffled, order=order,
        from_y=torch.where(away, place[0], outline.center_y), from_x=torch.where(away, place[1], outline.center_x),
        angle=torch.where(draw.on("warp"), draw["twirl"] * outline.width / outline.length, angle), zoom=draw["zoom"],
        mirror=torch.where(draw.on("flip"), -1.0, 1.0), drag_y=drag * direction.sin(), drag_x=drag * direction.cos(),
        warp=draw.on("warp"), low=draw["low"], fill=draw["fill"].clamp(0, 1),
        color=_colors(images_low, object_grid, draw, outline, u[:, 8:13]),
        gain=(draw["gain"] + tint).exp(), bias=draw["bias"],
        light=u[:, 13:14] * (2 * pi), shade=draw["shade"],
    )  # fmt: skip


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


def _fetch(images: Tensor, sources: Sources, fill: Fill, sample: Tensor, y: Tensor, x: Tensor, compact: bool) -> Tensor:
    """Geometric content (3, N, BLOCK^2): every block from its own source. compact: each source is asked only for its
    blocks (their number is data), else every source for all."""
    size = images.shape[-1]
    own = images.reshape(-1)
    pictured = fill.foreign & ~fill.textured
    choices = [(~fill.foreign, own, sample.unsqueeze(1), 1.0), (pictured, sources.pool.view(-1), fill.which, 1 / 255)]
    if sources.textures is not None:
        choices.append((fill.textured, sources.textures.view(-1), fill.which, 1 / 255))
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
    sources: Sources,
    fill: Fill,
    outline: Outline,
    pixels: Pixels,
    depth: Tensor,
    compact: bool,
) -> Tensor:
    """Content (3, N, BLOCK^2) in 0..1 of the pixels; fill and outline hold one row a block."""
    size = images.shape[-1]
    y, x = _source_places(fill, outline, pixels, depth, size)
    content = _fetch(images, sources, fill, pixels.sample, y, x, compact)
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
