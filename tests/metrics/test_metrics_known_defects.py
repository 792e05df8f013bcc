"""Mistakes known from other evaluation code, each as a test that ours does not make it."""

from __future__ import annotations

import numpy as np
import pytest
from exact_reference import exact_metrics, random_case
from sklearn.metrics import roc_auc_score

from bikd_fast.metrics import evaluate
from bikd_fast.metrics.regions import find_regions


def test_an_all_anomalous_image_keeps_its_region() -> None:
    maps = np.zeros((3, 4, 4), np.float32)
    maps[1, 0, 0] = 1.0
    masks = np.zeros((3, 4, 4), bool)
    masks[1, 0, 0] = True
    masks[2] = True  # missed by the map altogether: it must pull the mean down
    found = evaluate(maps, masks)
    assert len(found["regions"]) == 2
    assert found["aupro"] == pytest.approx(exact_metrics(list(maps), list(masks))["aupro"], abs=1e-12)
    assert found["aupro"] < 0.6


def test_thin_diagonal_scratch_is_one_region() -> None:
    mask = np.eye(40, dtype=np.uint8)
    assert find_regions([mask]).area.tolist() == [40]  # 4-connected labelling makes 40 regions of it


def test_aupro_pools_the_set_and_is_no_mean_over_images() -> None:
    rng = np.random.default_rng(2)
    masks = rng.random((8, 30, 30)) < 0.04
    maps = rng.normal(size=masks.shape) + masks + np.arange(8)[:, None, None] / 2  # levels differ between images
    pooled = evaluate(maps, masks)["aupro"]
    single = np.mean([evaluate(maps[i : i + 1], masks[i : i + 1])["aupro"] for i in range(8)])
    assert pooled == pytest.approx(exact_metrics(list(maps), list(masks))["aupro"], abs=1e-12)
    assert abs(pooled - single) > 0.01


@pytest.mark.parametrize("outlier", [1e30, np.inf])
def test_one_outlier_pixel_changes_nothing_but_itself(outlier: float) -> None:
    rng = np.random.default_rng(4)
    masks = rng.random((4, 40, 40)) < 0.05
    maps = (rng.normal(size=masks.shape) + 3 * masks).astype(np.float32)
    before = evaluate(maps, masks)
    normal = tuple(np.argwhere(~masks)[0])
    maps[normal] = outlier
    after = evaluate(maps, masks)
    for name in ("pixel_auroc", "pixel_ap", "aupro"):
        assert abs(after[name] - before[name]) < 0.02  # linear bins over [min, max] leave 0.5 here
    flat = np.nan_to_num(maps.astype(np.float64), posinf=1e38)
    assert after["pixel_auroc"] == pytest.approx(roc_auc_score(masks.ravel(), flat.ravel()), abs=1e-12)


def test_large_logits_are_not_squashed() -> None:
    maps = np.array([[[17.0, 18.0, 19.0, 20.0]]], np.float32)  # a float32 sigmoid makes 1.0 of all four
    masks = np.array([[[0, 0, 1, 1]]])
    found = evaluate(maps, masks)
    assert found["pixel_auroc"] == found["pixel_ap"] == found["pixel_f1max"] == 1.0
    assert found["pixel_f1max_threshold"] == 19.0


def test_float64_differences_are_not_cast_away() -> None:
    maps = np.array([[[1.0, 1.0 + 1e-12]]])
    assert evaluate(maps, np.array([[[0, 1]]]))["pixel_auroc"] == 1.0
    assert evaluate(maps, np.array([[[1, 0]]]))["pixel_auroc"] == 0.0


def test_masks_keep_their_own_resolution() -> None:
    masks = [np.zeros((97, 83), np.uint8), np.zeros((64, 64), np.uint8)]
    for k in range(8):
        masks[0][12 * k, 3:40] = 1  # one pixel thin: nearest-neighbour resizing to 24 rows loses most
    maps = [np.random.default_rng(0).normal(size=(24, 24)).astype(np.float32), np.zeros((64, 64), np.float32)]
    found = evaluate(maps, masks)
    assert len(found["regions"]) == 8
    assert found["about"]["pixels"] == 97 * 83 + 64 * 64
    assert found["about"]["anomalous_pixels"] == 8 * 37


def test_minus_zero_equals_zero() -> None:
    maps = np.array([[[-0.0, 0.0]]], np.float32)
    assert evaluate(maps, np.array([[[1, 0]]]))["pixel_auroc"] == 0.5
    assert evaluate(maps, np.array([[[0, 1]]]))["pixel_auroc"] == 0.5


@pytest.mark.parametrize("seed", range(40))
def test_nothing_ever_exceeds_one(seed: int) -> None:
    maps, masks = random_case(np.random.default_rng(1000 + seed))
    found = evaluate(maps, masks, fpr_limit=0.01, aupimo=True)
    values = [v for k, v in found.items() if isinstance(v, float) and not k.endswith("threshold")]
    assert all(np.isnan(v) or -1e-15 <= v <= 1 + 1e-15 for v in values)
    assert all(np.isnan(r["aupro"]) or -1e-15 <= r["aupro"] <= 1 + 1e-15 for r in found["regions"])
