"""Samples to tensors: decoded on threads, resized once, kept as uint8 in memory or in a mapped file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torchvision.transforms.v2 import functional as F

from bikd_fast.data.cache import open_mapped, picture_key, write_mapped
from bikd_fast.data.cache_folder import cache_folder
from bikd_fast.data.decode import decode_image, decode_mask, picture_size
from bikd_fast.data.errors import DataError
from bikd_fast.data.samples import Sample
from bikd_fast.data.threads import on_threads

OnBadImage = Literal["error", "skip"]
Skipped = list[tuple[Path, str]]


def load_image(path: Path, size: int) -> torch.Tensor:
    """One picture as uint8 (3, size, size): bilinear with antialiasing, the aspect ratio not kept."""
    return fit(torch.from_numpy(decode_image(path)).permute(2, 0, 1), size)


def fit(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """(..., 3, H, W) uint8 or float to (..., 3, size, size): the resizing of training, for whatever holds pixels."""
    return F.resize(pixels, [size, size], interpolation=F.InterpolationMode.BILINEAR, antialias=True)


def load_images(
    samples: Sequence[Sample],
    size: int,
    on_bad_image: OnBadImage = "error",
    threads: int | None = None,
    memory_limit: int | None = None,
    cache_dir: Path | None = None,
) -> tuple[torch.Tensor, list[Sample], Skipped]:
    """All pictures as one uint8 tensor (N, 3, size, size), the samples in it, and (path, reason) of those left out.

    on_bad_image: "error" raises the DataError of the first bad picture in order; "skip" leaves bad pictures, and
    pictures whose mask is bad, out.
    memory_limit: bytes; where the pictures together take more, they go to a memory-mapped file in cache_dir (default
    the user's cache folder) and are found there the next time, unless a file has changed. None: always memory.
    Writing to a mapped tensor changes this process's copy only.
    Raises DataError if nothing is left."""
    if on_bad_image not in ("error", "skip"):
        raise ValueError(f"on_bad_image is {on_bad_image!r}: expected 'error' or 'skip'")
    shape = (len(samples), 3, size, size)
    if memory_limit is None or int(np.prod(shape)) <= memory_limit:
        images = torch.empty(shape, dtype=torch.uint8)
        reasons = _fill(images, samples, size, on_bad_image, threads)
    else:
        key = picture_key(samples, size, on_bad_image)
        folder = cache_folder(cache_dir)
        stored, reasons = open_mapped(folder, key, shape) or write_mapped(
            folder, key, shape, lambda array: _fill(torch.from_numpy(array), samples, size, on_bad_image, threads)
        )
        images = torch.from_numpy(stored)
    kept = [s for i, s in enumerate(samples) if i not in reasons]
    skipped = [(samples[i].path, reason) for i, reason in sorted(reasons.items())]
    return images[: len(kept)], kept, skipped


def _fill(
    images: torch.Tensor, samples: Sequence[Sample], size: int, on_bad_image: OnBadImage, threads: int | None
) -> dict[int, str]:
    """Decode the samples into the first rows of images, in order, without gaps; by index why one was left out."""

    def load(index: int) -> DataError | None:
        sample = samples[index]
        try:
            images[index] = load_image(sample.path, size)
            if on_bad_image == "skip" and sample.mask_path is not None:
                decode_mask(sample.mask_path, picture_size(sample.path))
        except DataError as error:
            if on_bad_image == "error":
                raise
            return error
        return None

    results = list(on_threads(load, len(samples), "reading pictures", threads))
    reasons = {i: str(error) for i, error in enumerate(results) if error is not None}
    good = [i for i, error in enumerate(results) if error is None]
    if reasons and not good:
        raise DataError(f"none of the {len(samples)} pictures can be read; the first: {next(iter(reasons.values()))}")
    for to, source in enumerate(good):
        if to != source:
            images[to] = images[source]
    return reasons


def load_masks(
    samples: Sequence[Sample], sizes: Sequence[tuple[int, int]] | None = None, threads: int | None = None
) -> list[np.ndarray]:
    """The ground truth of every sample as bool (H, W) at its picture's own resolution; all False for a normal one.

    sizes: (H, W) of the pictures; None reads them from the files' headers.
    Raises DataError for a bad mask, one of another size than its picture, one that marks a normal picture, and a defect without
    one (see has_masks)."""

    def load(index: int) -> np.ndarray:
        sample = samples[index]
        height, width = sizes[index] if sizes is not None else picture_size(sample.path)
        if sample.mask_path is not None:
            mask = decode_mask(sample.mask_path, (height, width))
            if not sample.label and mask.any():
                found = f"marks {mask.sum()} pixels of {sample.path.name}, which counts as {sample.kind}"
                raise DataError(f"{sample.mask_path}: {found}. Empty the mask, or put both where defects lie.")
            return mask
        if sample.label:
            raise DataError(f"{sample.path}: a defect without a mask. Add its mask, or measure pictures only.")
        return np.zeros((height, width), dtype=bool)

    return list(on_threads(load, len(samples), "reading masks", threads))
