"""The counting step of the ladder in torch: maps on a GPU stay there. Integers only, hence deterministic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from bikd_fast.metrics.inputs import fit, nan_error


def count_pixels(
    maps: Sequence[torch.Tensor],
    sizes: Sequence[tuple[int, int]],
    values: np.ndarray,
    *,
    images: Sequence[int] | None = None,
    memory_mb: float = 1024.0,
    threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """As ladder.count_pixels, for torch maps (H, W) on one device; only rungs and counts, V long, travel.

    Every pixel is looked up among the rungs (searchsorted), the places are counted (bincount of integers, no weights).
    memory_mb bounds the working memory on the device, about 24 bytes a pixel looked up at a time; threads is not used.
    """
    device = maps[0].device if maps else torch.device("cpu")
    dtype = torch.float64 if values.dtype == np.float64 else torch.float32
    images = range(len(maps)) if images is None else images
    steps = torch.from_numpy(values).to(device)
    count = steps.numel()
    places = torch.zeros(count + 1, dtype=torch.int64, device=device)
    at = torch.zeros(count, dtype=torch.int64, device=device)
    broken = torch.zeros((), dtype=torch.bool, device=device)
    chunk = max(int(memory_mb * 1e6 / 24), 1 << 16)
    for batch in _batches(maps, sizes, images, chunk):
        pixels = torch.cat([part.to(dtype) for part in batch])
        broken |= pixels.isnan().any()
        # number of rungs not above the pixel: it lies below every rung from there on
        place = torch.searchsorted(steps, pixels, right=True)
        places += torch.bincount(place, minlength=count + 1)
        if count:
            rung = (place - 1).clamp_(min=0)
            at += torch.bincount(rung[steps[rung] == pixels], minlength=count)
    if bool(broken):  # looked at once, at the end: asking sooner would wait for the device after every batch
        raise nan_error(next(i for i in images if bool(maps[i].isnan().any())))
    return torch.cumsum(places, 0)[:count].cpu().numpy(), at.cpu().numpy()


def _batches(
    maps: Sequence[torch.Tensor], sizes: Sequence[tuple[int, int]], images: Sequence[int], chunk: int
) -> Iterator[list[torch.Tensor]]:
    batch: list[torch.Tensor] = []
    room = chunk
    for image in images:
        flat = fit(maps[image], sizes[image]).reshape(-1)
        for part in flat.split(chunk):
            if part.numel() > room and batch:
                yield batch
                batch, room = [], chunk
            batch.append(part)
            room -= part.numel()
    if batch:
        yield batch
