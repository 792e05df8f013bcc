"""ROC, precision-recall and PRO curves for drawing; the figures in the tables come from bikd_fast.metrics.

A curve is a pair of float64 arrays (x, y). A score s >= t is positive; one point for each distinct threshold.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

Curve = tuple[np.ndarray, np.ndarray]
RECORDED = ("image_roc", "image_pr", "pixel_roc", "pixel_pr", "pro")


def image_curves(score: np.ndarray, label: np.ndarray) -> dict[str, Curve]:
    """{"roc", "pr"} of scores (N,) and labels (N,); a curve that needs a class which is absent is left out.

    Scores that are NaN are left out.
    """
    known = ~np.isnan(score)
    value, inverse = np.unique(score[known], return_inverse=True)
    bad = np.bincount(inverse[label[known]], minlength=len(value))[::-1].cumsum()
    good = np.bincount(inverse[~label[known]], minlength=len(value))[::-1].cumsum()
    return _roc_and_pr(bad.astype(float), good.astype(float))


def area(curve: Curve) -> float:
    """Trapezoid area under a curve."""
    x, y = curve
    return float(((x[1:] - x[:-1]) * (y[1:] + y[:-1]) / 2).sum())


@dataclass
class PixelCounts:
    """Counts over all 65,536 float16 values, so that no pixel is held and no bin is approximate."""

    good: np.ndarray
    bad: np.ndarray
    region: np.ndarray  # every region weighs 1, spread over its pixels
    regions: int = 0


def count_pixels(pairs: Iterable[tuple[np.ndarray, np.ndarray | None]]) -> PixelCounts:
    """Counts of (map float16 (h, w), mask bool (H, W) or None for a normal picture).

    A mask keeps its own resolution, so that no thin region is lost: each of its pixels reads the map cell above it, and
    what a cell holds beyond its anomalous pixels counts as normal. Regions are 8-connected, as in the metrics.
    """
    counts = PixelCounts(np.zeros(65536), np.zeros(65536), np.zeros(65536))
    for map, mask in pairs:
        key = _order(map)
        if mask is None or not mask.any():
            area_of_cell = 1.0 if mask is None else mask.size / map.size
            counts.good += area_of_cell * np.bincount(key.ravel(), minlength=65536)
            continue
        (height, width), (rows, columns) = mask.shape, map.shape
        y, x = np.nonzero(mask)
        cell = (y * rows // height) * columns + x * columns // width
        inside = np.bincount(cell, minlength=map.size)
        normal = (mask.size / map.size - inside).clip(0)
        counts.good += np.bincount(key.ravel(), weights=normal, minlength=65536)
        counts.bad += np.bincount(key.ravel(), weights=inside, minlength=65536)
        region, found = ndimage.label(mask, structure=np.ones((3, 3)))
        weight = 1 / np.bincount(region.ravel(), minlength=found + 1)
        counts.region += np.bincount(key.ravel()[cell], weights=weight[region[y, x]], minlength=65536)
        counts.regions += found
    return counts


def pixel_curves(counts: PixelCounts, fpr_limit: float = 0.3) -> dict[str, Curve]:
    """{"roc", "pr", "pro"} of the counts, those that are defined.

    PRO ends at fpr_limit, its last segment interpolated.
    """
    used = (counts.good > 0) | (counts.bad > 0)
    good, bad, region = (column[used][::-1].cumsum() for column in (counts.good, counts.bad, counts.region))
    curves = _roc_and_pr(bad, good)
    if counts.regions and "roc" in curves:
        x, y = curves["roc"][0], np.concatenate([[0.0], region / counts.regions])
        before = x <= fpr_limit
        end = np.interp(fpr_limit, x, y)
        curves["pro"] = np.append(x[before], fpr_limit), np.append(y[before], end).clip(0, 1)
    return curves


def recorded_curves(entry: Any) -> dict[str, Curve]:
    """The curves of a metrics.json category, {name: {"x": [...], "y": [...]}} for the names in RECORDED.

    So bikd_fast.metrics.evaluate(..., curves=n) gives them. An empty or unusable one is passed over.
    """
    found: dict[str, Curve] = {}
    for name in RECORDED if isinstance(entry, dict) else ():
        points = entry.get(name)
        if not isinstance(points, dict):
            continue
        try:
            curve = np.asarray(points.get("x"), dtype=float), np.asarray(points.get("y"), dtype=float)
        except (TypeError, ValueError):
            continue
        if curve[0].ndim == 1 and curve[0].shape == curve[1].shape and len(curve[0]) > 1 and np.isfinite(curve).all():
            found[name] = curve
    return found


def thin(curve: Curve, points: int = 120, width: float = 1.0, height: float = 1.0) -> Curve:
    """At most `points` of the curve, evenly spaced along its drawn length (axes spanning width and height)."""
    x, y = curve
    if len(x) <= points:
        return curve
    length = np.concatenate([[0.0], np.hypot(np.diff(x) / width, np.diff(y) / height).cumsum()])
    keep = np.unique(np.searchsorted(length, np.linspace(0, length[-1], points)).clip(0, len(x) - 1))
    keep = np.unique(np.concatenate([[0], keep, [len(x) - 1]]))
    return x[keep], y[keep]


def _roc_and_pr(bad: np.ndarray, good: np.ndarray) -> dict[str, Curve]:
    """From the numbers of anomalous and normal ones at or above each threshold, falling thresholds."""
    curves: dict[str, Curve] = {}
    if not len(bad) or bad[-1] == 0:
        return curves
    recall, precision = bad / bad[-1], bad / (bad + good)
    curves["pr"] = np.concatenate([[0.0], recall]), np.concatenate([precision[:1], precision])
    if good[-1] > 0:
        curves["roc"] = np.concatenate([[0.0], good / good[-1]]), np.concatenate([[0.0], recall])
    return curves


def _order(map: np.ndarray) -> np.ndarray:
    """int (h, w): the position of each float16 among all float16 values, -0 as 0."""
    bits = (map.astype(np.float16) + np.float16(0)).view(np.uint16).astype(np.int64)
    return np.where(bits & 0x8000, 0xFFFF - bits, bits + 0x8000)
