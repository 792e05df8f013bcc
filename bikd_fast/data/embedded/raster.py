"""Small drawing tools: windows into a photograph, edges, outlines; all on a grid of SIZE x SIZE pixels, y down."""

from functools import lru_cache

import numpy as np
from scipy import ndimage

SIZE = 256
Rng = np.random.Generator


@lru_cache(maxsize=1)
def grid() -> tuple[np.ndarray, np.ndarray]:
    """Row and column coordinates, float64 (SIZE, SIZE) each."""
    rows, columns = np.mgrid[0:SIZE, 0:SIZE].astype(np.float64)
    rows.flags.writeable = columns.flags.writeable = False
    return rows, columns


def turned(centre: tuple[float, float], angle: float) -> tuple[np.ndarray, np.ndarray]:
    """The grid in a frame at centre (row, column) turned by angle in radians: (v, u), u along the frame's x axis."""
    rows, columns = grid()
    y, x = rows - centre[0], columns - centre[1]
    return y * np.cos(angle) - x * np.sin(angle), y * np.sin(angle) + x * np.cos(angle)


def sample(pixels: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Bilinear values of pixels (H, W, C) at the coordinates, mirrored beyond the border: (*rows.shape, C)."""
    at = np.stack([rows, columns])
    channels = np.moveaxis(pixels, 2, 0)
    return np.stack([ndimage.map_coordinates(c, at, order=1, mode="mirror") for c in channels], axis=-1)


def window(rng: Rng, part: np.ndarray, side: tuple[float, float], degrees: float, flip: bool) -> np.ndarray:
    """A square window at a random place of a photograph's part, (SIZE, SIZE, C), wholly inside it.

    side: the range of the window's side in pixels of the photograph. degrees: the most it is turned, either way.
    flip: mirror every second one."""
    angle = np.deg2rad(rng.uniform(-degrees, degrees))
    length = rng.uniform(*side)
    reach = length / 2 * (abs(np.cos(angle)) + abs(np.sin(angle))) + 0.5
    height, width = part.shape[:2]
    centre = rng.uniform(reach, height - 1 - reach), rng.uniform(reach, width - 1 - reach)
    v, u = turned(((SIZE - 1) / 2, (SIZE - 1) / 2), angle)
    if flip and rng.random() < 0.5:
        u = -u
    scale = length / SIZE
    return sample(part, centre[0] + v * scale, centre[1] + u * scale)


def spread(rng: Rng, part: np.ndarray, scale: float, angle: float) -> np.ndarray:
    """A photograph's part as ground of any extent: mirrored at its borders, at any place and angle: (SIZE, SIZE, C).

    scale: pixels of the photograph a pixel of the result."""
    v, u = turned(((SIZE - 1) / 2, (SIZE - 1) / 2), angle)
    height, width = part.shape[:2]
    return sample(part, rng.uniform(0, height) + v * scale, rng.uniform(0, width) + u * scale)


def veined(part: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A photograph of grass drawn out tenfold along x: the grain of wood or stone, (SIZE, SIZE, 1) in [0, 1]."""
    grain = sample(part, y * 1.6, x * 0.16)
    return np.clip((grain - 0.45) * 1.5 + 0.5, 0, 1)


def standardised(pixels: np.ndarray, mean: float, deviation: float) -> np.ndarray:
    """Pixels as one gray channel of the given mean and standard deviation, outliers cut at two: (H, W, 1)."""
    gray = pixels.mean(axis=2, keepdims=True)
    return np.clip(np.clip((gray - gray.mean()) / (gray.std() + 1e-9), -2, 2) * deviation + mean, 0, 1)


def step(distance: np.ndarray, width: float = 1.0) -> np.ndarray:
    """A smooth edge: 0 at distance <= -width, 1 at distance >= width (pixels), cubic between."""
    t = np.clip(distance / (2 * width) + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def outline(rng: Rng, centre: tuple[float, float], radius: float, roughness: float, stretch: float = 1.0) -> np.ndarray:
    """Distance in pixels, about, positive inside, to a closed star-shaped outline of seven random harmonics."""
    v, u = turned(centre, rng.uniform(0, np.pi))
    theta, rho = np.arctan2(v, u / stretch), np.hypot(v, u / stretch)
    bound = np.ones_like(theta)
    for k in range(2, 9):
        bound += roughness / k * rng.uniform(0.3, 1) * np.cos(k * theta + rng.uniform(0, 2 * np.pi))
    return radius * bound - rho


def nearest_on_path(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Signed distance of every pixel to a polyline (K, 2) of (row, column), and where along it, 0 to 1, that is."""
    rows, columns = grid()
    lengths = np.hypot(*(points[1:] - points[:-1]).T)
    ends = np.concatenate([[0.0], np.cumsum(lengths)])
    best = np.full(rows.shape, np.inf)
    signed, along = best.copy(), np.zeros_like(best)
    for (y0, x0), (y1, x1), start, length in zip(points, points[1:], ends, lengths):
        dy, dx = (y1 - y0) / length, (x1 - x0) / length
        t = np.clip((rows - y0) * dy + (columns - x0) * dx, 0, length)
        distance = np.hypot(rows - y0 - t * dy, columns - x0 - t * dx)
        closer = distance < best
        side = np.sign((columns - x0) * dy - (rows - y0) * dx)
        best = np.where(closer, distance, best)
        signed = np.where(closer, np.where(side == 0, 1, side) * distance, signed)
        along = np.where(closer, (start + t) / ends[-1], along)
    return signed, along
