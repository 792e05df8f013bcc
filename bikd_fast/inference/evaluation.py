"""A detector against labelled pictures: metrics, predictions.npz, heat maps. Reads the test set and chooses nothing by it."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from bikd_fast.config import DataConfig
from bikd_fast.data import Category, Sample, decode_image, has_masks, load_images, load_masks
from bikd_fast.data.cache import scratch
from bikd_fast.data.cache_folder import cache_folder
from bikd_fast.data.room import allowed, local_size
from bikd_fast.data.threads import default_threads
from bikd_fast.files import whole
from bikd_fast.inference.diagnostics import Gauge
from bikd_fast.inference.heatmaps import heatmap_names, remove_others
from bikd_fast.inference.runner import Outputs, run
from bikd_fast.inference.shares import ALONE, Share
from bikd_fast.metrics import evaluate
from bikd_fast.metrics.ranks import gather_strings
from bikd_fast.models.detector import Detector
from bikd_fast.report.overlay import draw_overlay, heat_range_of, thinned

PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "pixel_f1max", "pixel_f1max_threshold", "aupro")
BYTES = 7  # a pixel of a test picture: its three channels, and the map
DISPLAY_SIDE = 128  # of the maps kept for looking at, in pixels


def evaluate_category(
    detector: Detector, category: Category, data: DataConfig, folder: Path, share: Share = ALONE, aupimo: bool = False
) -> dict[str, Any]:
    """Metrics of one category; writes ``predictions.npz`` and ``heatmaps/`` into ``folder``.

    Every rank of ``share`` looks at its own pictures and draws them; all get the result of one process with all pictures, to
    the bit, and the first one writes. Returns the dict of :func:`bikd_fast.metrics.evaluate` with ``threshold`` (how it was
    chosen), ``skipped`` (bad pictures) and, where there are masks, ``diagnostics`` of the test pictures
    (:meth:`bikd_fast.inference.diagnostics.Gauge.result`).

    Pictures and maps that would take more memory than ``data`` allows lie in files in its cache folder meanwhile.

    Raises:
        DataError: an unreadable test picture or mask, unless data.on_bad_image is ``skip``; no room in the cache folder.
    """
    mine = share.of(len(category.test))
    given = [category.test[i] for i in mine]
    pictures, samples, skipped, maps = test_pictures(given, detector.image_size, data)
    bad = dict(skipped)
    kept = np.array([i for i, sample in zip(mine, given) if sample.path not in bad], np.int64)
    everything = share.collect(kept, kept)
    places = np.searchsorted(everything, kept)
    measured = has_masks([category.test[i] for i in everything])
    masks = load_masks(samples) if measured else [np.zeros((1, 1), bool)] * len(samples)
    gauge = Gauge(detector, masks)
    outputs = run(detector, pictures, look=gauge if measured else None, maps=maps)
    result = evaluate(
        list(outputs.maps.numpy()) if measured else [np.zeros((1, 1), np.float32)] * len(samples),
        masks,
        scores=outputs.scores.numpy(),
        labels=[s.label for s in samples],
        kinds=[s.kind for s in samples],
        curves=200,
        aupimo=aupimo and measured,
        indices=places.tolist(),
        threads=torch.get_num_threads(),
        group=share.group,
    )
    if not measured:
        result.update(dict.fromkeys(PIXEL_METRICS, math.nan))
    result["threshold"] = detector.about.get("threshold", {})
    result["diagnostics"] = gauge.result(share, places) if measured else {}
    rows = [json.dumps([i, str(s.path), bad[s.path]]) for i, s in zip(mine, given) if s.path in bad]
    left_out = sorted(json.loads(row) for part in gather_strings(rows, share.group) for row in part)
    result["skipped"] = [{"path": path, "reason": reason} for _, path, reason in left_out]
    if share.first:
        for _, path, reason in left_out:
            print(f"{category.name}: not measured, skipped {path}: {reason}", file=sys.stderr)
    _write_predictions(folder / "predictions.npz", [category.test[i] for i in everything], places, outputs, detector, share)
    draw_heatmaps(folder / "heatmaps", [category.test[i] for i in everything], places, outputs, detector, share)
    return result


def test_pictures(
    samples: Sequence[Sample], side: int, data: DataConfig
) -> tuple[torch.Tensor, list[Sample], list[tuple[Path, str]], torch.Tensor | None]:
    """Pictures, samples and skipped ones of :func:`load_images`, and where :func:`run` is to write their maps.

    Pictures and maps lie in files of ``data``'s cache folder where all ranks of this machine together would need more memory than
    it allows; the maps are None where new memory will do.
    """
    folder = cache_folder(data.cache_dir)
    held = len(samples) * BYTES * side * side * local_size() <= allowed(data.cache_gb)
    pictures, kept, skipped = load_images(
        samples, side, data.on_bad_image, memory_limit=None if held else 0, cache_dir=folder
    )
    maps = None if held or not kept else torch.from_numpy(scratch(folder, (len(kept), side, side)))
    return pictures, kept, skipped, maps


def _shown(maps: torch.Tensor) -> np.ndarray:
    """(N, S, S) -> (N, s, s) float16 of about :data:`DISPLAY_SIDE` pixels, a block at a time: maps may lie in a file."""
    step = max(1, maps.shape[-1] // DISPLAY_SIDE)
    blocks = [F.avg_pool2d(some.unsqueeze(1), step).squeeze(1).numpy().astype(np.float16) for some in maps.split(64)]
    return np.concatenate(blocks)


def _write_predictions(
    path: Path, samples: Sequence[Sample], places: np.ndarray, outputs: Outputs, detector: Detector, share: Share
) -> None:
    """``samples``: of all ranks; ``places``: which of them ``outputs`` belongs to."""
    scores, shown = share.collect(outputs.scores.numpy(), places), share.collect(_shown(outputs.maps), places)
    if not share.first:
        return
    with whole(path) as temporary:
        np.savez_compressed(
            temporary,
            path=np.array([str(s.path) for s in samples]),
            mask_path=np.array([str(s.mask_path or "") for s in samples]),
            kind=np.array([s.kind for s in samples]),
            label=np.array([s.label for s in samples], np.uint8),
            score=scores,
            map=shown,
            threshold=np.float32(detector.threshold.item()),
            pixel_threshold=np.float32(detector.pixel_threshold.item()),
        )


def draw_heatmaps(
    folder: Path, samples: Sequence[Sample], places: np.ndarray, outputs: Outputs, detector: Detector, share: Share = ALONE
) -> None:
    """One JPEG a picture (:func:`heatmap_names`): the picture under its map, one colour scale for all, outline at the threshold.

    ``samples``: of all ranks; ``places``: which of them ``outputs`` belongs to. Heat maps of an earlier evaluation go.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = heatmap_names(samples)
    if share.first:
        remove_others(folder, names)
    maps = outputs.maps.numpy()
    threshold = detector.pixel_threshold.item()
    labels = np.array([s.label for s in samples])
    pixels, peaks = share.collect(thinned(maps), places), share.collect(maps.max(axis=(1, 2)), places)
    low, high = heat_range_of(pixels[labels == 0] if (labels == 0).any() else pixels, peaks, threshold)

    def draw(place: int, anomaly: np.ndarray) -> None:
        drawn = draw_overlay(decode_image(samples[place].path), anomaly, threshold=threshold, low=low, high=high)
        Image.fromarray(drawn).save(folder / names[place], quality=90)

    with ThreadPoolExecutor(default_threads()) as pool:
        list(pool.map(draw, places.tolist(), maps))
