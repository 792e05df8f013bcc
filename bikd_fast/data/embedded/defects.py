"""Test defects: each makes (damaged picture, mask) of a scene; the picture changes by design inside the mask only.

None of this is used in training: shapes are harmonics, polygons and polylines, where training's simulation uses
Perlin noise, cut-outs and curves. Strengths are in parts of the full range (1/255 is one gray level), lengths in pixels
of a 256-pixel picture."""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from bikd_fast.data.embedded.raster import SIZE, Rng, nearest_on_path, outline, sample, step, turned
from bikd_fast.data.embedded.scene import Scene

Damage = tuple[np.ndarray, np.ndarray]


def faint_scratch(rng: Rng, scene: Scene) -> Damage:
    """One to three thin, nearly straight grooves, dark with a bright lip, somewhat stronger on rough ground."""
    length, heading = rng.uniform(90, 140), rng.uniform(0, np.pi)
    centre = np.array(place(rng, scene, 34))
    strength = rng.uniform(0.07, 0.10) + 0.9 * roughness(scene, centre, 30)
    ahead, aside = np.array([np.sin(heading), np.cos(heading)]), np.array([np.cos(heading), -np.sin(heading)])
    change, mask = np.zeros((SIZE, SIZE)), np.zeros((SIZE, SIZE), bool)
    for k in range(rng.integers(1, 4)):
        along = np.linspace(-0.5, 0.5, 6) * length * rng.uniform(0.7, 1)
        bend = rng.normal(size=6) * 0.9 + k * rng.uniform(6, 9)
        off, t = nearest_on_path(centre + np.outer(along, ahead) + np.outer(bend, aside))
        width = rng.uniform(0.9, 1.4)
        taper = np.sqrt(np.clip(4 * t * (1 - t), 0, 1))
        groove = np.exp(-((off / width) ** 2)) - 0.5 * np.exp(-(((off - 2 * width) / width) ** 2))
        change -= groove * taper * strength
        mask |= (off > -1.5 * width) & (off < 3.5 * width) & (taper > 0.1)
    mask &= scene.product > 0.5
    return np.clip(scene.picture + change[:, :, None], 0, 1), mask


def low_contrast_stain(rng: Rng, scene: Scene) -> Damage:
    """A dried drop: slightly darker and tinted, darkest along its rim; the ground shows through."""
    radius = rng.uniform(17, 27) * _coarse(scene)
    inside = outline(rng, place(rng, scene, 20), radius, 0.35, rng.uniform(1, 1.4))
    depth = rng.uniform(0.08, 0.12) + 3.25 * _texture(scene)
    cover = step(inside, 1.5) * (0.75 + 0.45 * np.exp(-((inside - 3) ** 2) / 8))
    tint = np.array([0.85, 1.0, 1.2]) if scene.picture.shape[2] == 3 else np.ones(1)
    damaged = scene.picture * (1 - depth * cover[:, :, None] * tint)
    return np.clip(damaged, 0, 1), (inside > -1) & (scene.product > 0.5)


def local_warp(rng: Rng, scene: Scene) -> Damage:
    """The picture twisted or bulged about a point on structure; every colour in it is still there."""
    radius = rng.uniform(30, 40)
    centre = place(rng, scene, radius * 0.7, structured=True)
    v, u = turned(centre, 0.0)
    rho = np.hypot(v, u)
    fade = np.clip(1 - (rho / radius) ** 2, 0, 1) ** 2
    if rng.random() < 0.5:  # twist
        by = rng.choice([-1, 1]) * rng.uniform(1.0, 1.5) * fade
        dv, du = v * (np.cos(by) - 1) + u * np.sin(by), u * (np.cos(by) - 1) - v * np.sin(by)
    else:  # bulge
        by = rng.uniform(0.6, 0.7) * fade
        dv, du = -v * by, -u * by
    rows, columns = v + centre[0], u + centre[1]
    return sample(scene.picture, rows + dv, columns + du), ndimage.binary_fill_holes(np.hypot(dv, du) > 0.7)


