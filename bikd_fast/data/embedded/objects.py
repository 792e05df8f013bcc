"""Objects that lie anywhere and at any angle on a moving ground: a steel nut on wood, a biscuit on cloth.

Shapes are rendered; wood, grain, crumb and yarn come from the photographs. Light always falls from the upper left."""

import numpy as np

from bikd_fast.data.embedded.raster import SIZE, Rng, spread, step, turned, veined
from bikd_fast.data.embedded.scene import Scene
from bikd_fast.data.embedded.sources import Parts

_LIGHT = np.array([-0.8, -0.6])  # towards the light, (row, column)
_STEEL = np.array([0.97, 1.0, 1.04])
_WOOD = np.array([0.66, 0.47, 0.31]), np.array([0.44, 0.28, 0.17])  # light and dark of the grain
_CLOTH = np.array([0.30, 0.36, 0.44])
_DOUGH, _CRUST = np.array([0.88, 0.69, 0.43]), np.array([0.62, 0.40, 0.19])


def nut(rng: Rng, parts: Parts) -> Scene:
    """A hexagonal steel nut with a turned face and a threaded bore, on a wooden table."""
    ground = wood(rng, parts)
    centre, angle = _pose(rng)
    apothem, bore = rng.uniform(68, 71), rng.uniform(31, 32)
    v, u = turned(centre, angle)
    rho = np.hypot(v, u) + 1e-9
    flats = [abs(u * np.cos(k * np.pi / 3) + v * np.sin(k * np.pi / 3)) for k in range(3)]
    body = apothem - np.maximum.reduce(flats)  # pixels inside the hexagon
    product = step(body) * step(rho - bore + 5)

    outward = np.stack(turned(centre, 0.0), axis=-1) / np.hypot(*turned(centre, 0.0))[:, :, None].clip(1e-9)
    facing = outward @ _LIGHT
    corner, sink = step(rho - apothem * 1.03, 1.5), step(bore + 5 - rho, 1.0)
    slope = 0.24 * corner - 0.30 * sink
    sheen = 0.07 * np.cos(2 * np.arctan2(facing, outward @ np.array([0.6, -0.8]))) * (1 - corner)  # of turned metal
    marks = parts["gravel"][int(rng.integers(parts["gravel"].shape[0])), :, 0]
    turning = np.interp(rho * 1.5, np.arange(len(marks)), marks) - marks.mean()
    grain = _relief(rng, parts, 2.2)
    thread = 0.16 * np.sin(rho * 2.6) * step(bore - rho, 0.5)
    rim = np.clip(1 - body / 2.5, 0, 1) * 0.10
    tone = 0.60 + slope * facing + sheen + 0.14 * turning + 0.025 * grain + thread - rim
    steel = np.clip(tone, 0, 1)[:, :, None] * _STEEL
    return _laid(ground, steel, product, _shade(body, 0.42), angle)


def biscuit(rng: Rng, parts: Parts) -> Scene:
    """A butter biscuit with a scalloped edge, a raised frame and four rows of docking holes, on woven cloth."""
    ground = cloth(rng, parts)
    centre, angle = _pose(rng)
    half_u, half_v = rng.uniform(79, 82), rng.uniform(54, 56)
    v, u = turned(centre, angle)
    to_u, to_v = half_u - abs(u), half_v - abs(v)
    corner = np.hypot(np.minimum(to_u - 12, 0), np.minimum(to_v - 12, 0))
    box = np.minimum(np.minimum(to_u, to_v), 12 - corner)
    wave = np.where(to_u < to_v, np.cos(v * 2 * np.pi / (half_v / 4.5)), np.cos(u * 2 * np.pi / (half_u / 6.5)))
    body = box + 2.2 * wave * np.clip(1 - box / 10, 0, 1)
    product = step(body)

    column, row = np.clip(np.round(u / 25), -2, 2), np.clip(np.round(v / 17 - 0.5) + 0.5, -1.5, 1.5)
    off_u, off_v = u - column * 25, v - row * 17
    hole = np.exp(-((off_u**2 + off_v**2) / 6))
    frame = np.exp(-(((box - 11) / 2.0) ** 2))
    height = 2.2 * frame - 3.0 * hole + np.clip(body, 0, 5) * 0.55
    dy, dx = np.gradient(height)
    crumb = _relief(rng, parts, 0.9)
    light = 1 - 0.16 * (dy * _LIGHT[0] + dx * _LIGHT[1]) + 0.07 * crumb - 0.35 * hole
    baked = np.clip(1 - body / rng.uniform(20, 26), 0, 1)[:, :, None] ** 1.5
    dough = (_DOUGH * (1 - baked) + _CRUST * baked) * rng.uniform(0.96, 1.04)
    return _laid(ground, np.clip(dough * light[:, :, None], 0, 1), product, _shade(body, 0.38), angle)


