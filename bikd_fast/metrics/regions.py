"""Defect regions: 8-connected components by union-find over runs of pixels, vectorised over the whole set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from bikd_fast.metrics.inputs import Plane


@dataclass(frozen=True)
class Regions:
    """P anomalous pixels in R regions of N images; regions in order of image, then of first pixel in raster order.

    Attributes:
        positives: int64 (N,), anomalous pixels of each image.
        offset: int64 (P,), place of each anomalous pixel in its flattened mask; images one after the other, ascending
            in each.
        region: int64 (P,), the region of each anomalous pixel.
        area: int64 (R,), pixels.
        image: int64 (R,), the image each region lies in.
        box: int64 (R, 4), top, left, bottom, right in pixels; bottom and right exclusive.
    """

    positives: np.ndarray
    offset: np.ndarray
    region: np.ndarray
    area: np.ndarray
    image: np.ndarray
    box: np.ndarray


def find_regions(masks: Sequence[Plane]) -> Regions:
    """8-connected regions of N masks (H, W), any sizes, bool or integer, non-zero = anomalous; none spans two
    images.
    """
    found = [_nonzero(mask) for mask in masks]
    positives = np.array([f.size for f in found], np.int64)
    offset = np.concatenate(found) if found else np.zeros(0, np.int64)
    heights = np.array([m.shape[0] for m in masks], np.int64)
    widths = np.array([m.shape[1] for m in masks], np.int64)
    # One key for each pixel on a common canvas: images below one another with an empty row between, an empty column at
    # the right. Then neighbours are near in key, and nothing touches across an edge or between images.
    first_row = np.cumsum(heights + 1) - (heights + 1)
    pitch = int(widths.max(initial=0)) + 1
    width = np.repeat(widths, positives)
    row = offset // width
    column = offset - row * width
    key = (row + np.repeat(first_row, positives)) * pitch + column
    starts, lengths = _runs(key)
    label = _join(key[starts], key[starts] + lengths - 1, pitch)
    count = int(label.max(initial=-1)) + 1
    area = np.bincount(label, lengths, count).astype(np.int64)
    box = np.empty((count, 4), np.int64)
    box[:, :2] = np.iinfo(np.int64).max
    box[:, 2:] = 0
    np.minimum.at(box[:, 0], label, row[starts])
    np.minimum.at(box[:, 1], label, column[starts])
    np.maximum.at(box[:, 2], label, row[starts] + 1)
    np.maximum.at(box[:, 3], label, column[starts] + lengths)
    image = np.empty(count, np.int64)
    image[label] = np.searchsorted(np.cumsum(positives), starts, "right")
    return Regions(positives, offset, np.repeat(label, lengths), area, image, box)


def _nonzero(mask: Plane) -> np.ndarray:
    if isinstance(mask, torch.Tensor):  # on a GPU only the places of the anomalous pixels come to the host
        return torch.nonzero(mask.reshape(-1)).reshape(-1).cpu().numpy()
    # flatnonzero is several times faster on bool than on bytes
    return np.flatnonzero(mask if mask.dtype == bool else mask != 0)


def _runs(key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Starts (as positions in key) and lengths of the runs of consecutive keys."""
    new = np.ones(key.size, bool)
    np.not_equal(key[1:], key[:-1] + 1, out=new[1:])
    starts = np.flatnonzero(new)
    return starts, np.diff(np.append(starts, key.size))


def _join(first: np.ndarray, last: np.ndarray, pitch: int) -> np.ndarray:
    """Component of every run, numbered by its first run. first, last: keys of the ends of the runs, ascending."""
    # Runs of the row below that touch run a, corners included: last >= first[a] - 1 and first <= last[a] + 1 there.
    low = np.searchsorted(last, first + (pitch - 1), "left")
    high = np.searchsorted(first, last + (pitch + 1), "right")
    touching = np.maximum(high - low, 0)
    a = np.repeat(np.arange(first.size), touching)
    b = np.arange(a.size) - np.repeat(np.cumsum(touching) - touching - low, touching)
    parent = np.arange(first.size)
    while True:
        root_a, root_b = parent[a], parent[b]
        apart = root_a != root_b
        if not apart.any():
            break
        a, b, root_a, root_b = a[apart], b[apart], root_a[apart], root_b[apart]
        np.minimum.at(parent, np.maximum(root_a, root_b), np.minimum(root_a, root_b))
        while not np.array_equal(shorter := parent[parent], parent):
            parent = shorter
    is_root = parent == np.arange(parent.size)
    return (np.cumsum(is_root) - 1)[parent]
