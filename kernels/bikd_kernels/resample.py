"""The upsample-and-blur matrices: bilinear upsampling and Gaussian blur of one axis as one small dense matrix.

Both are linear and separable, so blur(up(d)) = A d B^T with A (H, h) and B (W, w). The matrices are built in float64
with numpy, once for each shape, and kept.

Sources: bilinear weights as in torch.nn.functional.interpolate; Gaussian taps as in scipy.ndimage.gaussian_filter
(order 0, radius int(truncate * sigma + 0.5), taps normalised to one).
"""

from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .checks import blur_sigma

Padding = Literal["zeros", "replicate", "reflect", "symmetric", "circular"]
PADDINGS: tuple[str, ...] = get_args(Padding)
TRUNCATE = 4.0
WIDEST = 64  # greatest sigma, in lengths of the axis: the picture is even long before, and taps without end are no use
STEP = 1 << 18  # taps laid on the matrix at a time


def upsample_matrix(source: int, target: int, align_corners: bool = False) -> NDArray[np.float64]:
    """Weights (target, source) of one axis of F.interpolate(mode="bilinear", size=target)."""
    _check_length(source, "source")
    _check_length(target, "target")
    i = np.arange(target, dtype=np.float64)
    if align_corners:
        x = i * ((source - 1) / (target - 1)) if target > 1 else np.zeros(1)
    else:
        x = np.maximum((i + 0.5) * (source / target) - 0.5, 0.0)
    low = np.minimum(x.astype(np.int64), source - 1)
    high = np.minimum(low + 1, source - 1)
    fraction = x - low
    rows = np.arange(target)
    matrix = np.zeros((target, source))
    np.add.at(matrix, (rows, low), 1.0 - fraction)
    np.add.at(matrix, (rows, high), fraction)
    return matrix


def gaussian_taps(sigma: float, truncate: float = TRUNCATE) -> NDArray[np.float64]:
    """The 2 r + 1 taps of a Gaussian of `sigma` pixels, r = int(truncate sigma + 0.5), summing to one."""
    radius = int(truncate * blur_sigma(sigma) + 0.5)
    if radius == 0:
        return np.ones(1)
    taps = np.exp(-0.5 / (sigma * sigma) * np.arange(-radius, radius + 1) ** 2)
    return taps / taps.sum()


def fold(index: NDArray[np.int64], length: int, padding: str) -> NDArray[np.int64]:
    """Position inside [0, length) that a padded position reads; -1 where it reads zero.

    Names as in torch.nn.functional.pad, and as in numpy.pad for "symmetric" (which scipy.ndimage calls "reflect").
    Unlike torch, the padding may be wider than the axis: it is then folded again, as numpy and scipy do.
    """
    if padding == "zeros":
        return np.where((index >= 0) & (index < length), index, -1)
    if padding == "replicate":
        return np.clip(index, 0, length - 1)
    if padding == "circular":
        return index % length
    if padding == "symmetric":
        index = index % (2 * length)
        return np.minimum(index, 2 * length - 1 - index)
    if padding == "reflect":
        if length == 1:
            return np.zeros_like(index)
        index = index % (2 * length - 2)
        return np.minimum(index, 2 * length - 2 - index)
    raise ValueError(f"padding must be one of {', '.join(PADDINGS)}, got {padding!r}")


def blur_matrix(length: int, sigma: float, padding: str = "reflect") -> NDArray[np.float64]:
    """Gaussian blur of an axis as a (length, length) matrix; ValueError for a sigma of more than WIDEST lengths."""
    _check_length(length, "length")
    if blur_sigma(sigma) > WIDEST * length:
        raise ValueError(f"sigma must be at most {WIDEST} times the map's {length} pixels, got {sigma}")
    taps = gaussian_taps(sigma)
    offsets = np.arange(len(taps)) - len(taps) // 2
    matrix = np.zeros((length, length))
    step = max(1, STEP // len(taps))
    for start in range(0, length, step):  # a few rows at a time: a wide blur has many taps a row
        rows = np.arange(start, min(start + step, length))[:, None]
        columns = fold(rows + offsets, length, padding)
        inside = columns >= 0
        places, weights = ((rows - start) * length + columns)[inside], np.broadcast_to(taps, columns.shape)[inside]
        matrix[start : start + step] = np.bincount(places, weights, len(rows) * length).reshape(-1, length)
    return matrix


@lru_cache(maxsize=256)
def resample_matrix(
    source: int, target: int, sigma: float = 0.0, align_corners: bool = False, padding: str = "reflect"
) -> NDArray[np.float64]:
    """blur @ upsample of one axis, float64 (target, source), read-only; kept for the next call with the same arguments.

    sigma is in pixels of the target. Raises ValueError for an unknown padding, a negative sigma or an empty axis.
    """
    matrix = blur_matrix(target, float(sigma), padding) @ upsample_matrix(source, target, align_corners)
    matrix.setflags(write=False)
    return matrix


def _check_length(length: int, name: str) -> None:
    if length < 1:
        raise ValueError(f"{name} must be at least 1, got {length}")


def windows(matrix: NDArray[np.float64], block: int, chunk: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """The band of a resampling matrix, cut into blocks of rows for a tiled product.

    A block of `block` output rows reads one short run of columns only (a run around the end for circular padding).
    Returns weights (blocks, block, K) float32 and starts (blocks,) int32 such that row r of block k of the product is
    sum_i weights[k, r, i] x[(starts[k] + i) % n]. K is a power of two >= 16 up to `chunk`, then a multiple of it; rows
    past the end and columns outside the run weigh 0.
    """
    rows, n = matrix.shape
    blocks = -(-rows // block)
    runs = [_run(np.flatnonzero(matrix[k * block : (k + 1) * block].any(axis=0)), n) for k in range(blocks)]
    longest = max(length for _, length in runs)
    width = max(16, 1 << (longest - 1).bit_length())
    if width > chunk:
        width = -(-longest // chunk) * chunk
    weights = np.zeros((blocks, block, width), dtype=np.float32)
    for k, (start, length) in enumerate(runs):
        part = matrix[k * block : (k + 1) * block]
        weights[k, : len(part), :length] = part[:, (start + np.arange(length)) % n]
    return weights, np.array([start for start, _ in runs], dtype=np.int32)


def _run(used: NDArray[np.int64], n: int) -> tuple[int, int]:
    """Start and length of the shortest run, around the end if need be, that holds every used column."""
    if len(used) == 0:
        return 0, 1
    gaps = np.diff(np.append(used, used[0] + n))
    widest = int(gaps.argmax())
    return int(used[(widest + 1) % len(used)]), int(n - gaps[widest] + 1)
