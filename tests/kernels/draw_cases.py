"""Inputs for the tests of draw_defects: defects of every kind, drawn at random, on smooth pictures."""

from math import pi

import torch
import torch.nn.functional as F
from bikd_kernels.defects import BLOCK, SHUFFLE_GRID, Fill, Outline


def smooth(count: int, size: int, g: torch.Generator) -> torch.Tensor:
    coarse = torch.rand(count, 3, size // 8, size // 8, generator=g)
    return F.interpolate(coarse, size=(size, size), mode="bilinear") * 0.8 + 0.1


def case(
    batch: int = 6, size: int = 64, seed: int = 0, textures: bool = True, foreground: bool = True, weak: bool = False,
    device: str = "cpu",
) -> dict[str, object]:
    """Arguments of draw_defects. weak: content that is all but the picture itself, so that every defect is seen too little."""
    g = torch.Generator().manual_seed(seed)
    sizes = torch.tensor([size / 2, size / 2])

    def between(low: float, high: float, wide: int = 1) -> torch.Tensor:
        return low + (high - low) * torch.rand(batch, wide, generator=g)

    def chance(p: float) -> torch.Tensor:
        return torch.rand(batch, 1, generator=g) < p

    images = (smooth(batch, size, g) * 255).round() / 255
    if weak:  # one bright half and one dark, so that both directions of a shift come
        images = torch.where(torch.arange(batch).view(-1, 1, 1, 1) % 2 == 0, images * 0.2, 0.8 + images * 0.2)
    angle = between(0, 2 * pi)
    width = between(1.5, size / 6)
    noisy = chance(0.4)
    outline = Outline(
        center_y=between(0, size), center_x=between(0, size), cos=angle.cos(), sin=angle.sin(), length=width * between(1, 4),
        width=width, sag=between(-4, 4), wave=between(0, 2), cycles=between(1, 3), phase=between(0, 2 * pi), box=chance(0.5),
        noisy=noisy, fall=between(0, 0.3), amplitude=torch.where(noisy, between(2, 8), between(0, 1)),
        level=torch.where(noisy, between(-1, 1), torch.zeros(batch, 1)), peak=width,
        noise=0.4 * torch.randn(batch, size // BLOCK, size // BLOCK, generator=g),
    )  # fmt: skip
    foreign = chance(0.5) & (not weak)
    off = torch.zeros(batch, 1)
    fill = Fill(
        foreign=foreign, textured=foreign & chance(0.5) & textures, which=torch.randint(0, 3, (batch, 1), generator=g),
        shuffled=~foreign & chance(0.4) & (not weak), order=torch.rand(batch, SHUFFLE_GRID**2, generator=g).argsort(1),
        from_y=outline.center_y if weak else sizes[0] + between(-30, 30), from_x=outline.center_x if weak else between(0, size),
        angle=off if weak else between(0, 2 * pi), zoom=off if weak else between(-0.5, 0.5),
        mirror=off + 1 if weak else torch.where(chance(0.5), -1.0, 1.0), drag_y=off if weak else between(-5, 5),
        drag_x=off if weak else between(-5, 5), warp=chance(0.4), low=off if weak else between(-0.5, 1),
        fill=off if weak else between(0, 0.5), color=between(0, 1, 3),
        gain=off.expand(-1, 3).exp() if weak else between(0.7, 1.3, 3), bias=off if weak else between(-0.2, 0.2),
        light=between(0, 2 * pi), shade=off if weak else between(-0.5, 0.5),
    )  # fmt: skip
    arguments = dict(
        images=images, low=F.avg_pool2d(images, BLOCK), outline=outline, fill=fill, opacity=between(0.2, 1),
        feather=between(0.3, 4), pool=(smooth(3, size, g) * 255).byte(),
    )  # fmt: skip
    if textures:
        arguments["textures"] = (smooth(3, size, g) * 255).byte()
    if foreground:
        arguments["foreground"] = F.avg_pool2d(torch.rand(3, size, size, generator=g), 5, 1, 2) > 0.42
        arguments["rows"] = torch.randint(0, 3, (batch,), generator=g)
    return {k: type(v)(*(x.to(device) for x in v)) if isinstance(v, tuple) else v.to(device) for k, v in arguments.items()}


def part(arguments: dict, which: slice) -> dict:
    """The same for some of its samples."""
    whole = ("pool", "textures", "foreground")
    return {
        k: v if k in whole else type(v)(*(x[which] for x in v)) if isinstance(v, tuple) else v[which]
        for k, v in arguments.items()
    }
