"""The images of one evaluation: maps, regions, labels, scores and kinds, checked against one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bikd_fast.metrics.inputs import Plane, as_planes, check_pairs, plane_of
from bikd_fast.metrics.regions import Regions, find_regions


@dataclass(frozen=True)
class Images:
    """N images of this rank. score: float64 (N,); label: int64 (N,), 0 or 1; index: int64 (N,), None: as given."""

    maps: list[Plane]
    sizes: list[tuple[int, int]]
    regions: Regions
    score: np.ndarray
    label: np.ndarray
    kind: list[str]
    index: np.ndarray | None


def read_images(
    maps: Any, masks: Any, scores: Any, labels: Any, kinds: Sequence[str] | None, indices: Sequence[int] | None
) -> Images:
    """Arguments of evaluate() -> Images; raises ValueError or TypeError naming what does not fit."""
    planes, truth = as_planes(maps, "maps"), as_planes(masks, "masks")
    check_pairs(planes, truth)
    n = len(planes)
    regions = find_regions(truth)
    score = _highest(planes) if scores is None else _column(scores, n, "scores").astype(np.float64)
    score = score + 0.0  # no -0.0 among the thresholds
    if np.isnan(score).any():
        what = "scores" if scores is not None else "maps"
        raise ValueError(f"{what}[{int(np.argmax(np.isnan(score)))}] contains NaN: it cannot be ranked")
    drawn = regions.positives > 0
    label = drawn.astype(np.int64) if labels is None else _column(labels, n, "labels").astype(np.int64)
    if ((label != 0) & (label != 1)).any():
        raise ValueError(f"labels must be 0 (normal) or 1 (anomalous), found {sorted(set(label.tolist()) - {0, 1})}")
    if (drawn & (label == 0)).any():
        bad = int(np.argmax(drawn & (label == 0)))
        raise ValueError(
            f"labels[{bad}] is 0 (normal) but masks[{bad}] marks {regions.positives[bad]} anomalous pixels"
        )
    if kinds is None:
        kind = ["defect" if one else "good" for one in label]
    elif len(kinds) != n:
        raise ValueError(f"{len(kinds)} kinds for {n} maps: give one for each map")
    else:
        kind = [str(k) for k in kinds]
    index = None if indices is None else _column(indices, n, "indices").astype(np.int64)
    sizes = [(int(t.shape[0]), int(t.shape[1])) for t in truth]
    return Images(planes, sizes, regions, score, label, kind, index)


def _column(values: Any, n: int, what: str) -> np.ndarray:
    array = np.asarray(plane_of(values.cpu()) if isinstance(values, torch.Tensor) else values)
    if array.shape != (n,):
        raise ValueError(f"{what} have shape {array.shape} for {n} maps: give one number for each map")
    return array


def _highest(maps: Sequence[Plane]) -> np.ndarray:
    if maps and isinstance(maps[0], torch.Tensor):
        return torch.stack([m.amax().double() for m in maps]).cpu().numpy()
    return np.array([m.max() for m in maps], np.float64)