def turned_patch(rng: Rng, scene: Scene) -> Damage:
    """A square of the surface itself, turned by 90 degrees and put back, cut and laid with a fine seam."""
    if scene.patch is not None:
        centre, side = scene.patch
    else:
        surface = bool(scene.product.all())
        side = rng.uniform(60, 76) * _coarse(scene) if surface else rng.uniform(42, 52)
        centre = place(rng, scene, side * 0.4, structured=surface)
    v, u = turned(centre, scene.angle)
    inside = side / 2 - np.maximum(abs(v), abs(u))
    seam = 1 - (0.25 + 1.5 * _texture(scene)) * step(1.2 - inside, 0.8)[:, :, None] if scene.patch is None else 1.0
    s, c = np.sin(scene.angle), np.cos(scene.angle)
    v, u = (u, -v) if rng.random() < 0.5 else (-u, v)
    patch = sample(scene.picture, centre[0] + v * c + u * s, centre[1] - v * s + u * c) * seam
    cover = step(inside, 0.7)[:, :, None]
    return scene.picture * (1 - cover) + patch * cover, inside > -0.7


def missing_part(rng: Rng, scene: Scene) -> Damage:
    """A piece broken away along a jagged edge; what lies under shows, in the shadow of the edge."""
    inside = polygon(rng, place(rng, scene, 14, edge=True), rng.uniform(17, 25))
    return _opened(scene, inside, depth=0.1 if scene.product.all() else 0.0, reach=4)


def small_hole(rng: Rng, scene: Scene) -> Damage:
    """A drilled hole five to seven pixels in radius (more in coarse ground): deep shadow, its lower edge bright."""
    centre = place(rng, scene, 12)
    radius = rng.uniform(5, 7) * _coarse(scene)
    inside = outline(rng, centre, radius, 0.12)
    damaged, mask = _opened(scene, inside, depth=0.7, reach=4)
    v, _ = turned(centre, 0.0)
    lip = np.exp(-((inside + 1) ** 2)) * step(v, radius / 2) * 0.16
    return np.clip(damaged + lip[:, :, None], 0, 1), (mask | (lip > 0.02)) & (scene.product > 0.5)


def crack(rng: Rng, scene: Scene) -> Damage:
    """A dark, forked line that wanders and thins out."""
    start, coarse = np.array(place(rng, scene, 26)), _coarse(scene)
    change, mask = np.zeros((SIZE, SIZE)), np.zeros((SIZE, SIZE), bool)
    heading = rng.uniform(0, 2 * np.pi)
    back, fork = heading + np.pi + rng.uniform(-0.5, 0.5), heading + rng.uniform(0.6, 1.0)
    for arm, far in ((heading, 45), (back, 40), (fork, 28)):
        points = [start]
        for _ in range(8):
            direction, length = arm + rng.normal() * 0.55, far / 8 * coarse * rng.uniform(0.7, 1.3)
            points.append(points[-1] + length * np.array([np.sin(direction), np.cos(direction)]))
        off, t = nearest_on_path(np.array(points))
        line = np.exp(-((off / (1.7 - 0.9 * t) / coarse**1.5) ** 2))
        change = np.maximum(change, line)
        mask |= line > 0.12
    mask &= scene.product > 0.5
    return scene.picture * (1 - 0.6 * change[:, :, None]), mask


def foreign_object(rng: Rng, scene: Scene) -> Damage:
    """A glossy plastic ring that fell on the product, with its shadow."""
    centre, radius, width = place(rng, scene, 22), rng.uniform(10, 15), rng.uniform(3, 4)
    v, u = turned(centre, rng.uniform(0, np.pi))
    height = width - abs(np.hypot(v, u * rng.uniform(1, 1.25)) - radius)
    shadow = np.roll(step(height, 2.0), (3, 3), axis=(0, 1))
    colour = np.array([0.25, 0.3, 0.72]) if scene.picture.shape[2] == 3 else np.array([0.8])
    round_ = np.clip(height / width, 0, 1)
    lit = colour * (0.45 + 0.6 * round_[:, :, None]) + 0.5 * np.clip(round_ - 0.75, 0, 1)[:, :, None]
    cover = step(height, 0.8)[:, :, None]
    damaged = scene.picture * (1 - 0.45 * shadow[:, :, None]) * (1 - cover) + lit * cover
    return np.clip(damaged, 0, 1), (shadow > 0.08) | (height > -0.8)


# ---- shared ----


