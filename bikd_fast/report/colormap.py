"""The heat map's colours: one perceptual table, made here so that drawing needs no plotting library.

Lightness rises evenly from dark violet to pale yellow (OKLab, Ottosson 2020), so that equal steps of the map look like
equal steps, in grey print and to colour-blind eyes as well.
"""

import numpy as np

# (lightness, chroma, hue in degrees; hue runs through 360) at equal distances along the map
_ANCHORS = ((0.20, 0.09, 290.0), (0.38, 0.16, 315.0), (0.56, 0.21, 368.0), (0.74, 0.17, 408.0), (0.92, 0.15, 460.0))

_LMS_FROM_LAB = np.array(
    [
        [1.0, 0.3963377774, 0.2158037573],
        [1.0, -0.1055613458, -0.0638541728],
        [1.0, -0.0894841775, -1.2914855480],
    ]
)
_RGB_FROM_LMS = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


def _table(size: int = 256) -> np.ndarray:
    at = np.linspace(0, len(_ANCHORS) - 1, size)
    light, chroma, hue = (np.interp(at, np.arange(len(_ANCHORS)), column) for column in zip(*_ANCHORS))
    lab = np.stack([light, chroma * np.cos(np.radians(hue)), chroma * np.sin(np.radians(hue))], axis=1)
    linear = ((lab @ _LMS_FROM_LAB.T) ** 3 @ _RGB_FROM_LMS.T).clip(0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(255 * encoded).astype(np.uint8)


HEAT = _table()
"""uint8 (256, 3): RGB from cold to hot."""
