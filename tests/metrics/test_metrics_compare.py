"""Comparison of two runs: weighted metrics equal those of a real resample, intervals cover, wrong pairs are refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bikd_fast.metrics import compare, compare_runs, evaluate, to_json
from bikd_fast.metrics.closed_form import auroc, average_precision, best_f1
from bikd_fast.metrics.compare import image_metrics
from bikd_fast.metrics.ladder import ladder_of


def run_of(strength: float, seed: int, noise: np.ndarray, masks: np.ndarray) -> dict:
    own = np.random.default_rng(seed).normal(size=masks.shape) / 2
    return evaluate(noise + own + strength * masks, masks)


@pytest.fixture(scope="module")
def runs() -> tuple[dict, dict]:
    rng = np.random.default_rng(0)
    masks = np.zeros((50, 24, 24), bool)
    for i in range(20, 50):
        y, x = rng.integers(0, 18, 2)
        masks[i, y : y + 5, x : x + 4] = True
    noise = rng.normal(size=masks.shape)
    return run_of(1.0, 1, noise, masks), run_of(1.5, 2, noise, masks)


def test_weighted_metrics_equal_those_of_repeated_images() -> None:
    rng = np.random.default_rng(0)
    label = np.array([0] * 6 + [1] * 7)
    scores = rng.normal(size=13).round(0)
    weights = rng.integers(0, 4, (20, 13)).astype(float)
    weights[:, [0, 12]] += 1
    found = image_metrics(scores, label, weights)
    for k in range(20):
        times = weights[k].astype(int)
        ladder = ladder_of(np.repeat(scores, times), np.repeat(label, times))
        assert found["image_auroc"][k] == pytest.approx(auroc(ladder), abs=1e-12)
        assert found["image_ap"][k] == pytest.approx(average_precision(ladder), abs=1e-12)
        assert found["image_f1max"][k] == pytest.approx(best_f1(ladder)[0], abs=1e-12)


def test_a_real_difference_is_seen_and_none_against_itself(runs: tuple[dict, dict]) -> None:
    weak, strong = runs
    found = compare(weak, strong, resamples=600)
    assert set(found) == {"image_auroc", "image_ap", "image_f1max", "pixel_auroc", "aupro"}
    for name in ("pixel_auroc", "aupro"):
        row = found[name]
        assert (row["a"], row["b"]) == (weak[name], strong[name])
        assert 0 < row["low"] < row["difference"] < row["high"]
        assert row["better"] == 1.0
    for row in compare(weak, weak, resamples=100).values():
        assert row["difference"] == row["low"] == row["high"] == 0.0
        assert row["better"] == 0.5


def test_it_is_antisymmetric_reproducible_and_works_from_json(runs: tuple[dict, dict]) -> None:
    weak, strong = (json.loads(to_json(r)) for r in runs)
    there, back = compare(weak, strong, resamples=300), compare(strong, weak, resamples=300)
    assert there == compare(*runs, resamples=300)
    for name, row in there.items():
        assert row["low"] == pytest.approx(-back[name]["high"], abs=1e-12)
    assert there != compare(weak, strong, resamples=300, seed=1)


def test_interval_of_a_paired_difference_covers_the_truth() -> None:
    """95 % intervals for the difference of two equally good detectors contain 0 in about 95 % of test sets."""
    rng = np.random.default_rng(3)
    label = np.repeat([0, 1], [30, 40])
    covered, width_paired, width_apart = [], [], []
    masks = np.zeros((70, 1, 1), bool)
    for _ in range(60):
        common = rng.normal(size=70) + label
        a, b = (evaluate(masks.astype(float), masks, common + rng.normal(size=70) / 3, label) for _ in range(2))
        row = compare(a, b, resamples=300)["image_auroc"]
        covered.append(row["low"] <= 0 <= row["high"])
        width_paired.append(row["high"] - row["low"])
        other = rng.permutation(30).tolist() + (30 + rng.permutation(40)).tolist()  # pairing destroyed
        c = {**b, "images": [{**b["images"][k], "index": i} for i, k in enumerate(other)]}
        row = compare(a, c, resamples=300)["image_auroc"]
        width_apart.append(row["high"] - row["low"])
    assert 0.85 <= np.mean(covered) <= 1.0
    assert np.mean(width_paired) < 0.7 * np.mean(width_apart)


def test_runs_are_compared_by_category_and_on_the_mean(runs: tuple[dict, dict]) -> None:
    weak, strong = runs
    a = {"categories": {"brick": weak, "grass": weak, "only": weak}}
    b = {"categories": {"brick": strong, "grass": strong}}
    found = compare_runs(a, b, resamples=400)
    assert found["left_out"] == ["only"]
    assert set(found["categories"]) == {"brick", "grass"}
    mean, one = found["mean"]["aupro"], found["categories"]["brick"]["aupro"]
    assert mean["difference"] == pytest.approx(strong["aupro"] - weak["aupro"])
    assert mean["high"] - mean["low"] < one["high"] - one["low"]  # two independent categories: a narrower mean
    with pytest.raises(ValueError, match=r"share no category: \['x'\] and \['y'\]"):
        compare_runs({"categories": {"x": weak}}, {"categories": {"y": weak}})


def test_runs_on_other_pictures_are_refused(runs: tuple[dict, dict]) -> None:
    weak, strong = runs
    with pytest.raises(ValueError, match="50 and 49 pictures"):
        compare(weak, {**strong, "images": strong["images"][:-1]})
    changed = [dict(row) for row in strong["images"]]
    changed[30]["anomalous_pixels"] += 1
    with pytest.raises(ValueError, match=r"picture 30 has anomalous_pixels 20 in one run and 21"):
        compare(weak, {**strong, "images": changed})


def test_metrics_undefined_in_a_run_are_left_out() -> None:
    masks = np.zeros((6, 3, 3), bool)  # labels, but no mask drawn
    label = [0, 0, 0, 1, 1, 1]
    a, b = (evaluate(np.random.default_rng(k).normal(size=(6, 3, 3)), masks, labels=label) for k in (0, 1))
    assert set(compare(a, b, resamples=20)) == {"image_auroc", "image_ap", "image_f1max"}


def test_draws_without_an_outlined_defect_are_drawn_again() -> None:
    rng = np.random.default_rng(0)
    masks = np.zeros((9, 16, 16), bool)
    masks[6, 2:6, 2:6] = True  # of three defects one is outlined: (2/3)^3 of the draws have none
    labels = [0] * 6 + [1] * 3
    noise = rng.normal(size=masks.shape)
    one, two = (evaluate(noise + k * masks, masks, labels=labels) for k in (1.0, 3.0))
    found = compare_runs({"categories": {"a": one}}, {"categories": {"a": two}}, resamples=300)
    for rows in (found["categories"]["a"], found["mean"]):
        for name in ("pixel_auroc", "aupro"):
            assert rows[name]["low"] == rows[name]["high"] == pytest.approx(rows[name]["difference"])
            assert rows[name]["better"] == 1