def place(rng: Rng, scene: Scene, reach: float, *, structured: bool = False, edge: bool = False) -> tuple[float, float]:
    """Where a defect may lie: (row, column), reach pixels or more inside the product and the picture.

    structured: the roughest of six places, for defects that show on structure only.
    edge: on the product's outline, if it has one."""
    inner = np.zeros((SIZE, SIZE), bool)
    margin = int(reach) + 8
    inner[margin:-margin, margin:-margin] = True
    solid = scene.product > 0.5
    if solid.all():
        allowed = inner
    else:
        depth = ndimage.distance_transform_edt(solid)
        if edge:
            allowed = solid & (depth <= 3)
        else:
            allowed = inner & (depth >= min(reach, 0.8 * depth.max()))
    places = np.argwhere(allowed)
    drawn = places[rng.integers(len(places), size=6 if structured else 1)]
    best = max(drawn, key=lambda p: roughness(scene, p, reach)) if structured else drawn[0]
    return float(best[0]), float(best[1])


def roughness(scene: Scene, centre: np.ndarray, reach: float) -> float:
    """Standard deviation of the gray values in the square about a place (row, column)."""
    gray = scene.picture.mean(axis=2)
    (r, c), k = np.round(centre).astype(int), int(reach)
    return float(gray[max(r - k, 0) : r + k + 1, max(c - k, 0) : c + k + 1].std())


def _texture(scene: Scene) -> float:
    """Median absolute deviation of the product's gray values: large for gravel, small for bricks and their joints."""
    gray = scene.picture.mean(axis=2)[scene.product > 0.5]
    return float(np.median(abs(gray - np.median(gray))))


def _coarse(scene: Scene) -> float:
    """How much larger a defect must be to be seen: 1 on smooth ground, 1.3 on gravel (contrast masks contrast)."""
    return 1 + 3 * _texture(scene)


def polygon(rng: Rng, centre: tuple[float, float], radius: float) -> np.ndarray:
    """Signed distance in pixels, positive inside, to an irregular polygon of 8 to 11 corners."""
    corners = int(rng.integers(8, 12))
    theta = (np.arange(corners) + rng.uniform(-0.3, 0.3, corners)) * 2 * np.pi / corners
    rho = radius * rng.uniform(0.75, 1.2, corners)
    ring = np.stack([centre[0] + rho * np.sin(theta), centre[1] + rho * np.cos(theta)], axis=1)
    off, _ = nearest_on_path(np.concatenate([ring, ring[:1]]))
    v, u = turned(centre, 0.0)
    at = np.mod(np.arctan2(v, u) - theta[0], 2 * np.pi)
    bounds = np.append(theta - theta[0], 2 * np.pi)
    k = np.clip(np.searchsorted(bounds, at, side="right") - 1, 0, corners - 1)
    a, b = ring[k], ring[(k + 1) % corners]
    y, x = v + centre[0] - a[..., 0], u + centre[1] - a[..., 1]
    cross = (b[..., 1] - a[..., 1]) * y - (b[..., 0] - a[..., 0]) * x
    return np.where(cross > 0, 1, -1) * abs(off)


def _opened(scene: Scene, inside: np.ndarray, depth: float, reach: int) -> Damage:
    """The product cut away where inside > 0. What lies under is darker by depth, and in the shadow of what is left.

    reach: how far that shadow falls to the lower right, pixels."""
    cover = step(inside, 0.8)
    left = scene.product * (1 - cover)
    shadow = np.roll(ndimage.uniform_filter(left, 2 * reach + 1), (reach, reach), axis=(0, 1))
    under = scene.under * (1 - np.maximum(depth * scene.product, 0.6 * shadow))[:, :, None]
    damaged = scene.picture * (1 - cover[:, :, None]) + under * cover[:, :, None]
    beside = abs(damaged - scene.picture).max(axis=2) > 1 / 255  # the product's own shadow on the ground has changed
    return damaged, (inside > -0.8) & ((scene.product > 0.02) | beside)


DEFECTS: dict[str, Callable[[Rng, Scene], Damage]] = {
    "crack": crack,
    "faint_scratch": faint_scratch,
    "foreign_object": foreign_object,
    "local_warp": local_warp,
    "low_contrast_stain": low_contrast_stain,
    "missing_part": missing_part,
    "small_hole": small_hole,
    "turned_patch": turned_patch,
}
