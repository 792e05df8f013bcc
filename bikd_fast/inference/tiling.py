"""Large pictures in overlapping tiles at a chosen scale, blended without seams. The network's memory is that of a few tiles."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from bikd_fast.data import fit
from bikd_fast.errors import UserError
from bikd_fast.inference.prediction import run_batches
from bikd_fast.models.detector import Detector

UNIT = 32  # tiles start at multiples that are whole pixels in the picture and in the map


@dataclass(frozen=True)
class Tiling:
    """How a picture is cut.

    side: of a tile, in pixels of the picture; the detector sees each tile as one of its squares, so ``side = image_size`` keeps
        the picture's own resolution and a larger side shrinks it. A multiple of 32.
    overlap: share of a tile that its neighbour covers too, 0 to 0.5 (at half, every pixel lies in two tiles a direction).
    batch: tiles through the network at a time.
    """

    side: int
    overlap: float = 0.25
    batch: int = 4

    def __post_init__(self) -> None:
        if self.side < UNIT or self.side % UNIT:
            raise UserError(f"--tile {self.side}: the side of a tile must be a multiple of {UNIT} pixels.")
        if not 0 <= self.overlap <= 0.5:
            raise UserError(f"--overlap {self.overlap}: must lie between 0 and 0.5.")


@dataclass(frozen=True)
class Axis:
    """One axis of the grid: where tiles start in the picture and in the map, how long the map is, and each tile's weights."""

    starts: list[int]
    map_starts: list[int]
    map_length: int
    weights: np.ndarray  # float32 (tiles, size); over the tiles that cover it, the weights of a pixel of the map sum to one


def axis(length: int, side: int, size: int, overlap: float) -> Axis:
    """Grid along an axis of ``length`` pixels for tiles of ``side`` pixels that become ``size`` pixels of the map.

    Tiles start at multiples of side / gcd(side, size) pixels, which are whole pixels of the map too, so blending needs no
    interpolation. The last tile may reach over the picture's edge by less than that multiple (or a short picture by more);
    what is not there is mirrored.
    """
    step = side // math.gcd(side, size)  # of the picture; size // gcd of the map
    count = 1 if length <= side else 1 + math.ceil((length - side) / (side - math.floor(overlap * side)) - 1e-9)
    last = math.ceil(max(0, length - side) / step)
    places = sorted({math.ceil(last * i / max(1, count - 1) - 1e-9) if i else 0 for i in range(count)})
    map_step = size // math.gcd(side, size)
    map_starts = [p * map_step for p in places]
    map_length = max(1, math.ceil(length * size / side - 1e-9))
    return Axis([p * step for p in places], map_starts, map_length, _weights(map_starts, size))


def _weights(starts: list[int], size: int) -> np.ndarray:
    """Raised-cosine ramps over each overlap, one inside and towards the picture's own edges, then normalised to sum to one."""
    weights = np.ones((len(starts), size), np.float64)
    for i, (one, two) in enumerate(zip(starts, starts[1:])):
        shared = one + size - two
        if shared > 0:
            rise = np.sin(0.5 * np.pi * (np.arange(shared) + 0.5) / shared) ** 2
            weights[i + 1, :shared] *= rise
            weights[i, size - shared :] *= rise[::-1]
    total = np.zeros(starts[-1] + size)
    for start, row in zip(starts, weights):
        total[start : start + size] += row
    for start, row in zip(starts, weights):
        row /= total[start : start + size]
    return weights.astype(np.float32)


def look_tiled(detector: Detector, planes: torch.Tensor, tiling: Tiling) -> tuple[torch.Tensor, float]:
    """Map (h, w) float32 on the CPU, one pixel for each side / image_size pixels of the picture, and the score.

    planes: the picture, uint8 (3, H, W) or float in [0, 1]; only a batch of tiles of it is copied at a time, so it may be
    mapped from a file. The score is the detector's (maximum or top-k mean) of the blended map. It is the largest of many
    tiles' scores, so the false-alarm rate that the threshold promises holds for a tile, not for the picture.
    """
    size, side = detector.image_size, tiling.side
    down, across = (axis(n, side, size, tiling.overlap) for n in planes.shape[1:])
    blended = torch.zeros(down.map_length, across.map_length)
    grid = [(i, j) for i in range(len(down.starts)) for j in range(len(across.starts))]
    for start in range(0, len(grid), tiling.batch):
        part = grid[start : start + tiling.batch]
        tiles = [fit(_cut(planes, down.starts[i], across.starts[j], side), size) for i, j in part]
        maps = (anomaly for batch, _ in run_batches(detector, tiles) for anomaly in batch)
        for (i, j), anomaly in zip(part, maps):
            _blend(blended, anomaly, down, across, i, j)
    return blended, _score(blended, detector)


def _blend(blended: torch.Tensor, anomaly: torch.Tensor, down: Axis, across: Axis, i: int, j: int) -> None:
    top, left = down.map_starts[i], across.map_starts[j]
    there = blended[top : top + len(anomaly), left : left + len(anomaly)]
    rows = torch.from_numpy(down.weights[i])[: there.shape[0], None]
    columns = torch.from_numpy(across.weights[j])[None, : there.shape[1]]
    there += rows * columns * anomaly[: there.shape[0], : there.shape[1]]


def _cut(planes: torch.Tensor, top: int, left: int, side: int) -> torch.Tensor:
    """(3, side, side) from (top, left), mirrored where it reaches over the edge."""
    inside = planes[:, top : top + side, left : left + side]
    if inside.shape[1:] == (side, side):
        return inside
    rows, columns = (torch.from_numpy(_mirrored(side, n)) for n in inside.shape[1:])
    return inside[:, rows][:, :, columns]


def _mirrored(count: int, length: int) -> np.ndarray:
    """0 ... length - 1, length - 1 ... 0, 0 ...: ``count`` positions."""
    index = np.arange(count) % (2 * length)
    return np.minimum(index, 2 * length - 1 - index)


def _score(blended: torch.Tensor, detector: Detector) -> float:
    flat, config = blended.flatten(), detector.map_config
    if config.score == "max":
        return flat.max().item()
    return flat.topk(min(config.topk, len(flat))).values.mean().item()


def tiles_of(height: int, width: int, tiling: Tiling, size: int) -> Iterator[tuple[int, int]]:
    """(top, left) of every tile, in pixels of the picture; for progress and for tests."""
    for top in axis(height, tiling.side, size, tiling.overlap).starts:
        for left in axis(width, tiling.side, size, tiling.overlap).starts:
            yield top, left
