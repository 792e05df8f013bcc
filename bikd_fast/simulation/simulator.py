"""The simulator: pictures in, corrupted pictures, their labels and a harmlessly noisy copy out."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from bikd_kernels import draw_defects, simulate, simulate_at
from bikd_kernels.defects import Fill, Outline, rows_of
from bikd_kernels.reference.draw_defects import make_visible, on_object, pixel_depth, places, render
from bikd_kernels.reference.simulate import ramp
from torch import Tensor

from .config import SimulationConfig
from .content import FILL, ORDER, Sources, draw_fill, make_sources
from .foreground import (
    CENTER,
    ELSEWHERE,
    draw_places,
    estimate_foreground,
    masks_where,
    object_grids,
    seats,
    whom_to_trust,
)
from .kinds import DRAWN, KINDS, draw_kinds, kind_tables
from .masks import CELL, OUTLINE, PERLIN, block_means, draw_outlines, gradient_bank, pixels_inside
from .nuisance import NUISANCE, add_nuisance, noise_bank
from .random import Numbers, Table

STREAMS = (DRAWN, PERLIN, OUTLINE, FILL, ORDER, NUISANCE, CENTER, ELSEWHERE)


class Simulated(NamedTuple):
    """corrupted (B, 3, S, S) float32, mask (B, S, S) bool, nuisance (B, 3, S, S) float32, kind (B,) int64 in KINDS."""

    corrupted: Tensor
    mask: Tensor
    nuisance: Tensor
    kind: Tensor


class Drawn(NamedTuple):
    """A batch's defects as drawn, before a pixel is computed.

    opacity, feather: (B, 1). low: (B, 3, h, h) the pictures' means over blocks. foreground: (M, S, S) bool, of which the samples
    have rows (B,), and grids: (B, h, h) the same at the blocks; None where defects may lie anywhere. kind: (B,) int64.
    """

    outline: Outline
    fill: Fill
    opacity: Tensor
    feather: Tensor
    low: Tensor
    sources: Sources
    foreground: Tensor | None
    rows: Tensor
    grids: Tensor | None
    kind: Tensor


class Simulator:
    """Simulated anomalies for good pictures, of one category or of several.

    pool: (M, 3, S, S) uint8 training pictures, S a multiple of 16. foreground: (M, S, S) bool object masks of the pool;
    None finds them if config.foreground asks for them (and uses the whole picture where none can be believed).
    textures: (K, 3, S, S) uint8 foreign pictures. All on the device where batches will be.
    count: of a set too large to be held; then pool holds some of its pictures, those at foreground.evenly(count), and every call
    brings the foreign pictures it needs, those at foreign_rows(index, keys, count). What comes out is the same.
    groups: (M,) or (count,) int64, which of several categories a picture is of: objects are believed category by category.
    estimate: what finds the masks of a pool that is held.
    Raises ValueError for tensors that do not fit.
    """

    kinds = KINDS

    def __init__(
        self,
        config: SimulationConfig,
        pool: Tensor,
        foreground: Tensor | None = None,
        textures: Tensor | None = None,
        count: int | None = None,
        estimate: Callable[[Tensor, Tensor | None], Tensor | None] = estimate_foreground,
        groups: Tensor | None = None,
    ) -> None:
        for name, x in (("pool", pool), ("textures", textures)):
            if x is not None and (x.dim() != 4 or x.dtype != torch.uint8 or x.shape[1:] != (3, x.shape[2], x.shape[2])):
                raise ValueError(f"{name} must be (N, 3, S, S) uint8, got {x.dtype} {tuple(x.shape)}")
        size = pool.shape[-1]
        if len(pool) == 0 or size % CELL or size < 4 * CELL:
            raise ValueError(
                f"pool must hold pictures with a side that is a multiple of {CELL} and at least {4 * CELL}, "
                f"got {tuple(pool.shape)}"
            )
        if textures is not None and len(textures) and textures.shape[-1] != size:
            raise ValueError(f"textures must be {size} pixels a side like the pool, got {textures.shape[-1]}")
        if foreground is not None and tuple(foreground.shape) != (len(pool), size, size):
            raise ValueError(f"foreground must be {(len(pool), size, size)}, got {tuple(foreground.shape)}")
        self.config = config
        self.size = size
        self.compact = not pool.is_cuda  # compute only pixels inside outlines: asking how many stalls a GPU
        if not config.foreground:
            foreground = None
        elif foreground is None and count is None:
            foreground = estimate(pool, groups)
        self.foreground = foreground
        trusted = whom_to_trust(pool, count, groups) if count is not None and config.foreground else None
        self._trusted = None if trusted is None or not trusted.any() else trusted.to(pool.device)
        self._object_grids = None if foreground is None else object_grids(foreground)
        self._seats = None if self._object_grids is None else seats(self._object_grids)
        self._sources = make_sources(pool.contiguous(), textures, config.sources)
        self._tables = kind_tables(config, pool.device)
        self._gradients = gradient_bank(pool.device)
        self._noise = noise_bank(size, pool.device) if config.nuisance else None
        self._numbers = Table(STREAMS, pool.device)

    @property
    def each_time(self) -> bool:
        """Whether object masks are found batch by batch."""
        return self._trusted is not None

    @torch.no_grad()
    def __call__(self, images: Tensor, index: Tensor, keys: Tensor, others: Tensor | None = None) -> Simulated:
        """Corrupt a batch: images (B, 3, S, S) float32 in 0..1 that are rows index (B,) of the pool, keys (B,) int64.

        others: (B, 3, S, S) uint8, the foreign pictures, of a simulator with a count. Every sample gets one defect. Every number
        drawn is a function of the sample's key alone, so a sample comes out the same in any batch. With clean-up, corrupted equals
        images wherever mask is False.
        """
        if images.shape[1:] != (3, self.size, self.size) or len(index) != len(images) or len(keys) != len(images):
            raise ValueError(
                f"expected images (B, 3, {self.size}, {self.size}) with B indices and keys, "
                f"got {tuple(images.shape)}, {tuple(index.shape)}, {tuple(keys.shape)}"
            )
        images = images.contiguous()
        numbers = Numbers(keys, self._numbers)
        drawn = self._draw(images, index, numbers, others)
        corrupted, mask = (self._near_defects if self.compact else self._everywhere)(images, drawn)
        nuisance = images if self._noise is None else add_nuisance(images, numbers, self.config.nuisance, self._noise)
        return Simulated(corrupted, mask, nuisance, drawn.kind)

    def _draw(self, images: Tensor, index: Tensor, numbers: Numbers, others: Tensor | None = None) -> Drawn:
        config, size, b = self.config, self.size, len(images)
        sources = self._sources if others is None else self._sources._replace(pool=others.contiguous())
        draw = draw_kinds(numbers, self._tables)
        foreground, rows = self.foreground, index
        grids = None if self._object_grids is None else self._object_grids[index]
        cumulative = None if self._seats is None else self._seats[index]
        if self._trusted is not None:
            foreground, rows = masks_where(self._trusted[index], images), torch.arange(b, device=images.device)
            grids = object_grids(foreground)
            cumulative = seats(grids)
        center, elsewhere = draw_places(numbers, CENTER, cumulative, size), draw_places(numbers, ELSEWHERE, cumulative, size)
        outline = draw_outlines(numbers, draw, config.coverage, config.scale, center, grids, size, self._gradients)
        low = block_means(images)
        fill = draw_fill(numbers, draw, index, outline, elsewhere, low, grids, sources, others is not None)
        least, most = config.opacity
        opacity = least + draw["opacity"] * (most - least)
        least, most = config.feather
        feather = (least + draw["feather"] * (most - least)) * (size / 256)
        feather = torch.where(draw.on("soft"), 0.9 * outline.peak, torch.minimum(feather, 0.8 * outline.peak))
        return Drawn(outline, fill, opacity, feather, low, sources, foreground, rows, grids, draw.kind)

    def _everywhere(self, images: Tensor, drawn: Drawn) -> tuple[Tensor, Tensor]:
        """Corrupted pictures and their labels; nothing asks the device how many pixels a defect has."""
        depth, content = self._maps(images, drawn)
        if self.config.cleanup:
            return simulate(images, content, depth, drawn.opacity.squeeze(1), drawn.feather.squeeze(1))
        alpha = (drawn.opacity * ramp(depth.flatten(1), drawn.feather)).view_as(depth).unsqueeze(1)
        mask = depth > 0
        return torch.where(mask.unsqueeze(1), images + (content - images) * alpha, images), mask

    def _maps(self, images: Tensor, drawn: Drawn, impl: str = "auto") -> tuple[Tensor, Tensor]:
        """Depth (B, S, S) and content (B, 3, S, S), which may hold anything where depth <= 0."""
        outline, fill, opacity, feather, low, sources, foreground, rows, _, _ = drawn
        given = (None, None) if foreground is None else (foreground, rows)
        return draw_defects(
            images, low, outline, fill, opacity, feather, sources.pool, sources.textures, *given, impl=impl
        )

    def _near_defects(self, images: Tensor, drawn: Drawn) -> tuple[Tensor, Tensor]:
        """The same from pixels in blocks near a defect alone, about 6 % of them."""
        outline, fill, opacity, feather, low, sources, foreground, rows, grids, _ = drawn
        size = self.size
        pixels = pixels_inside(outline, grids, size)
        of_block = rows_of(outline, pixels.sample)
        depth = pixel_depth(of_block, pixels)
        if foreground is not None:
            depth = on_object(depth, pixels, foreground, rows, size)
        of_fill = rows_of(fill, pixels.sample)
        content = render(images, low, sources.pool, sources.textures, of_fill, of_block, pixels, depth, True)
        where = places(pixels, size)
        shown = images.view(-1)[where]
        alpha = opacity[pixels.sample] * ramp(depth, feather[pixels.sample])
        content = make_visible(content, shown, pixels, alpha, opacity[pixels.sample], len(images))
        plane = pixels.sample.unsqueeze(1) * (size * size) + pixels.flat
        if self.config.cleanup:
            return simulate_at(images, where, plane, shown, content, alpha)
        corrupted = images.clone()
        corrupted.view(-1)[where] = shown + (content - shown) * alpha
        mask = torch.zeros(images.shape[0], size, size, dtype=torch.bool, device=images.device)
        mask.view(-1)[plane] = depth > 0
        return corrupted, mask
