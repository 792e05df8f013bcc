"""The metrics straight from their definitions in exact rational arithmetic, every curve built. For tiny cases."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np


def flood_regions(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """8-connected regions by flood fill, each a list of (row, column)."""
    todo = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    regions = []
    while todo:
        stack = [min(todo)]
        todo.discard(stack[0])
        region = []
        while stack:
            y, x = stack.pop()
            region.append((y, x))
            for near in [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]:
                if near in todo:
                    todo.discard(near)
                    stack.append(near)
        regions.append(sorted(region))
    return regions


def exact_metrics(maps: list[np.ndarray], masks: list[np.ndarray], limit: float = 0.3) -> dict[str, float]:
    """pixel_auroc, pixel_ap, pixel_f1max, pixel_f1max_threshold, aupro; NaN as evaluate() gives it."""
    weight: dict[float, Fraction] = {}
    anomalous: dict[float, int] = {}
    normal: dict[float, int] = {}
    regions = 0
    for scores, mask in zip(maps, masks):
        for region in flood_regions(mask):
            regions += 1
            for y, x in region:
                v = float(scores[y, x])
                weight[v] = weight.get(v, Fraction(0)) + Fraction(1, len(region))
                anomalous[v] = anomalous.get(v, 0) + 1
        for v in scores[mask == 0].tolist():
            normal[v] = normal.get(v, 0) + 1
    p, n = sum(anomalous.values()), sum(normal.values())
    names = ("pixel_auroc", "pixel_ap", "pixel_f1max", "pixel_f1max_threshold", "aupro")
    if not p or not n:
        return dict.fromkeys(names, math.nan)
    fpr, tpr, overlap = [Fraction(0)], [Fraction(0)], [Fraction(0)]
    precision_sum, best = Fraction(0), (Fraction(-1), math.nan)
    tp = fp = 0
    area = Fraction(0)
    for v in sorted(set(anomalous) | set(normal), reverse=True):
        here = anomalous.get(v, 0)
        tp, fp, area = tp + here, fp + normal.get(v, 0), area + weight.get(v, Fraction(0))
        precision_sum += here * Fraction(tp, tp + fp)
        f1 = Fraction(2 * tp, tp + fp + p)
        if here and f1 >= best[0]:  # from the highest down: the last of equals is the lowest
            best = (f1, v)
        fpr.append(Fraction(fp, n))
        tpr.append(Fraction(tp, p))
        overlap.append(area / regions)
    values = (
        trapezoid(fpr, tpr, Fraction(1)),
        precision_sum / p,
        best[0],
        best[1],
        trapezoid(fpr, overlap, Fraction(limit)) / Fraction(limit),
    )
    return dict(zip(names, (float(v) for v in values)))


def trapezoid(x: list[Fraction], y: list[Fraction], limit: Fraction) -> Fraction:
    """Area under the points up to x = limit, the crossing segment interpolated linearly."""
    total = Fraction(0)
    for x0, x1, y0, y1 in zip(x, x[1:], y, y[1:]):
        if x1 <= limit:
            total += (x1 - x0) * (y0 + y1) / 2
        elif x0 < limit:
            cut = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
            total += (limit - x0) * (y0 + cut) / 2
    return total


def pimo_of_image(scores: np.ndarray, mask: np.ndarray, normal: np.ndarray, low: float, high: float) -> float:
    """AUPIMO of one image by walking along the false-positive rate: recall of the lowest threshold each rate allows."""
    rate = np.array([(normal >= v).mean() for v in scores[mask != 0]])
    corners = [low, *sorted({float(r) for r in rate if low < r < high}), high]
    parts = [math.log(b / a) * float((rate <= a).mean()) for a, b in pairwise(corners)]
    return math.fsum(parts) / math.log(high / low)


def random_case(rng: np.random.Generator, images: int | None = None) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Small maps and masks of different sizes: ties, extremes, empty and full masks, float32 or float64."""
    dtype = rng.choice([np.float32, np.float64])
    levels = int(rng.integers(1, 40))
    maps, masks = [], []
    for _ in range(images or int(rng.integers(1, 6))):
        size = tuple(rng.integers(1, 9, 2))
        mask = rng.random(size) < rng.choice([0.0, 0.15, 0.4, 1.0], p=[0.3, 0.4, 0.2, 0.1])
        score = rng.integers(-levels, levels + 1, size) / 7 + mask * rng.choice([0.0, 1.0, 3.0])
        if rng.random() < 0.2:
            score[rng.random(size) < 0.1] = rng.choice([np.inf, -np.inf, 0.0, -0.0])
        maps.append(score.astype(dtype))
        masks.append(mask.astype(rng.choice([bool, np.uint8])))
    return maps, masks
