"""Small pictures for the page: data URIs of picture and heat map, outlines as SVG paths."""

import base64
import io

import numpy as np
from PIL import Image

from bikd_fast.report.overlay import heat_layer, resize_map


def fit(width: int, height: int, side: int) -> tuple[int, int]:
    """(width, height) scaled so that the longer side is at most `side`, never enlarged."""
    scale = min(1.0, side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def picture_uri(picture: np.ndarray, size: tuple[int, int], quality: int) -> str:
    """WebP data URI of a picture uint8 (H, W, 3) at size (width, height)."""
    return _uri(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0), quality)


def heat_uri(map: np.ndarray, size: tuple[int, int], *, low: float, high: float) -> str:
    """WebP data URI, transparent where cold, of the heat map (h, w) alone.

    At half of size: maps are smooth, and the browser interpolates.
    """
    colour, alpha = heat_layer(resize_map(map, max(1, size[0] // 2), max(1, size[1] // 2)), low=low, high=high)
    layer = np.dstack([colour, np.round(alpha * 255).astype(np.uint8)])
    return _uri(Image.fromarray(layer), 70)


def mask_outline(mask: np.ndarray, size: tuple[int, int]) -> str:
    """SVG path, in pixels of size, around the regions of mask bool (H, W).

    A pixel of size that a region touches at all belongs to it, so that thin regions stay.
    """
    touched = Image.fromarray(mask.astype(np.float32)).resize(size, Image.Resampling.BOX)
    return _path((np.asarray(touched) > 0).astype(np.float32), 0.5)


def map_outline(map: np.ndarray, size: tuple[int, int], threshold: float) -> str:
    """SVG path, in pixels of size, around the regions where the map (h, w) reaches the threshold; "" for none."""
    return _path(resize_map(map, *size), threshold) if np.isfinite(threshold) else ""


def _path(values: np.ndarray, level: float) -> str:
    # here and not above: predicting imports this package for draw_overlay, and scikit-image takes half a second
    from skimage.measure import approximate_polygon, find_contours

    # a frame below the level closes every contour; kept finite, for contours are interpolated
    padded = np.pad(values, 1, constant_values=min(float(values.min()), level) - 1.0)
    parts = []
    for contour in find_contours(padded, level):
        points = approximate_polygon(contour, 0.6) - 0.5  # the frame's pixel off, half a pixel to the corner
        if len(points) > 2:
            parts.append("M" + "L".join(f"{x:.1f} {y:.1f}" for y, x in points.clip(0)) + "Z")
    return "".join(parts)


def _uri(image: Image.Image, quality: int) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
