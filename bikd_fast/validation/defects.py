"""Defects to judge by, made by code that training never uses: a trial of a search by them, and the shares of a map.

A setting must not win by training on what it is judged by, so neither outlines nor contents are those of the training simulation
(bikd_fast/simulation: Perlin noise, ellipses and boxes, cut-outs of training pictures) or of the embedded test set: outlines here
are metaballs, Bezier strands, cells of half-planes and lenses; contents are gratings, grain, shading, displacement along a line
and held-out pictures. Lengths are in pixels of a 256-pixel picture. A defect gets a picture (S, S, 3) float64 in [0, 1], another
held-out one, and where its centre lies; it returns the damaged picture and how strongly each pixel was touched, (S, S) in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

Rng = np.random.Generator
Place = tuple[float, float]
Damage = tuple[np.ndarray, np.ndarray]
TOUCHED = 0.15  # of the cover, from which on a pixel is labelled
LEAST = 8 / 255  # mean change inside the label; a weaker defect is made stronger, up to STRONGER times,
MASKED = 0.6  # and as much more as this share of the surroundings' deviation: contrast masks contrast
STRONGER = 2.5
COARSE = 3.0  # how much larger defects are on rough ground, per unit of that deviation


def _grid(size: int, at: Place) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[0:size, 0:size].astype(float)
    return rows - at[0], columns - at[1]


def _metaballs(rng: Rng, size: int, at: Place, radius: float) -> np.ndarray:
    """Three to six balls that flow together: cover (S, S)."""
    y, x = _grid(size, at)
    field = np.zeros((size, size))
    for _ in range(rng.integers(3, 7)):
        dy, dx = rng.normal(0, 0.7 * radius, 2)
        field += (radius * rng.uniform(0.3, 0.7)) ** 2 / ((y - dy) ** 2 + (x - dx) ** 2 + 1)
    return np.clip((field - 0.8) / 0.4, 0, 1)


def _cell(rng: Rng, size: int, at: Place, radius: float, sides: int) -> np.ndarray:
    """A convex cell between half-planes: cover (S, S)."""
    y, x = _grid(size, at)
    turn = rng.uniform(0, 2 * np.pi)
    inside = np.full((size, size), np.inf)
    for k in range(sides):
        angle = turn + 2 * np.pi * (k + rng.uniform(-0.25, 0.25)) / sides
        inside = np.minimum(inside, radius * rng.uniform(0.6, 1.1) - y * np.sin(angle) - x * np.cos(angle))
    return np.clip(inside + 0.5, 0, 1)


def _strand(rng: Rng, size: int, at: Place, reach: float, width: float) -> np.ndarray:
    """A cubic Bezier curve, thinner at its ends: cover (S, S)."""
    corners = rng.normal(0, reach, (4, 2))
    t = np.linspace(0, 1, 96)[:, None]
    path = (1 - t) ** 3 * corners[0] + 3 * t * (1 - t) ** 2 * corners[1] + 3 * t**2 * (1 - t) * corners[2] + t**3 * corners[3]
    path = path - path[48] + np.array(at)
    cover = np.zeros((size, size))
    for (py, px), w in zip(path, width * (0.5 + 2 * t[:, 0] * (1 - t[:, 0]))):
        r0, c0, k = int(py), int(px), int(w) + 2
        rows, columns = slice(max(r0 - k, 0), max(r0 + k + 1, 0)), slice(max(c0 - k, 0), max(c0 + k + 1, 0))
        part = cover[rows, columns]
        if part.size:
            y, x = np.mgrid[rows.start : rows.start + part.shape[0], columns.start : columns.start + part.shape[1]]
            np.maximum(part, np.clip(w - np.hypot(y - py, x - px) + 0.5, 0, 1), out=part)
    return cover


def _colour(rng: Rng, picture: np.ndarray) -> np.ndarray:
    """A colour that the picture does not have much of: gray where the picture is gray."""
    tone = rng.uniform(0.05, 0.95)
    tint = rng.uniform(-0.25, 0.25, 3) if np.ptp(picture, axis=2).mean() > 0.02 else np.zeros(3)
    return np.clip(tone + tint, 0, 1)


def _over(picture: np.ndarray, content: np.ndarray, cover: np.ndarray) -> np.ndarray:
    return picture + (content - picture) * cover[:, :, None]


def hair(rng: Rng, picture: np.ndarray, other: np.ndarray, at: Place, s: float) -> Damage:
    """A thin fibre that lies on the product."""
    cover = _strand(rng, len(picture), at, 26 * s, rng.uniform(1.0, 1.9) * max(s, 0.5))
    return _over(picture, _colour(rng, picture) * np.ones_like(picture), cover * rng.uniform(0.4, 0.8)), cover


def drip(rng: Rng, picture: np.ndarray, other: np.ndarray, at: Place, s: float) -> Damage:
    """Something liquid that dried: darker or lighter by a factor, most along its rim."""
    cover = _metaballs(rng, len(picture), at, rng.uniform(16, 30) * s)
    rim = cover * (1 - ndimage.gaussian_filter(cover, 3 * s))
    strength = rng.choice([-1, 1]) * rng.uniform(0.12, 0.25)
    return np.clip(picture * (1 + strength * (0.6 * cover + 1.2 * rim))[:, :, None], 0, 1), cover


def scuff(rng: Rng, picture: np.ndarray, other: np.ndarray, at: Place, s: float) -> Damage:
    """A rubbed place: streaks in one direction within a soft outline."""
    size = len(picture)
    y, x = _grid(size, at)
    angle = rng.uniform(0, np.pi)
    along, across = y * np.sin(angle) + x * np.cos(angle), y * np.cos(angle) - x * np.sin(angle)
    cover = np.clip(1.4 - np.hypot(along / (34 * s), across / (16 * s)), 0, 1)
    lanes = ndimage.gaussian_filter1d(rng.normal(size=4 * size), 1.2)
    streaks = lanes[np.clip(across + 2 * size, 0, 4 * size - 1).astype(int)]
    change = streaks / (lanes.std() + 1e-9) * rng.uniform(0.04, 0.08) * cover
    return np.clip(picture + change[:, :, None], 0, 1), (cover > 0.3).astype(float)


def flake(rng: Rng, picture: np.ndarray, other: np.ndarray, at: Place, s: float) -> Damage:
    """A chip broken off or stuck on: one shaded facet, bright on one side and dark on the other."""
    cover = _cell(rng, len(picture), at, rng.uniform(8, 17) * s, int(rng.integers(4, 8)))
    y, x = _grid(len(picture), at)
    angle = rng.uniform(0, 2 * np.pi)
    shade = 0.25 * np.clip((y * np.sin(angle) + x * np.cos(angle)) / (14 * s), -1, 1)
    around = (picture * cover[:, :, None]).sum((0, 1)) / max(cover.sum(), 1)
    face = np.clip(around + rng.choice([-1, 1]) * rng.uniform(0.08, 0.2) + shade[:, :, None], 0, 1)
    return _over(picture, face, cover), cover


def fault(rng: Rng, picture: np.ndarray, other: np.ndarray, at: Place, s: float) -> Damage:
    """The product slipped along a line: one side of it shifted, within a lens."""
    y, x = _grid(len(picture), at)
    angle = rng.uniform(0, 2 * np.pi)
    along, across = y * np.sin(angle) + x * np.cos(angle), y * np.cos(angle) - x * np.sin(angle)
    lens = np.clip(1 - (along / (36 * s)) ** 2, 0, 1) * (across > 0) * np.clip(1.5 - across / (22 * s), 0, 1)
    shift = rng.choice([-1, 1]) * rng.uniform(5, 10) * s * np.minimum(lens * 1.5, 1)
    rows, columns = np.mgrid[0 : len(picture), 0 : len(picture)]
    where = np.stack([rows + shift * np.sin(angle), columns + shift * np.cos(angle)])
    moved = [ndimage.map_coordinates(picture[:, :, c], where, order=1, mode="mirror") for c in range(3)]
    return np.stack(moved, 2), (np.abs(shift) > 1.0 * s).astype(float)


def mark(rng: Rng, picture: np.ndarray, other: np.ndarray, at: Place, s: float) -> Damage:
    """A printed or pressed pattern where none belongs: a fine grating, half transparent."""
    y, x = _grid(len(picture), at)
    angle, period = rng.uniform(0, np.pi), rng.uniform(5, 9) * s
    wave = 0.5 + 0.5 * np.sin(2 * np.pi * (y * np.sin(angle) + x * np.cos(angle)) / period)
    cover = _cell(rng, len(picture), at, rng.uniform(13, 22) * s, 4)
    return _over(picture, _colour(rng, picture) * np.ones_like(picture), cover * wave * rng.uniform(0.25, 0.5)), cover


def graft(rng: Rng, picture: np.ndarray, other: np.ndarray, at: Place, s: float) -> Damage:
    """A place that looks like another one: another held-out picture shows through, at another scale and of equal brightness."""
    size = len(picture)
    cover = _metaballs(rng, size, at, rng.uniform(18, 28) * s)
    factor = rng.choice([0.6, 1.7])
    rows, columns = np.mgrid[0:size, 0:size] * factor + rng.uniform(0, size, (2, 1, 1))
    there = np.stack([ndimage.map_coordinates(other[:, :, c], [rows, columns], order=1, mode="mirror") for c in range(3)], 2)
    weight = cover[:, :, None] / max(cover.sum(), 1)
    there = np.clip(there + ((picture - there) * weight).sum((0, 1)), 0, 1)
    return _over(picture, there, cover * rng.uniform(0.7, 1.0)), cover


def grit(rng: Rng, picture: np.ndarray, other: np.ndarray, at: Place, s: float) -> Damage:
    """A handful of grains, each a small cell with its own tone."""
    size = len(picture)
    total, damaged = np.zeros((size, size)), picture
    for _ in range(rng.integers(4, 10)):
        place = (at[0] + rng.normal(0, 11 * s), at[1] + rng.normal(0, 11 * s))
        cover = _cell(rng, size, place, rng.uniform(2.0, 4.5) * max(s, 0.5), 5)
        damaged = _over(damaged, _colour(rng, picture) * np.ones_like(picture), cover * rng.uniform(0.4, 0.9))
        total = np.maximum(total, cover)
    return damaged, total


DEFECTS: dict[str, Callable[[Rng, np.ndarray, np.ndarray, Place, float], Damage]] = {
    f.__name__: f for f in (drip, fault, flake, graft, grit, hair, mark, scuff)
}


def damage(
    kind: str, rng: Rng, picture: np.ndarray, other: np.ndarray, foreground: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """One defect on one picture.

    Args:
        picture, other: uint8 (S, S, 3), two held-out good pictures.
        foreground: bool (S, S), where the product is; None is everywhere.

    Returns:
        the damaged picture uint8 (S, S, 3) and its mask bool (S, S), never empty; outside the mask the picture is the given one.
    """
    size = len(picture)
    clean = picture / 255
    at = _place(rng, size, foreground)
    rough = _roughness(clean, at)
    damaged, cover = DEFECTS[kind](rng, clean, other / 255, at, size / 256 * (1 + COARSE * rough))
    mask = cover > TOUCHED
    if foreground is not None and (mask & foreground).any():
        mask &= foreground
    if not mask.any():
        mask[int(np.clip(at[0], 0, size - 1)), int(np.clip(at[1], 0, size - 1))] = True
    change = np.abs(damaged - clean)[mask].mean()
    if change < 1 / 255:  # what was put there looks like what it covers
        damaged, change = clean * (1 - 0.3 * cover[:, :, None]), 0.3 * clean[mask].mean()
    damaged = clean + (damaged - clean) * np.clip((LEAST + MASKED * rough) / max(change, 1e-6), 1, STRONGER)
    damaged = np.where(mask[:, :, None], damaged, clean)
    return (np.clip(damaged, 0, 1) * 255 + 0.5).astype(np.uint8), mask


def _roughness(picture: np.ndarray, at: Place) -> float:
    """Standard deviation of the gray values around a place."""
    (row, column), k = (int(at[0]), int(at[1])), len(picture) // 8
    return float(picture[max(row - k, 0) : row + k + 1, max(column - k, 0) : column + k + 1].mean(2).std())


def _place(rng: Rng, size: int, foreground: np.ndarray | None) -> Place:
    margin = size // 8
    allowed = np.zeros((size, size), bool)
    allowed[margin : size - margin, margin : size - margin] = True
    if foreground is not None and (allowed & foreground).any():
        allowed &= foreground
    places = np.argwhere(allowed)
    row, column = places[rng.integers(len(places))]
    return float(row), float(column)


def harmless(rng: Rng, picture: np.ndarray) -> np.ndarray:
    """The same good picture, uint8 (S, S, 3), as the camera might take it next time: light from another side, other noise."""
    size = len(picture)
    y, x = _grid(size, (size / 2, size / 2))
    angle = rng.uniform(0, 2 * np.pi)
    slope = rng.uniform(0, 0.04) * (y * np.sin(angle) + x * np.cos(angle)) / size
    light = (rng.uniform(0.97, 1.03) + slope)[:, :, None]
    noise = rng.normal(0, rng.uniform(0.3, 1.2), (size, size, 1))
    return np.clip(picture * light + noise + 0.5, 0, 255).astype(np.uint8)
