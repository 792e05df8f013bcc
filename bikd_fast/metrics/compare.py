"""Two runs on the same pictures: differences of their metrics with paired bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Metrics = Mapping[str, Any]  # what evaluate() returns, fresh or read back from JSON
NAMES = ("image_auroc", "image_ap", "image_f1max", "pixel_auroc", "aupro")
BLOCK = 250  # resamples worked on at a time


def compare(
    a: Metrics, b: Metrics, *, resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Differences b - a of two evaluations of the same pictures, from their per-image rows alone.

    Pictures are drawn with replacement, normal ones among the normal and anomalous ones among the anomalous, the same
    draw for both runs, so that what makes a picture hard for both cancels. pixel_auroc and aupro are drawn with their
    pictures' anomalous pixels and regions, while the distribution of normal pixels, millions of them, is held as it is. Draws
    in which a metric is undefined, as no defect of theirs is outlined, are drawn again.

    Returns:
        {metric: {"a", "b", "difference", "low", "high", "better"}}: both values, b - a, its percentile interval at the
        confidence, and the share of draws in which b is ahead (ties half). Metrics undefined in a run are left out.

    Raises:
        ValueError: the two did not see the same pictures.
    """
    return {
        name: _row(*draw, confidence) for name, draw in _draws(a, b, resamples, np.random.default_rng(seed), "").items()
    }


