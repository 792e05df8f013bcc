"""The simulator: pictures in, corrupted pictures, their labels and a harmlessly noisy copy out."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from bikd_kernels import simulate, simulate_at
from bikd_kernels.reference.simulate import ramp
from torch import Tensor

from .config import SimulationConfig
from .content import FILL, ORDER, draw_fill, make_sources, make_visible, render
from .foreground import CENTER, ELSEWHERE, believed, draw_places, estimate_foreground, object_grids, object_masks, seats
from .kinds import DRAWN, KINDS, draw_kinds, kind_tables
from .masks import CELL, OUTLINE, PERLIN, block_means, draw_outlines, gradient_bank, pixel_depth, pixels_inside, rows_of
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
    """A batch's defects as lists of the pixels they may touch; n of them, in rows of blocks.

    plane: (N, BLOCK^2) int64 flat position in (B, S, S). where: (3, N, BLOCK^2) in (B, 3, S, S). shown, content: (3, N, BLOCK^2)
    what the pictures hold there, and the defect. depth, alpha: (N, BLOCK^2). opacity, feather: (B,). kind: (B,) int64.
    """

    plane: Tensor
    where: Tensor
    shown: Tensor
    content: Tensor
    depth: Tensor
    alpha: Tensor
    opacity: Tensor
    feather: Tensor
    kind: Tensor


class Simulator:
    """Simulated anomalies for the pictures of one category.

    pool: (M, 3, S, S) uint8 training pictures, S a multiple of 16. foreground: (M, S, S) bool object masks of the pool;
    None finds them if config.foreground asks for them (and uses the whole picture where none can be believed).
    textures: (K, 3, S, S) uint8 foreign pictures. All on the device where batches will be.
    count: of a set too large to be held; then pool holds some of its pictures, those at foreground.evenly(count), and every call
    brings the foreign pictures it needs, those at foreign_rows(index, keys, count). What comes out is the same.
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
        estimate: Callable[[Tensor], Tensor | None] = estimate_foreground,
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
            foreground = estimate(pool)
        self.foreground = foreground
        self.each_time = count is not None and config.foreground and believed(pool)  # masks are found batch by batch
        self._object_grids = None if foreground is None else object_grids(foreground)
        self._seats = None if self._object_grids is None else seats(self._object_grids)
        self._sources = make_sources(pool.contiguous(), textures, config.sources)
        self._tables = kind_tables(config, pool.device)
        self._gradients = gradient_bank(pool.device)
        self._noise = noise_bank(size, pool.device) if config.nuisance else None
        self._numbers = Table(STREAMS, pool.device)

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
        if self.config.cleanup and self.compact:
            corrupted, mask = simulate_at(images, drawn.where, drawn.plane, drawn.shown, drawn.content, drawn.alpha)
        elif self.config.cleanup:
            depth, content = self._maps(images, drawn)
            corrupted, mask = simulate(images, content, depth, drawn.opacity, drawn.feather)
        else:
            corrupted = images.clone()
            corrupted.view(-1)[drawn.where] = drawn.shown + (drawn.content - drawn.shown) * drawn.alpha
            mask = torch.zeros(images.shape[0], self.size, self.size, dtype=torch.bool, device=images.device)
            mask.view(-1)[drawn.plane] = drawn.depth > 0
        nuisance = images if self._noise is None else add_nuisance(images, numbers, self.config.nuisance, self._noise)
        return Simulated(corrupted, mask, nuisance, drawn.kind)

    def _draw(self, images: Tensor, index: Tensor, numbers: Numbers, others: Tensor | None = None) -> Drawn:
        config, size, b = self.config, self.size, len(images)
        sources = self._sources if others is None else self._sources._replace(pool=others.contiguous())
        draw = draw_kinds(numbers, self._tables)
        foreground, rows = self.foreground, index
        grids = None if self._object_grids is None else self._object_grids[index]
        cumulative = None if self._seats is None else self._seats[index]
        if self.each_time:
            foreground, rows = object_masks(images), torch.arange(b, device=images.device)
            grids = object_grids(foreground)
            cumulative = seats(grids)
        center, elsewhere = draw_places(numbers, CENTER, cumulative, size), draw_places(numbers, ELSEWHERE, cumulative, size)
        outline = draw_outlines(numbers, draw, config.coverage, config.scale, center, grids, size, self._gradients)
        images_low = block_means(images)
        fill = draw_fill(numbers, draw, index, outline, elsewhere, images_low, grids, sources, others is not None)
        low, high = config.opacity
        opacity = low + draw["opacity"] * (high - low)
        low, high = config.feather
        feather = (low + draw["feather"] * (high - low)) * (size / 256)
        feather = torch.where(draw.on("soft"), 0.9 * outline.peak, torch.minimum(feather, 0.8 * outline.peak))

        pixels = pixels_inside(outline, grids, size, self.compact)
        of_block = rows_of(outline, pixels.sample)
        depth = pixel_depth(of_block, pixels)
        plane = pixels.sample.unsqueeze(1) * (size * size) + pixels.flat
        if foreground is not None:
            on_object = foreground.view(-1)[rows[pixels.sample].unsqueeze(1) * (size * size) + pixels.flat]
            depth = torch.where(on_object, depth, -1.0)
        of_fill = rows_of(fill, pixels.sample)
        content = render(images, images_low, sources, of_fill, of_block, pixels, depth, self.compact)
        channel = torch.arange(3, device=images.device).view(3, 1, 1) * (size * size)
        where = plane + pixels.sample.unsqueeze(1) * (2 * size * size) + channel
        shown = images.view(-1)[where]
        alpha = opacity[pixels.sample] * ramp(depth, feather[pixels.sample])
        content = make_visible(content, shown, pixels, alpha, opacity[pixels.sample], b)
        return Drawn(plane, where, shown, content, depth, alpha, opacity.squeeze(1), feather.squeeze(1), draw.kind)

    def _maps(self, images: Tensor, drawn: Drawn) -> tuple[Tensor, Tensor]:
        """Depth (B, S, S) and content (B, 3, S, S), which holds anything where depth <= 0."""
        depth = torch.full((len(images), self.size, self.size), -1.0, device=images.device)
        depth.view(-1)[drawn.plane] = drawn.depth
        content = torch.empty_like(images)
        content.view(-1)[drawn.where] = drawn.content
        return depth, content
