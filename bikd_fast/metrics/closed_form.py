"""Metrics as sums over the rungs of a ladder: exact, no curve is built.

Notation of docs/metrics.md: P anomalous and N normal pixels (or pictures); at a rung v, c(v) anomalous ones score
exactly v, a(v) normal ones score above v and b(v) at or above v. A score at or above the threshold counts as anomalous.
"""

from __future__ import annotations

import math

import numpy as np

from bikd_fast.metrics.ladder import Ladder

NAN = math.nan


def auroc(ladder: Ladder) -> float:
    """Area under the ROC curve, ties counted half: sum of c(v) (below(v) + at(v) / 2) / (P N), correctly rounded."""
    positives = int(ladder.positives.sum())
    if not positives or not ladder.negatives:
        return NAN
    twice = exact_dot(ladder.positives, 2 * ladder.below + ladder.at)
    return twice / (2 * positives * ladder.negatives)


def average_precision(ladder: Ladder) -> float:
    """Step sum of precision over recall, as scikit-learn's average_precision_score."""
    positives = int(ladder.positives.sum())
    if not positives or not ladder.negatives:
        return NAN
    found = ladder.found
    return float(np.sum(ladder.positives * (found / (found + ladder.reached)))) / positives


def best_f1(ladder: Ladder) -> tuple[float, float]:
    """(largest F1 over all thresholds, the lowest threshold that reaches it, which is always an anomalous score)."""
    positives = int(ladder.positives.sum())
    if not positives or not ladder.negatives:
        return NAN, NAN
    found = ladder.found
    f1 = 2.0 * found / (found + ladder.reached + positives)
    best = int(np.argmax(f1))  # the first, hence the lowest, of equals
    return float(f1[best]), float(ladder.values[best])


def pro_credit(ladder: Ladder, fpr_limit: float) -> np.ndarray:
    """Per-region overlap that one pixel at each rung contributes, float64 (V,) in [0, 1]: I(v) / X of docs/metrics.md.

    The mean over a region's pixels is that region's share of the area under its overlap curve up to the
    false-positive rate fpr_limit; the mean of these over all regions is AUPRO (Bergmann et al., IJCV 2021; trapezoid
    over the distinct scores, the segment that crosses the limit interpolated linearly, divided by the limit).
    """
    limit = fpr_limit * ladder.negatives
    a = ladder.above.astype(np.float64)
    b = ladder.reached.astype(np.float64)
    whole = limit - 0.5 * (a + b)
    crossing = np.maximum(limit - a, 0.0) ** 2 / (2.0 * np.maximum(b - a, 1.0))
    return np.where(b <= limit, whole, crossing) / limit


def pimo_credit(normal_reached: np.ndarray, normal_pixels: int, bounds: tuple[float, float]) -> np.ndarray:
    """What one pixel at each rung contributes to its image's AUPIMO, float64 (V,) in [0, 1]; NaN without normal images.

    Bertoldo et al., "AUPIMO", 2024: recall within one image, averaged over the logarithm of the false-positive rate F
    between the bounds, F counted over the pixels of normal images alone (pooled; for images of one size that is their
    mean rate). A pixel counts as found wherever F at its own score is not above the rate allowed, so no rate is ever
    exceeded. normal_reached: int64 (V,), pixels of normal images at or above each rung.
    """
    if not normal_pixels:
        return np.full(normal_reached.size, NAN)
    low, high = bounds
    rate = np.maximum(normal_reached / normal_pixels, low)
    return np.clip(np.log(high / rate) / math.log(high / low), 0.0, 1.0)


def exact_dot(counts: np.ndarray, values: np.ndarray) -> int:
    """Sum of counts * values for non-negative int64 arrays, without overflow for counts summing to less than 2^31."""
    low = int(np.sum(counts * (values & 0xFFFFFFFF)))
    return low + (int(np.sum(counts * (values >> 32))) << 32)