def compare_runs(
    a: Metrics, b: Metrics, *, resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> dict[str, Any]:
    """compare() for each category two runs share, and for the mean over these; a, b as in a run's metrics.json.

    Returns:
        {"categories": {name: compare(...)}, "mean": {metric: {...}}, "left_out": [categories only one run has]}. The
        mean is over the shared categories, and of each metric over those where it is defined in both runs.
    """
    shared = [name for name in a["categories"] if name in b["categories"]]
    if not shared:
        raise ValueError(f"the runs share no category: {sorted(a['categories'])} and {sorted(b['categories'])}")
    rng = np.random.default_rng(seed)
    draws = {
        name: _draws(a["categories"][name], b["categories"][name], resamples, rng, f"category {name}: ")
        for name in shared
    }
    mean = {}
    for metric in NAMES:
        rows = [draws[name][metric] for name in shared if metric in draws[name]]
        if rows:
            value_a, value_b = (float(np.mean([row[k] for row in rows])) for k in (0, 1))
            mean[metric] = _row(value_a, value_b, np.mean([row[2] for row in rows], axis=0), confidence)
    return {
        "categories": {
            name: {metric: _row(*draw, confidence) for metric, draw in draws[name].items()} for name in shared
        },
        "mean": mean,
        "left_out": sorted(set(a["categories"]) ^ set(b["categories"])),
    }


def _row(a: float, b: float, differences: np.ndarray, confidence: float) -> dict[str, float]:
    low, high = np.quantile(differences, [(1 - confidence) / 2, (1 + confidence) / 2])
    better = np.mean(differences > 0) + np.mean(differences == 0) / 2
    return {
        "a": float(a),
        "b": float(b),
        "difference": float(b - a),
        "low": float(low),
        "high": float(high),
        "better": float(better),
    }


def _draws(
    a: Metrics, b: Metrics, resamples: int, rng: np.random.Generator, where: str
) -> dict[str, tuple[float, float, np.ndarray]]:
    """For each metric defined in both runs: its value in a, in b, and the differences b - a of all resamples."""
    rows_a, rows_b = _paired(a, b, where)
    label = np.array([row["label"] for row in rows_a], np.int64)
    columns = [_columns(rows) for rows in (rows_a, rows_b)]
    names = [n for n in NAMES if _defined(a.get(n)) and _defined(b.get(n))]
    parts: dict[str, list[np.ndarray]] = {n: [] for n in names}
    for start in range(0, resamples, BLOCK):
        weights = _resample(label, min(BLOCK, resamples - start), rng)
        first, second = (_metrics(label, column, weights) for column in columns)
        for n in names:
            parts[n].append(second[n] - first[n])
    return {n: (float(a[n]), float(b[n]), _redrawn(np.concatenate(parts[n]), rng)) for n in names}


def _redrawn(differences: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A draw without an outlined defect has no pixel metric: another draw, one that has, takes its place."""
    lost = np.isnan(differences)
    if lost.any() and not lost.all():
        differences[lost] = rng.choice(differences[~lost], int(lost.sum()))
    return differences


def _paired(a: Metrics, b: Metrics, where: str) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    rows_a, rows_b = a["images"], b["images"]
    if not rows_a:
        raise ValueError(f"{where}no pictures were evaluated")
    if len(rows_a) != len(rows_b):
        raise ValueError(
            f"{where}the runs were evaluated on {len(rows_a)} and {len(rows_b)} pictures; a paired comparison needs "
            "the same ones"
        )
    for row_a, row_b in zip(rows_a, rows_b):
        for key in ("index", "label", "kind", "anomalous_pixels"):
            if row_a[key] != row_b[key]:
                raise ValueError(
                    f"{where}picture {row_a['index']} has {key} {row_a[key]!r} in one run and {row_b[key]!r} in the "
                    f"other; "
                    "a paired comparison needs the same pictures and masks"
                )
        if row_a["score"] is None or row_b["score"] is None:
            raise ValueError(f"{where}picture {row_a['index']} has no finite score; the runs cannot be compared on it")
    return rows_a, rows_b


def _defined(value: float | None) -> bool:
    return value is not None and not np.isnan(value)


def _columns(rows: list[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Per image: its score, and numerator and denominator of the two pixel metrics."""
    pixels = np.array([row["anomalous_pixels"] for row in rows], np.float64)
    regions = np.array([row["regions"] for row in rows], np.float64)
    return {
        "score": np.array([row["score"] for row in rows], np.float64),
        "pixel_auroc": pixels * [row["pixel_auroc"] if row["anomalous_pixels"] else 0.0 for row in rows],
        "pixels": pixels,
        "aupro": regions * [row["aupro"] if row["regions"] else 0.0 for row in rows],
        "regions": regions,
    }


def _resample(label: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of the N images is drawn, float64 (count, N); each class keeps its number of images."""
    weights = np.zeros((count, label.size))
    for one in (0, 1):
        of_class = np.flatnonzero(label == one)
        if of_class.size:
            weights[:, of_class] = rng.multinomial(of_class.size, np.full(of_class.size, 1.0 / of_class.size), count)
    return weights


def _metrics(label: np.ndarray, columns: dict[str, np.ndarray], weights: np.ndarray) -> dict[str, np.ndarray]:
    """Every metric under every weighting of the images, each float64 (count,)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        found = image_metrics(columns["score"], label, weights)
        found["pixel_auroc"] = weights @ columns["pixel_auroc"] / (weights @ columns["pixels"])
        found["aupro"] = weights @ columns["aupro"] / (weights @ columns["regions"])
    return found


def image_metrics(scores: np.ndarray, label: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Weighted image AUROC, AP and F1-max: scores (N,), label 0/1 (N,), weights (B, N) -> each float64 (B,)."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)  # last of each group of equal scores
    drawn = weights[:, order]
    tp = np.cumsum(drawn * label[order], axis=1)[:, last]
    fp = np.cumsum(drawn * (1 - label[order]), axis=1)[:, last]
    p, n = tp[:, -1], fp[:, -1]
    step = np.diff(tp, axis=1, prepend=0.0)
    middle = fp - np.diff(fp, axis=1, prepend=0.0) / 2
    precision = np.divide(tp, tp + fp, out=np.zeros_like(tp), where=tp + fp > 0)
    return {
        "image_auroc": (step * (n[:, None] - middle)).sum(1) / (p * n),
        "image_ap": (step * precision).sum(1) / p,
        "image_f1max": (2 * tp / (tp + fp + p[:, None])).max(1),
    }
