"""ROC, precision-recall and per-region-overlap curves of a ladder, thinned for drawing with a bounded deviation."""

from __future__ import annotations

import math

import numpy as np

from bikd_fast.metrics.ladder import Ladder

Curve = dict[str, list[float]]


def roc(ladder: Ladder, points: int = 200) -> Curve:
    """False-positive rate x, true-positive rate y, from (0, 0) to (1, 1); threshold where the curve turns."""
    positives = int(ladder.positives.sum())
    if not positives or not ladder.negatives:
        return _empty()
    found = ladder.found
    return _thin(*_corners(ladder, (found - ladder.positives) / positives, found / positives), 1.0, points)


def pro(ladder: Ladder, weights: np.ndarray, fpr_limit: float, points: int = 200) -> Curve:
    """False-positive rate x up to fpr_limit, mean overlap of regions y. weights: float64 (V,), sum of 1 / area."""
    if not weights.size or not ladder.negatives:
        return _empty()
    reached = np.cumsum(weights[::-1])[::-1]
    return _thin(*_corners(ladder, (reached - weights) / reached[0], reached / reached[0]), fpr_limit, points)


def precision_recall(ladder: Ladder, points: int = 200) -> Curve:
    """Recall x, precision y at anomalous scores from the highest down; between two of them precision only falls."""
    positives = int(ladder.positives.sum())
    if not positives or not ladder.negatives:
        return _empty()
    found = ladder.found[::-1]
    x, y = found / positives, found / (found + ladder.reached[::-1])
    keep = _spread(x, y, points)
    return _curve(x[keep], y[keep], ladder.values[::-1][keep])


def _corners(ladder: Ladder, before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every corner of a rate curve: at each rung, from the highest, the point just above it and the point at it."""
    x = np.stack([ladder.above, ladder.reached], 1)[::-1].reshape(-1) / ladder.negatives
    y = np.stack([before, after], 1)[::-1].reshape(-1)
    threshold = np.repeat(ladder.values[::-1], 2)
    return (
        np.append(np.append(0.0, x), 1.0),
        np.append(np.append(0.0, y), 1.0),
        np.append(np.append(np.inf, threshold), -np.inf),
    )


def _thin(x: np.ndarray, y: np.ndarray, threshold: np.ndarray, limit: float, points: int) -> Curve:
    inside = int(np.searchsorted(x, limit, "right"))
    if inside < x.size:  # end exactly on the limit
        end = np.interp(limit, x[inside - 1 : inside + 1], y[inside - 1 : inside + 1])
        x, y, threshold = np.append(x[:inside], limit), np.append(y[:inside], end), threshold[: inside + 1]
    keep = _spread(x / limit, y, points)
    return _curve(x[keep], y[keep], threshold[keep])


def _spread(x: np.ndarray, y: np.ndarray, points: int) -> np.ndarray:
    """Places of at most `points` points evenly spread along the curve; no dropped stretch exceeds length / points."""
    if x.size <= points:
        return np.arange(x.size)
    length = np.append(0.0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
    return np.unique(
        np.append(np.searchsorted(length, np.linspace(0.0, length[-1], points - 1)).clip(0, x.size - 1), x.size - 1)
    )


def _curve(x: np.ndarray, y: np.ndarray, threshold: np.ndarray) -> Curve:
    return {
        "x": x.tolist(),
        "y": y.tolist(),
        "threshold": [float(t) if math.isfinite(t) else math.nan for t in threshold],
    }


def _empty() -> Curve:
    return {"x": [], "y": [], "threshold": []}
