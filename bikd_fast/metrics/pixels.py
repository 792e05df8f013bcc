"""Pixel ladder of a set of maps, and what it says about every region and every image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bikd_fast.metrics import closed_form, device, ranks
from bikd_fast.metrics.inputs import Plane, common_dtype, fit, nan_error
from bikd_fast.metrics.ladder import Ladder, build, count_pixels, rungs
from bikd_fast.metrics.regions import Regions


@dataclass(frozen=True)
class Pixels:
    """The ladder of the whole set (all ranks), and this rank's share of what each region and image contributes.

    Attributes:
        ladder: over the pixels of all images of all ranks.
        overlap: float64 (R,), area under each region's overlap curve up to the limit, in [0, 1]; their mean is AUPRO.
        peak: float64 (R,), highest score inside each region.
        wins: int64 (N,), over each image's anomalous pixels, the sum of 2 x (normal pixels of the set below) + (at).
        pimo: float64 (N,), AUPIMO of each image (NaN without anomalous pixels), or None when not asked for.
        rung, region: int64 (P,), the rung and the region of each anomalous pixel of this rank, by ascending score.
    """

    ladder: Ladder
    overlap: np.ndarray
    peak: np.ndarray
    wins: np.ndarray
    pimo: np.ndarray | None
    rung: np.ndarray
    region: np.ndarray


def measure(
    maps: Sequence[Plane],
    sizes: Sequence[tuple[int, int]],
    regions: Regions,
    *,
    fpr_limit: float,
    normal: np.ndarray | None = None,
    pimo_bounds: tuple[float, float] = (1e-5, 1e-4),
    memory_mb: float = 128.0,
    threads: int | None = None,
    group: Any = None,
) -> Pixels:
    """Count every pixel against the anomalous scores. normal: bool (N,), the images AUPIMO counts; None: no AUPIMO."""
    wide = ranks.total(np.array([common_dtype(maps) == np.float64]), group)[0]
    dtype = np.dtype(np.float64 if wide else np.float32)
    score = ranks.together(lambda: positive_scores(maps, sizes, regions, dtype), group)
    order = np.argsort(score)
    score = score[order] + 0  # -0.0 becomes 0.0, whichever of the two a rank met first
    values, positives = merge_rungs(*rungs(score), group)
    rung = np.searchsorted(values, score)  # of each anomalous pixel, ascending

    counter = device.count_pixels if any(isinstance(m, torch.Tensor) for m in maps) else count_pixels

    def count(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        chosen = images.tolist()
        below, at = ranks.together(
            lambda: counter(maps, sizes, values, images=chosen, memory_mb=memory_mb, threads=threads), group
        )
        return ranks.total(below, group), ranks.total(at, group)

    everyone = np.arange(len(maps))
    area = np.array([h * w for h, w in sizes], np.int64)
    all_pixels = int(ranks.total(area.sum(keepdims=True), group)[0])
    image = np.repeat(everyone, regions.positives)[order]
    if normal is None:
        pimo = None
        below, at = count(everyone)
    else:
        below, at = count(np.flatnonzero(normal))
        normal_pixels = int(ranks.total(area[normal].sum(keepdims=True), group)[0])
        credit = closed_form.pimo_credit(normal_pixels - below, normal_pixels, pimo_bounds)
        pimo = _mean(image, credit[rung], regions.positives)
        rest_below, rest_at = count(np.flatnonzero(~normal))
        below, at = below + rest_below, at + rest_at
    ladder = build(values, positives, below, at, all_pixels)
    region = regions.region[order]
    # Summed by ascending score within each region: the same order, hence the same bits, on any number of ranks.
    credit = closed_form.pro_credit(ladder, fpr_limit) if ladder.negatives else np.full(values.size, np.nan)
    peak = np.full(regions.area.size, -np.inf)
    peak[region] = score  # ascending: the last one written is the highest
    wins = np.zeros(len(maps), np.int64)
    np.add.at(wins, image, (2 * ladder.below + ladder.at)[rung])
    return Pixels(ladder, _mean(region, credit[rung], regions.area), peak, wins, pimo, rung, region)


def _mean(bins: np.ndarray, weights: np.ndarray, counts: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.bincount(bins, weights, counts.size) / counts


def positive_scores(
    maps: Sequence[Plane], sizes: Sequence[tuple[int, int]], regions: Regions, dtype: np.dtype
) -> np.ndarray:
    """Scores (P,) of the anomalous pixels, in the order of regions.offset. NaN among them is an error."""
    out = np.empty(regions.offset.size, dtype)
    stop = np.cumsum(regions.positives)
    for i in np.flatnonzero(regions.positives).tolist():
        part = slice(stop[i] - regions.positives[i], stop[i])
        flat = fit(maps[i], sizes[i]).reshape(-1)
        if isinstance(flat, torch.Tensor):
            flat = flat[torch.from_numpy(regions.offset[part]).to(flat.device)]
            out[part] = flat.to(torch.float64 if dtype == np.float64 else torch.float32).cpu().numpy()
        else:
            out[part] = flat[regions.offset[part]]
        if np.isnan(out[part]).any():
            raise nan_error(i)
    return out


def merge_rungs(values: np.ndarray, counts: np.ndarray, group: Any) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values of all ranks, ascending, with their counts added."""
    if group is None:
        return values, counts
    everything = np.concatenate(ranks.gather(values, group))
    amounts = np.concatenate(ranks.gather(counts, group))
    order = np.argsort(everything, kind="stable")
    merged, _ = rungs(everything[order])
    return merged, np.bincount(np.searchsorted(merged, everything), amounts, merged.size).astype(np.int64)


def rung_weights(pixels: Pixels, regions: Regions, group: Any) -> np.ndarray:
    """float64 (V,): sum of 1 / area of the region over the anomalous pixels (of all ranks) at each rung."""
    rung = np.concatenate(ranks.gather(pixels.rung, group))
    area = np.concatenate(ranks.gather(regions.area[pixels.region], group))
    order = np.lexsort((area, rung))  # one order of summation, however the pixels were spread over ranks
    return np.bincount(rung[order], 1.0 / area[order], pixels.ladder.values.size)
