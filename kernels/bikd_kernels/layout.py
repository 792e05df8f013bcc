"""Memory layouts of (B, C, H, W) maps: which one a level has, and flat views of it, whole or in cache-sized pieces."""

from collections.abc import Iterator

import torch
from torch import Tensor

CACHE_ELEMENTS = 1 << 17  # elements of one tensor in one CPU piece: three or four float32 pieces fit in an L2 cache
ROW = 256  # positions of a contiguous map that a piece takes at least: shorter stretches of memory are slow


def is_channels_last(x: Tensor) -> bool:
    """Whether a level is computed channels_last: it is stored so, or H W = 1 where both layouts are the same."""
    if x.is_contiguous():
        return x.shape[2] * x.shape[3] == 1
    return x.is_contiguous(memory_format=torch.channels_last)


def memory_format(channels_last: bool) -> torch.memory_format:
    """The torch name of the layout."""
    return torch.channels_last if channels_last else torch.contiguous_format


def arranged(x: Tensor, channels_last: bool) -> Tensor:
    """x itself if it is dense in that layout, else a copy that is."""
    return x.contiguous(memory_format=memory_format(channels_last))


def gradient_like(x: Tensor, channels_last: bool) -> Tensor:
    """Uninitialised gradient for x in the layout the level is computed in."""
    return torch.empty_like(x, memory_format=memory_format(channels_last))


def feature_view(x: Tensor, channels_last: bool) -> Tensor:
    """(B H W, C) rows of a dense channels_last map, or (B, C, H W) of a dense contiguous one; never a copy."""
    if channels_last:
        return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
    return x.flatten(2)


def position_view(x: Tensor, channels_last: bool) -> Tensor:
    """(B H W,) or (B, H W): per-position values of a contiguous (B, H, W) map that go with feature_view."""
    return x.reshape(-1) if channels_last else x.flatten(1)


def pieces(view: Tensor, elements: int = CACHE_ELEMENTS) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Index pairs (into feature_view, into position_view) that cover a level in pieces that stay in a CPU's cache.

    elements: of a piece, about. On other devices the whole level is one piece.
    """
    everything = slice(None)
    if view.device.type != "cpu" or view.numel() <= elements:
        yield (everything,), (everything,)
        return
    if view.dim() == 2:
        step = max(1, elements // view.shape[1])
        for i in range(0, view.shape[0], step):
            yield (slice(i, i + step),), (slice(i, i + step),)
        return
    batch, channels, positions = view.shape
    images = max(1, elements // (channels * positions))
    step = positions if images > 1 else max(ROW, elements // channels)
    for b in range(0, batch, images):
        for p in range(0, positions, step):
            yield (slice(b, b + images), everything, slice(p, p + step)), (slice(b, b + images), slice(p, p + step))
