"""Curves: their area is the metric, thinning keeps them close, ends are where they belong."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve, roc_curve

from bikd_fast.metrics import evaluate


@pytest.fixture(scope="module")
def case() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    masks = np.zeros((6, 40, 40), bool)
    masks[2:, 5:12, 8:30] = True
    return (rng.normal(size=masks.shape) + masks).astype(np.float32), masks


def area(curve: dict) -> float:
    return float(np.trapezoid(curve["y"], curve["x"]))


def test_areas_under_full_curves_are_the_metrics(case: tuple[np.ndarray, np.ndarray]) -> None:
    found = evaluate(*case, curves=10**6, fpr_limit=0.2)
    curves = found["curves"]
    assert area(curves["pixel_roc"]) == pytest.approx(found["pixel_auroc"], abs=1e-12)
    assert area(curves["image_roc"]) == pytest.approx(found["image_auroc"], abs=1e-12)
    assert area(curves["pro"]) / 0.2 == pytest.approx(found["aupro"], abs=1e-12)
    assert curves["pro"]["x"][-1] == 0.2
    recall = np.append(0.0, curves["pixel_pr"]["x"])
    assert np.diff(recall) @ curves["pixel_pr"]["y"] == pytest.approx(found["pixel_ap"], abs=1e-12)


@pytest.mark.parametrize("points", [20, 200])
def test_thinned_curves_stay_close(case: tuple[np.ndarray, np.ndarray], points: int) -> None:
    maps, masks = case
    curves = evaluate(maps, masks, curves=points)["curves"]
    assert all(len(c["x"]) == len(c["y"]) == len(c["threshold"]) <= points for c in curves.values())
    fpr, tpr, _ = roc_curve(masks.ravel(), maps.ravel())
    x, y = curves["pixel_roc"]["x"], curves["pixel_roc"]["y"]
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert np.abs(np.interp(fpr, x, y) - tpr).max() < 2 / (points - 1)
    precision, recall, _ = precision_recall_curve(masks.ravel(), maps.ravel())
    ends = curves["pixel_pr"]
    assert (ends["x"][0], ends["x"][-1]) == (pytest.approx(1 / masks.sum()), 1.0)
    exact = {(round(r, 9), round(p, 9)) for r, p in zip(recall, precision)}
    assert all((round(r, 9), round(p, 9)) in exact for r, p in zip(ends["x"], ends["y"]))


def test_thresholds_belong_to_their_points(case: tuple[np.ndarray, np.ndarray]) -> None:
    maps, masks = case
    curve = evaluate(maps, masks, curves=50)["curves"]["pixel_pr"]
    for recall, precision, threshold in zip(*curve.values()):
        at = maps >= threshold
        assert (at & masks).sum() / masks.sum() == pytest.approx(recall, abs=1e-12)
        assert (at & masks).sum() / at.sum() == pytest.approx(precision, abs=1e-12)
