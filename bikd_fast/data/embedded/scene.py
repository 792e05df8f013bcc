"""A scene: a perfect product before the camera, and the camera that takes its picture."""

from dataclasses import dataclass

import numpy as np

from bikd_fast.data.embedded.raster import SIZE, Rng, grid


@dataclass(frozen=True)
class Scene:
    """A product as an ideal camera would see it.

    picture: float64 (SIZE, SIZE, C), C = 1 or 3, in [0, 1].
    product: float64 (SIZE, SIZE) in [0, 1], how much of each pixel is product (all 1 for a surface).
    under: float64 (SIZE, SIZE, C), what shows where the product is broken away.
    angle: orientation of the product in radians. patch: ((row, column), side) of the patch to turn where the product
    prescribes one, as a tile does."""

    picture: np.ndarray
    product: np.ndarray
    under: np.ndarray
    angle: float = 0.0
    patch: tuple[tuple[float, float], float] | None = None


def photograph(
    rng: Rng, clean: np.ndarray, damaged: np.ndarray | None = None, mask: np.ndarray | None = None
) -> np.ndarray:
    """A camera's picture of a scene, uint8 (SIZE, SIZE, C): gain, uneven light, sensor noise.

    damaged (SIZE, SIZE, C) is seen where mask (SIZE, SIZE) is True, clean elsewhere, under the same light and the same
    noise: outside the mask the picture is what it would be without the defect, to the last bit."""
    rows, columns = grid()
    direction = rng.uniform(0, 2 * np.pi)
    slope = rng.uniform(0, 0.07)
    across = ((rows - SIZE / 2) * np.sin(direction) + (columns - SIZE / 2) * np.cos(direction)) / (SIZE / 2)
    light = rng.uniform(0.92, 1.08) * (1 + slope * across)[:, :, None]
    noise = rng.standard_normal(clean.shape, dtype=np.float32) * (rng.uniform(0.8, 2.0) / 255)
    seen = clean if damaged is None or mask is None else np.where(mask[:, :, None], damaged, clean)
    return (np.clip(seen * light + noise, 0, 1) * 255 + 0.5).astype(np.uint8)
