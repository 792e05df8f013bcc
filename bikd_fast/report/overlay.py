"""A picture with its anomaly map over it, and the outline of what exceeds the threshold."""

import numpy as np
from PIL import Image

from bikd_fast.report.colormap import HEAT

_STRONGEST = 0.8  # opacity of the hottest colour: the picture stays visible underneath
_ALPHA = (_STRONGEST * np.linspace(0, 1, 256) * (2 - np.linspace(0, 1, 256))).astype(np.float32)  # of each heat


def draw_overlay(
    picture: np.ndarray, map: np.ndarray, *, threshold: float | None = None, low: float, high: float
) -> np.ndarray:
    """The picture under its heat map; regions with map >= threshold get an outline.

    picture: uint8 (H, W, 3) RGB. map: real (h, w), any size, it is stretched over the whole picture (bilinear,
    half-pixel centres). low and high: the map values drawn transparent and hottest; give all pictures of a set
    the same two (`heat_range`), else they cannot be compared. threshold: in map units; None draws no outline.
    Returns a new uint8 (H, W, 3). Raises ValueError for wrong shapes, a NaN in the map, or low >= high.
    """
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise ValueError(f"picture must be uint8 (H, W, 3), found {picture.dtype} {picture.shape}")
    large = resize_map(map, picture.shape[1], picture.shape[0])
    out = _blended(picture, _heat(large, low, high))
    if threshold is not None and not np.isnan(threshold):
        _draw_outline(out, large >= threshold)
    return out


def resize_map(map: np.ndarray, width: int, height: int) -> np.ndarray:
    """float32 (height, width): the map (h, w) stretched bilinearly, averaged where it shrinks. NaN is a ValueError."""
    if map.ndim != 2 or 0 in map.shape:
        raise ValueError(f"map must be (h, w), found {map.shape}")
    values = np.ascontiguousarray(map, dtype=np.float32)
    if np.isnan(values).any():
        raise ValueError("map contains NaN: the detector that made it is broken, and no colour stands for it")
    values = values.clip(-3e38, 3e38)  # an infinity would spread as NaN in the interpolation
    return np.asarray(Image.fromarray(values).resize((width, height), Image.Resampling.BILINEAR))


def heat_layer(map: np.ndarray, *, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Colour uint8 (H, W, 3) and opacity float32 (H, W) in [0, 1] of a map (H, W); transparent at and below low."""
    heat = _heat(map, low, high)
    return HEAT[heat], _ALPHA[heat]


def _heat(map: np.ndarray, low: float, high: float) -> np.ndarray:
    """uint8 (H, W): 0 at low and below, 255 at high and above."""
    if not low < high:
        raise ValueError(f"low must be below high, found low={low}, high={high}")
    heat = np.clip(map.astype(np.float32), np.float32(low), np.float32(high))
    heat -= np.float32(low)
    heat *= np.float32(255 / (high - low))
    return np.rint(heat, out=heat).astype(np.uint8)


def _blended(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The picture under the colours of heat. 8-bit arithmetic: a third of the time of floats, two levels off at most."""
    layer = Image.fromarray(heat)
    mask = layer.point(np.rint(255 * _ALPHA).astype(np.uint8).tolist())
    layer.putpalette(HEAT.tobytes())
    return np.array(Image.composite(layer.convert("RGB"), Image.fromarray(picture), mask))


def heat_range(maps: np.ndarray, labels: np.ndarray, threshold: float | None = None) -> tuple[float, float]:
    """One (low, high) for all maps (N, h, w) of a category, so that their pictures can be compared.

    low: exceeded by 5 % of the pixels of normal pictures (labels == 0; of all where none is normal). high: the larger
    of the 90th percentile of the maps' maxima and, so that a region at the threshold is clearly coloured, twice the
    threshold's distance from low. Pixels are sampled on a grid, values that are not finite left out; a constant map
    gives a range of width one.
    """
    pixels, peaks = thinned(maps), maps.max(axis=(1, 2)) if maps.size else maps
    return heat_range_of(pixels[labels == 0] if (labels == 0).any() else pixels, peaks, threshold)


def thinned(maps: np.ndarray) -> np.ndarray:
    """Of maps (N, h, w) the pixels that :func:`heat_range` looks at: a grid of about 64 a side."""
    step = max(1, maps.shape[-1] // 64) if maps.ndim == 3 else 1
    return maps[:, ::step, ::step]


def heat_range_of(pixels: np.ndarray, peaks: np.ndarray, threshold: float | None = None) -> tuple[float, float]:
    """:func:`heat_range` from the thinned maps of the normal pictures and the maxima of all, each of any shape."""
    pixels, peaks = _finite(pixels), _finite(peaks)
    if not len(pixels) or not len(peaks):
        return 0.0, 1.0
    low, high = float(np.quantile(pixels, 0.95)), float(np.quantile(peaks, 0.9))
    if threshold is not None and np.isfinite(threshold) and threshold > low:
        high = max(high, low + 2 * (threshold - low))
    return (low, high) if low < high else (low, low + 1.0)


def _finite(values: np.ndarray) -> np.ndarray:
    flat = values.astype(np.float32).ravel()
    return flat[np.isfinite(flat)]


def _draw_outline(picture: np.ndarray, inside: np.ndarray) -> None:
    """A light line on the region's inner edge and a dark one outside it: seen on any background. In place."""
    width = max(1, round(min(inside.shape) / 256))
    pixels = picture.reshape(-1, 3)  # a list of the few that change is five times as fast as a mask of all
    pixels[np.flatnonzero(_grow(inside, width) & ~inside)] = (20, 16, 28)
    pixels[np.flatnonzero(inside & _grow(~inside, width))] = 255


def _grow(mask: np.ndarray, by: int) -> np.ndarray:
    """bool (H, W): the mask dilated by a square of 2 * by + 1."""
    for axis in (0, 1):
        grown = mask.copy()
        for shift in range(1, by + 1):
            ahead, behind = (slice(shift, None), slice(None, -shift))
            one, two = (ahead, behind) if axis == 0 else ((slice(None), ahead), (slice(None), behind))
            grown[one] |= mask[two]
            grown[two] |= mask[one]
        mask = grown
    return mask
