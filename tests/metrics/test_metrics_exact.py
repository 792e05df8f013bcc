"""evaluate() against exact rational arithmetic, against scikit-learn, and the share of each kind, image and region."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from exact_reference import exact_metrics, flood_regions, pimo_of_image, random_case
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from bikd_fast.metrics import evaluate, mean_metrics, to_json
from bikd_fast.metrics.closed_form import auroc
from bikd_fast.metrics.ladder import Ladder

CLOSE = dict(rel=0, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("seed", range(120))
def test_equals_exact_rational_arithmetic(seed: int) -> None:
    rng = np.random.default_rng(seed)
    maps, masks = random_case(rng)
    limit = float(rng.choice([0.05, 0.3, 1.0]))
    found = evaluate(maps, masks, fpr_limit=limit, threads=1)
    for name, value in exact_metrics(maps, masks, limit).items():
        assert found[name] == pytest.approx(value, **CLOSE), name


shapes = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))


@settings(max_examples=80, deadline=None)
@given(
    shapes.flatmap(
        lambda s: st.tuples(
            hnp.arrays(np.float32, s, elements=st.sampled_from([-1e30, -1.0, -0.0, 0.0, 1e-40, 0.5, 1.0, np.inf])),
            hnp.arrays(np.bool_, s),
        )
    )
)
def test_equals_exact_rational_arithmetic_on_hard_values(case: tuple[np.ndarray, np.ndarray]) -> None:
    maps, masks = case
    found = evaluate(maps, masks, threads=1)
    for name, value in exact_metrics(list(maps), list(masks)).items():
        assert found[name] == pytest.approx(value, **CLOSE), name


@pytest.mark.parametrize("seed", range(30))
def test_equals_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    masks = rng.random((6, 20, 24)) < 0.1
    masks[:2] = False
    decimals = int(rng.choice([0, 1, 5]))
    maps = (rng.normal(size=masks.shape) + masks).round(decimals).astype(rng.choice([np.float32, np.float64]))
    scores = rng.normal(size=6).round(1)
    labels = np.array([0, 0, 1, 1, 1, 1])
    found = evaluate(maps, masks, scores, labels, threads=2)
    for prefix, truth, guess in (("pixel", masks.ravel(), maps.ravel()), ("image", labels, scores)):
        precision, recall, _ = precision_recall_curve(truth, guess)
        with np.errstate(invalid="ignore"):
            f1 = np.nanmax(2 * precision * recall / (precision + recall))
        assert found[f"{prefix}_auroc"] == pytest.approx(roc_auc_score(truth, guess), **CLOSE)
        assert found[f"{prefix}_ap"] == pytest.approx(average_precision_score(truth, guess), **CLOSE)
        assert found[f"{prefix}_f1max"] == pytest.approx(f1, **CLOSE)
        at = guess >= found[f"{prefix}_f1max_threshold"]
        assert 2 * (at & (truth > 0)).sum() / (at.sum() + truth.sum()) == pytest.approx(f1, **CLOSE)


def test_answer_does_not_depend_on_chunks_threads_layout_or_device_code() -> None:
    rng = np.random.default_rng(3)
    masks = rng.random((9, 150, 170)) < 0.03
    maps = (rng.normal(size=masks.shape) + masks).astype(np.float32)
    masks[:2] = False
    text = [
        to_json(evaluate(m, k, aupimo=True, curves=30, **options))
        for m, k, options in [
            (maps, masks, dict(threads=1)),
            (maps, masks, dict(threads=3, memory_mb=0.3)),
            ([m.T.copy().T for m in maps], list(torch.from_numpy(masks)), dict(threads=2)),  # not contiguous
            (torch.from_numpy(maps), torch.from_numpy(masks.astype(np.uint8) * 255), {}),
        ]
    ]
    assert len(set(text)) == 1
    assert len(json.loads(text[0])["curves"]["pixel_pr"]["x"]) <= 30


def test_parts_add_up_to_the_whole() -> None:
    rng = np.random.default_rng(5)
    maps, masks = random_case(rng, images=12)
    masks[0][:] = 0
    masks[1][:] = 0
    masks[2][0, 0] = masks[3][0, 0] = 1
    kinds = ["good" if not m.any() else "ab"[i % 2] for i, m in enumerate(masks)]
    found = evaluate(maps, masks, kinds=kinds)
    regions = found["regions"]
    assert len(regions) == sum(len(flood_regions(m)) for m in masks) == found["about"]["regions"]
    assert np.mean([r["aupro"] for r in regions]) == pytest.approx(found["aupro"], **CLOSE)
    a, b = found["kinds"]["a"], found["kinds"]["b"]
    assert set(found["kinds"]) == {"a", "b"}
    whole = (a["aupro"] * a["regions"] + b["aupro"] * b["regions"]) / (a["regions"] + b["regions"])
    assert whole == pytest.approx(found["aupro"], **CLOSE)
    rows = found["images"]
    pixels = sum(r["anomalous_pixels"] for r in rows)
    share = sum(r["pixel_auroc"] * r["anomalous_pixels"] for r in rows if r["anomalous_pixels"]) / pixels
    assert share == pytest.approx(found["pixel_auroc"], **CLOSE)
    for kind in "ab":
        mine = [i for i, k in enumerate(kinds) if k in (kind, "good")]
        alone = evaluate([maps[i] for i in mine], [masks[i] for i in mine])
        assert found["kinds"][kind]["image_auroc"] == pytest.approx(alone["image_auroc"], **CLOSE)
        assert found["kinds"][kind]["count"] == kinds.count(kind)
    # a kind's pixels against the normal pixels of the whole set
    negatives = np.concatenate([m[k == 0] for m, k in zip(maps, masks)])
    positives = np.concatenate([m[k != 0] for m, k, kind in zip(maps, masks, kinds) if kind == "a"])
    truth = np.repeat([1, 0], [positives.size, negatives.size])
    finite = np.nan_to_num(np.concatenate([positives, negatives]).astype(np.float64), posinf=1e6, neginf=-1e6)
    assert a["pixel_auroc"] == pytest.approx(roc_auc_score(truth, finite), **CLOSE)


def test_region_rows_say_where_and_how_high() -> None:
    mask = np.zeros((1, 8, 9), np.uint8)
    mask[0, 2:4, 3:7] = 1
    mask[0, 7, 8] = 1
    maps = np.zeros((1, 8, 9), np.float32)
    maps[0, 3, 4] = 2.5
    first, second = evaluate(maps, mask)["regions"]
    assert (first["box"], first["area"], first["peak"]) == ([2, 3, 4, 7], 8, 2.5)
    assert (second["box"], second["area"], second["peak"], second["image"]) == ([7, 8, 8, 9], 1, 0.0, 0)


@pytest.mark.parametrize("seed", range(8))
def test_aupimo_equals_its_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    masks = np.zeros((6, 120, 130), bool)
    masks[3:, 40:50, 60:66] = True
    maps = rng.normal(size=masks.shape) + 3.5 * masks
    if seed % 2:
        maps = maps.round(2)
    found = evaluate(maps, masks, aupimo=True)
    expected = [pimo_of_image(maps[i], masks[i], maps[:3].ravel(), 1e-5, 1e-4) for i in (3, 4, 5)]
    assert 0 < found["aupimo"] < 1
    assert [row["aupimo"] for row in found["images"][3:]] == pytest.approx(expected, **CLOSE)
    assert found["aupimo"] == pytest.approx(np.mean(expected), **CLOSE)
    assert all(math.isnan(row["aupimo"]) for row in found["images"][:3])
    assert evaluate(maps, masks)["aupro"] == found["aupro"]


@pytest.mark.parametrize("fill", [0, 1])
def test_undefined_metrics_are_nan_and_null(fill: int) -> None:
    masks = np.full((2, 4, 4), fill, np.uint8)
    found = evaluate(np.random.default_rng(0).normal(size=masks.shape), masks, aupimo=True, curves=10)
    names = [k for k, v in found.items() if isinstance(v, float)]
    assert len(names) == 10
    assert all(math.isnan(found[name]) for name in names)
    read = json.loads(to_json(found))
    assert all(read[name] is None for name in names)
    assert read["about"]["images"] == 2
    assert found["curves"]["pixel_roc"]["x"] == []


def test_huge_counts_do_not_overflow() -> None:
    p, n = 2**31 - 1, 10**13
    ladder = Ladder(
        values=np.array([0.0, 1.0]),
        positives=np.array([p // 2, p - p // 2]),
        below=np.array([n // 3, n // 2]),
        at=np.array([1, n // 4]),
        negatives=n,
    )
    wins = sum(int(c) * (2 * int(b) + int(a)) for c, b, a in zip(ladder.positives, ladder.below, ladder.at))
    assert auroc(ladder) == float(Fraction(wins, 2 * p * n))


def test_scores_and_labels_may_be_tensors() -> None:
    maps, masks = torch.zeros(3, 4, 4), torch.zeros(3, 4, 4, dtype=torch.bool)
    found = evaluate(maps, masks, torch.tensor([1.0, 2.0, 3.0]).bfloat16(), torch.tensor([0, 0, 1]))
    assert [row["score"] for row in found["images"]] == [1.0, 2.0, 3.0]
    assert found["image_auroc"] == 1.0


def test_json_reads_back_bit_for_bit() -> None:
    rng = np.random.default_rng(1)
    masks = rng.random((3, 9, 9)) < 0.2
    masks[0] = False
    found = evaluate(rng.normal(size=masks.shape), masks)
    read = json.loads(to_json(found))
    assert read["aupro"] == found["aupro"]
    assert read["images"][1] == found["images"][1]
    assert all(type(v) in (float, dict, list) for v in found.values())


def test_image_label_and_mask_may_differ_only_one_way() -> None:
    maps = np.arange(32, dtype=np.float32).reshape(2, 4, 4)
    masks = np.zeros((2, 4, 4), bool)
    found = evaluate(maps, masks, labels=[0, 1])  # a defect no mask was drawn for
    assert found["image_auroc"] == 1.0
    assert math.isnan(found["aupro"])
    masks[0, 0, 0] = True
    with pytest.raises(ValueError, match=r"labels\[0\] is 0 \(normal\) but masks\[0\] marks 1"):
        evaluate(maps, masks, labels=[0, 1])


def test_mean_over_categories_leaves_undefined_and_thresholds_out() -> None:
    a = {"aupro": 0.5, "image_auroc": math.nan, "pixel_f1max_threshold": 3.0, "kinds": {}}
    b = {"aupro": 0.7, "image_auroc": 0.9, "pixel_f1max_threshold": 9.0, "kinds": {}}
    assert mean_metrics([a, b]) == {"aupro": pytest.approx(0.6), "image_auroc": 0.9}
    assert mean_metrics([a, {**b, "image_auroc": None}])["image_auroc"] is not None
    assert math.isnan(mean_metrics([a])["image_auroc"])
