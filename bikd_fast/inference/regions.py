"""What lies above the threshold of a map, as regions with outlines in the picture's own pixels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

TOLERANCE = 0.35  # pixels of the map by which a simplified outline may leave the exact one


def regions(anomaly: np.ndarray, threshold: float, height: int, width: int) -> list[dict[str, Any]] | None:
    """Connected regions of map >= threshold (8-connected), the highest peak first.

    anomaly: float (h, w), stretched over the whole picture. threshold: in its units.
    height, width: of the picture, in pixels.

    Returns None if the threshold is NaN, for nothing is known then. Otherwise a list of {"peak": highest map value,
    "area": pixels of the picture, "box": [left, top, right, bottom], "polygons": closed outlines [[x, y], ...]};
    coordinates are pixels of the picture, (0, 0) its upper left corner. Outlines follow the level line of the bilinear
    map; those that run the other way round (a positive shoelace sum against a negative one) bound holes.
    """
    if math.isnan(threshold):
        return None
    inside = anomaly >= threshold
    if not inside.any():
        return []
    from scipy import ndimage  # both take time to import, and pictures without a defect need neither
    from skimage.measure import approximate_polygon, find_contours

    h, w = anomaly.shape
    scale = np.array([width / w, height / h])
    labels, _ = ndimage.label(inside, structure=np.ones((3, 3)))
    found = []
    for label, where in enumerate(ndimage.find_objects(labels), start=1):
        rows, columns = where
        wide = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in where)
        own = labels[wide] == label
        values = np.where(own | ~inside[wide], anomaly[wide], np.float32(threshold) - 1)  # other regions do not join in
        low = float(min(values.min(), threshold)) - 1.0
        around = [(0 if s.start > 0 else 1, 0 if s.stop < n else 1) for s, n in zip(where, (h, w))]
        padded = np.pad(np.pad(values, around, mode="edge"), 1, constant_values=low)  # outlines close at the picture's edge
        origin = np.array([wide[0].start - around[0][0] - 1, wide[1].start - around[1][0] - 1])
        outlines = []
        for line in find_contours(padded, np.nextafter(np.float32(threshold), np.float32(-np.inf)), fully_connected="high"):
            simple = approximate_polygon(line, TOLERANCE)
            points = simple if len(simple) >= 4 else line  # of a region smaller than the tolerance no area would be left
            points = (points + origin + 0.5)[:, ::-1] * scale
            points[:, 0] = points[:, 0].clip(0, width)
            points[:, 1] = points[:, 1].clip(0, height)
            outlines.append(np.round(points, 2).tolist())
        found.append(
            {
                "peak": float(anomaly[where][labels[where] == label].max()),
                "area": round(float((labels[where] == label).sum()) * float(scale.prod())),
                "box": [
                    round(columns.start * scale[0], 2),
                    round(rows.start * scale[1], 2),
                    round(columns.stop * scale[0], 2),
                    round(rows.stop * scale[1], 2),
                ],
                "polygons": outlines,
            }
        )
    return sorted(found, key=lambda region: -region["peak"])