def wood(rng: Rng, parts: Parts) -> np.ndarray:
    """Planks at any place and angle; the grain is the grass, drawn out."""
    v, u = turned((rng.uniform(0, SIZE), rng.uniform(0, SIZE)), rng.uniform(0, 2 * np.pi))
    plank = np.floor(v / 58).astype(int)
    starts = rng.uniform(0, 2000, size=plank.max() - plank.min() + 1)[plank - plank.min()]
    grain = veined(parts["grass"], v + starts, u + 3 * starts)
    gap = np.exp(-(((v / 58 - plank - 0.5) * 58 / 1.3) ** 2))[:, :, None]
    return (_WOOD[0] * grain + _WOOD[1] * (1 - grain)) * (1 - 0.55 * gap)


def cloth(rng: Rng, parts: Parts) -> np.ndarray:
    """A plain twill at any place and angle, its yarns uneven as blades of grass are."""
    v, u = turned((rng.uniform(0, SIZE), rng.uniform(0, SIZE)), rng.uniform(0, 2 * np.pi))
    pitch = 5.0
    warp, weft = np.floor(u / pitch), np.floor(v / pitch)
    over = np.mod(warp + weft, 3) < 2
    across = np.where(over, u / pitch - warp, v / pitch - weft) - 0.5
    tone = np.where(over, 1.0, 0.80) * (1 - 1.1 * across**2) + 0.04 * _relief(rng, parts, 0.5, name="grass")
    return np.clip(tone[:, :, None] * _CLOTH, 0, 1)


def _pose(rng: Rng) -> tuple[tuple[float, float], float]:
    """Any angle, and a centre up to 14 pixels from the middle each way."""
    middle = (SIZE - 1) / 2
    return (middle + rng.uniform(-14, 14), middle + rng.uniform(-14, 14)), float(rng.uniform(0, 2 * np.pi))


def _relief(rng: Rng, parts: Parts, scale: float, name: str = "gravel") -> np.ndarray:
    """A photograph lit as a relief, (SIZE, SIZE) of mean 0 and deviation 1: the difference along the light."""
    ground = spread(rng, parts[name], scale, rng.uniform(0, 2 * np.pi))[:, :, 0]
    dy, dx = np.gradient(ground)
    slope = dy * _LIGHT[0] + dx * _LIGHT[1]
    return np.clip((slope - slope.mean()) / (slope.std() + 1e-9), -3, 3)


def _shade(body: np.ndarray, strength: float) -> np.ndarray:
    """The shadow that falls to the lower right of a body, as a factor (SIZE, SIZE); body in pixels, positive inside."""
    shifted = np.roll(body, (6, 5), axis=(0, 1))
    return 1 - strength * step(shifted, 6)


def _laid(ground: np.ndarray, surface: np.ndarray, product: np.ndarray, shade: np.ndarray, angle: float) -> Scene:
    cover = product[:, :, None]
    return Scene(surface * cover + ground * shade[:, :, None] * (1 - cover), product, ground, angle)
