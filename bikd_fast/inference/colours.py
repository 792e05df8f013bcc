"""The two map values that heat maps draw transparent and hottest: one pair for a detector, so that its pictures compare."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from bikd_fast.report.overlay import heat_range


def colour_range(folder: Path, threshold: float) -> tuple[float, float] | None:
    """(low, high) from the maps that evaluation left in the detector's folder, else around the threshold of a pixel.

    None where there is neither: then the first map has to give the range.
    """
    try:
        with np.load(folder / "predictions.npz", allow_pickle=False) as kept:
            return heat_range(kept["map"], kept["label"], threshold)
    except Exception:  # whatever a damaged file brings up
        pass
    if math.isfinite(threshold) and threshold > 0:
        return 0.6 * threshold, 1.4 * threshold
    return None
