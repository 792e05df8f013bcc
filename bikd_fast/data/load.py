"""Samples to tensors: decoded on threads, resized once, kept as uint8."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torchvision.transforms.v2 import functional as F

from bikd_fast.data.decode import decode_image, decode_mask, picture_size
from bikd_fast.data.errors import DataError
from bikd_fast.data.samples import Sample

OnBadImage = Literal["error", "skip"]
Skipped = list[tuple[Path, str]]


def default_threads() -> int:
    """The cores this process may use, at most 16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(16, cores)


def load_image(path: Path, size: int) -> torch.Tensor:
    """One picture as uint8 (3, size, size): bilinear with antialiasing, the aspect ratio not kept."""
    pixels = torch.from_numpy(decode_image(path)).permute(2, 0, 1)
    return F.resize(pixels, [size, size], interpolation=F.InterpolationMode.BILINEAR, antialias=True)


def load_images(
    samples: Sequence[Sample],
    size: int,
    on_bad_image: OnBadImage = "error",
    threads: int | None = None,
) -> tuple[torch.Tensor, list[Sample], Skipped]:
    """All pictures as one uint8 tensor (N, 3, size, size), the samples in it, and (path, reason) of those left out.

    on_bad_image: "error" raises the DataError of the first bad picture in order; "skip" leaves bad pictures, and
    pictures whose mask is bad, out. Raises DataError if nothing is left."""
    if on_bad_image not in ("error", "skip"):
        raise ValueError(f"on_bad_image is {on_bad_image!r}: expected 'error' or 'skip'")

    def load(sample: Sample) -> torch.Tensor | DataError:
        try:
            pixels = load_image(sample.path, size)
            if on_bad_image == "skip" and sample.mask_path is not None:
                decode_mask(sample.mask_path, picture_size(sample.path))
            return pixels
        except DataError as error:
            if on_bad_image == "error":
                raise
            return error

    images = torch.empty((len(samples), 3, size, size), dtype=torch.uint8)
    kept: list[Sample] = []
    skipped: Skipped = []
    with ThreadPoolExecutor(threads or default_threads()) as pool:
        for sample, result in zip(samples, pool.map(load, samples)):
            if isinstance(result, DataError):
                skipped.append((sample.path, str(result)))
            else:
                images[len(kept)] = result
                kept.append(sample)
    if skipped and not kept:
        raise DataError(f"none of the {len(samples)} pictures can be read; the first: {skipped[0][1]}")
    return images[: len(kept)], kept, skipped


def load_masks(
    samples: Sequence[Sample], sizes: Sequence[tuple[int, int]] | None = None, threads: int | None = None
) -> list[np.ndarray]:
    """The ground truth of every sample as bool (H, W) at its picture's own resolution; all False for a normal one.

    sizes: (H, W) of the pictures; None reads them from the files' headers.
    Raises DataError for a bad mask, one of another size than its picture, and a defect without one (see has_masks)."""

    def load(index: int) -> np.ndarray:
        sample = samples[index]
        size = tuple(sizes[index]) if sizes is not None else picture_size(sample.path)
        if sample.mask_path is not None:
            return decode_mask(sample.mask_path, size)
        if sample.label:
            raise DataError(f"{sample.path}: a defect without a mask. Add its mask, or measure pictures only.")
        return np.zeros(size, dtype=bool)

    with ThreadPoolExecutor(threads or default_threads()) as pool:
        return list(pool.map(load, range(len(samples))))
