"""What a defect is filled with: own or foreign pixels, displaced, smoothed, flattened, recoloured."""

from math import pi
from typing import NamedTuple

import torch
from bikd_kernels.defects import BLOCK, SHUFFLE_GRID, Fill, Outline
from torch import Tensor

from .config import SourceShares
from .kinds import Draw
from .random import Numbers, Stream, uniform

FILL, ORDER = Stream(4, 14), Stream(5, SHUFFLE_GRID**2)


class Sources(NamedTuple):
    """Foreign pictures and shares: pool (M, 3, S, S) uint8, textures (K, 3, S, S) uint8 or None, shares in order
    picture, texture, shuffle as cumulative ends in 0..1."""

    pool: Tensor
    textures: Tensor | None
    ends: tuple[float, float]


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
