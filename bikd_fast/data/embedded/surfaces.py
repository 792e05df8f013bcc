"""Surfaces: photographs of brick, grass and gravel as they are, and a rendered wall of square tiles."""

import numpy as np

from bikd_fast.data.embedded.raster import SIZE, Rng, spread, standardised, step, turned, veined, window
from bikd_fast.data.embedded.scene import Scene
from bikd_fast.data.embedded.sources import Parts

_WHOLE = np.ones((SIZE, SIZE))
_LOOSE_GROUND = (124, 136)  # pixels of the photograph: blades and stones large enough for a person to tell a defect among them


def brick(rng: Rng, parts: Parts) -> Scene:
    """A brick pavement; broken away it shows coarse, dark mortar."""
    picture = window(rng, parts["brick"], (172, 184), degrees=2, flip=True)
    return Scene(picture, _WHOLE, rubble(rng, parts, 0.22))


def grass(rng: Rng, parts: Parts) -> Scene:
    """A lawn; where grass is missing it shows bare earth."""
    picture = window(rng, parts["grass"], _LOOSE_GROUND, degrees=4, flip=True)
    return Scene(picture, _WHOLE, rubble(rng, parts, 0.26))


def gravel(rng: Rng, parts: Parts) -> Scene:
    """A bed of gravel; where stones are missing it shows sand."""
    picture = window(rng, parts["gravel"], _LOOSE_GROUND, degrees=4, flip=True)
    return Scene(picture, _WHOLE, rubble(rng, parts, 0.36))


def rubble(rng: Rng, parts: Parts, tone: float) -> np.ndarray:
    """Earth, sand or mortar of a mean gray value: lunar soil with grains, (SIZE, SIZE, 1)."""
    soil = standardised(spread(rng, parts["moon"], 0.4, rng.uniform(0, 2 * np.pi)), tone, 0.14 * tone)
    return np.clip(soil + rng.normal(size=soil.shape) * 0.06 * tone, 0, 1)


_STONE = np.array([0.72, 0.75, 0.72]), np.array([0.50, 0.56, 0.55])  # light and dark of the veined face


def tiles(rng: Rng, parts: Parts) -> Scene:
    """Square stone tiles with joints of rubble, the veins of every tile running across."""
    pitch, joint = rng.uniform(61, 65), rng.uniform(4.5, 5.5)
    angle = np.deg2rad(rng.uniform(-2, 2))
    origin = rng.uniform(100, 156), rng.uniform(100, 156)
    v, u = turned(origin, angle)
    row, column = np.floor(v / pitch), np.floor(u / pitch)
    y, x = v - (row + 0.5) * pitch, u - (column + 0.5) * pitch
    edge = (pitch - joint) / 2 - np.maximum(abs(y), abs(x))  # pixels inside the tile
    # every tile its own place in the photograph and its own tone
    kind = (row * 7 + column).astype(int)
    kind -= kind.min()
    height, width = parts["grass"].shape[:2]
    places = rng.uniform((0, 0), (height, width), size=(kind.max() + 1, 2))[kind]
    tones = rng.uniform(-0.025, 0.025, size=kind.max() + 1)[kind]
    veins = veined(parts["grass"], places[..., 0] / 1.6 + y, places[..., 1] / 0.16 + x)
    face = _STONE[0] * veins + _STONE[1] * (1 - veins) + tones[:, :, None]
    towards = np.where(abs(y) > abs(x), -np.sign(y), -np.sign(x))  # the light comes from the upper left
    bevel = towards * np.clip(1 - edge / 3, 0, 1) * 0.09
    grout = rubble(rng, parts, 0.36) * np.array([1.0, 0.93, 0.84])
    cover = step(edge, 0.8)[:, :, None]
    picture = np.clip((face + bevel[:, :, None]) * cover + grout * (1 - cover), 0, 1)
    return Scene(picture, _WHOLE, grout * 0.9, angle, _whole_tile(rng, origin, angle, pitch))


def _whole_tile(rng: Rng, origin: tuple[float, float], angle: float, pitch: float) -> tuple[tuple[float, float], float]:
    """The centre of a random tile that lies wholly in the picture, and the side of the square about it."""
    near, far = pitch * 0.6, SIZE - pitch * 0.6
    centres = []
    for row in range(-4, 4):
        for column in range(-4, 4):
            v, u = (row + 0.5) * pitch, (column + 0.5) * pitch
            y, x = origin[0] + v * np.cos(angle) + u * np.sin(angle), origin[1] - v * np.sin(angle) + u * np.cos(angle)
            if near < y < far and near < x < far:
                centres.append((float(y), float(x)))
    return centres[rng.integers(len(centres))], pitch - 2
