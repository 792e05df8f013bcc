"""Surfaces: photographs of brick, grass and gravel as they are, and a rendered wall of square tiles."""

import numpy as np

from bikd_fast.data.embedded.raster import SIZE, Rng, sample, spread, standardised, step, turned, window
from bikd_fast.data.embedded.scene import Scene
from bikd_fast.data.embedded.sources import Parts

_WHOLE = np.ones((SIZE, SIZE))


def brick(rng: Rng, parts: Parts) -> Scene:
    """A brick pavement; broken away it shows coarse, dark mortar."""
    picture = window(rng, parts["brick"], (172, 184), degrees=2, flip=True)
    under = standardised(window(rng, parts["gravel"], (190, 200), 0, True), 0.24, 0.05)
    return Scene(picture, _WHOLE, under)


def grass(rng: Rng, parts: Parts) -> Scene:
    """A lawn; where grass is missing it shows bare earth."""
    picture = window(rng, parts["grass"], (172, 184), degrees=4, flip=True)
    under = standardised(spread(rng, parts["moon"], 0.5, rng.uniform(0, 6.28)), 0.26, 0.035)
    return Scene(picture, _WHOLE, under)


def gravel(rng: Rng, parts: Parts) -> Scene:
    """A bed of gravel; where stones are missing it shows sand."""
    picture = window(rng, parts["gravel"], (172, 184), degrees=4, flip=True)
    under = standardised(spread(rng, parts["moon"], 0.7, rng.uniform(0, 6.28)), 0.38, 0.04)
    return Scene(picture, _WHOLE, under)


_GLAZE = np.array([0.80, 0.71, 0.58]), np.array([0.60, 0.49, 0.37])  # light and dark of the veined face


def tiles(rng: Rng, parts: Parts) -> Scene:
    """Square stone tiles with joints, the veins of every tile running across; faces from the grass, joints from the gravel."""
    pitch, joint = rng.uniform(61, 65), rng.uniform(4.5, 5.5)
    angle = np.deg2rad(rng.uniform(-2, 2))
    v, u = turned((rng.uniform(100, 156), rng.uniform(100, 156)), angle)
    row, column = np.floor(v / pitch), np.floor(u / pitch)
    y, x = v - (row + 0.5) * pitch, u - (column + 0.5) * pitch
    edge = (pitch - joint) / 2 - np.maximum(abs(y), abs(x))  # pixels inside the tile
    # every tile its own place in the photograph and its own tone
    kind = (row * 7 + column).astype(int)
    kind -= kind.min()
    height, width = parts["grass"].shape[:2]
    places = rng.uniform((0, 0), (height, width), size=(kind.max() + 1, 2))[kind]
    tones = rng.uniform(-0.025, 0.025, size=kind.max() + 1)[kind]
    veins = sample(parts["grass"], places[..., 0] + y * 1.6, places[..., 1] + x * 0.16)[:, :, 0]
    veins = np.clip((veins - 0.45) * 1.5 + 0.5, 0, 1)[:, :, None]
    face = _GLAZE[0] * veins + _GLAZE[1] * (1 - veins) + tones[:, :, None]
    bevel = np.where(abs(y) > abs(x), -np.sign(y), -np.sign(x)) * np.clip(1 - edge / 3, 0, 1) * 0.09  # lit from the upper left
    grout = standardised(spread(rng, parts["gravel"], 1.3, angle), 0.42, 0.05) * np.array([1.0, 0.98, 0.94])
    cover = step(edge, 0.8)[:, :, None]
    picture = np.clip((face + bevel[:, :, None]) * cover + grout * (1 - cover), 0, 1)
    return Scene(picture, _WHOLE, grout * 0.85, angle, _whole_tile(rng, y, x, row, column, pitch))


def _whole_tile(
    rng: Rng, y: np.ndarray, x: np.ndarray, row: np.ndarray, column: np.ndarray, pitch: float
) -> tuple[tuple[float, float], float]:
    """The centre of a random tile that lies wholly in the picture, and the side of the square about it."""
    centres = []
    margin = int(pitch * 0.75)
    inner = (slice(margin, -margin), slice(margin, -margin))
    for r, c in sorted(set(zip(row[inner].ravel(), column[inner].ravel()))):
        off = np.where((row == r) & (column == c), np.hypot(y, x), np.inf)
        at = np.unravel_index(np.argmin(off), off.shape)
        if off[at] < 1 and all(margin * 0.7 <= a < SIZE - margin * 0.7 for a in at):
            centres.append((float(at[0]), float(at[1])))
    return centres[rng.integers(len(centres))], pitch - 2
