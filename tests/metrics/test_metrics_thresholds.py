"""Thresholds keep what they promise, say when they cannot, and survive being stored in single precision."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bikd_fast.metrics import evaluate, threshold_at_best_f1, threshold_at_false_alarm_rate, threshold_at_recall


def repeat(choose, rate_of, n: int, times: int = 4000) -> tuple[float, float, object]:
    """Draw n calibration scores many times: mean true rate, one of the thresholds, all true rates."""
    rng = np.random.default_rng(0)
    thresholds = [choose(rng.normal(size=n)) for _ in range(times)]
    rates = np.array([rate_of(t.value) for t in thresholds])
    return rates.mean(), thresholds[0], rates


def tail(value: float) -> float:
    """P(standard normal >= value)."""
    from scipy.special import ndtr

    return float(ndtr(-value))


@pytest.mark.parametrize(("n", "rate"), [(199, 0.01), (50, 0.1), (20, 0.05), (37, 0.3)])
def test_false_alarm_rate_keeps_both_bounds(n: int, rate: float) -> None:
    mean, one, rates = repeat(lambda s: threshold_at_false_alarm_rate(s, rate), tail, n)
    assert one.met and one.bound <= rate
    assert mean == pytest.approx(one.bound, rel=0.1)  # exact for continuous scores, hence not wastefully strict either
    assert np.mean(rates <= one.bound_with_confidence) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize(("n", "recall"), [(199, 0.99), (50, 0.9), (39, 0.5)])
def test_recall_keeps_both_bounds(n: int, recall: float) -> None:
    mean, one, rates = repeat(lambda s: threshold_at_recall(s, recall), tail, n)
    assert one.met and one.bound >= recall
    assert 1 - mean == pytest.approx(1 - one.bound, rel=0.1)
    assert np.mean(rates >= one.bound_with_confidence) == pytest.approx(0.95, abs=0.015)


def test_few_normals_give_a_wide_bound_and_say_so() -> None:
    scores = np.random.default_rng(0).normal(size=10)
    found = threshold_at_false_alarm_rate(scores, 0.01)
    assert not found.met
    assert found.bound == pytest.approx(1 / 11)
    assert found.observed == 0.0  # far from marking everything anomalous
    assert found.value > scores.max()
    assert "10 held-out normal pictures cannot support a false-alarm rate of 1.00% (99 are needed)" in found.promise
    assert "at most 9.09%" in found.promise
    assert threshold_at_false_alarm_rate(np.arange(99.0), 0.01).met
    assert not threshold_at_false_alarm_rate(np.arange(98.0), 0.01).met


def test_one_normal_is_enough_for_a_threshold_if_not_for_a_promise() -> None:
    found = threshold_at_false_alarm_rate([0.3], 0.05)
    assert found.value > 0.3
    assert found.bound == 0.5


def test_few_defects_give_the_lowest_score_and_say_so() -> None:
    found = threshold_at_recall([3.0, 1.0, 2.0], 0.95, source="labelled defect")
    assert (found.value, found.observed, found.met, found.n) == (1.0, 1.0, False, 3)
    assert "3 labelled defect pictures cannot support a recall of 95.00% (19 are needed)" in found.promise


def test_equal_scores_raise_no_alarm() -> None:
    found = threshold_at_false_alarm_rate(np.full(200, 0.1), 0.05)
    assert found.observed == 0.0


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_promises_survive_single_precision(scale: float) -> None:
    scores = np.random.default_rng(1).normal(size=300) * scale
    for found in (threshold_at_false_alarm_rate(scores, 0.05), threshold_at_recall(scores, 0.9)):
        assert float(np.float32(found.value)) == found.value
        assert np.mean(scores.astype(np.float32) >= np.float32(found.value)) == pytest.approx(found.observed, abs=1e-12)


def test_best_f1_agrees_with_evaluate() -> None:
    rng = np.random.default_rng(2)
    labels = np.arange(40) % 2
    scores = (rng.normal(size=40) + labels).astype(np.float32)
    found = threshold_at_best_f1(scores, labels)
    maps = np.zeros((40, 1, 1), np.float32)
    whole = evaluate(maps, np.zeros((40, 1, 1), bool), scores, labels)
    assert found.value == whole["image_f1max_threshold"]
    assert found.observed == whole["image_f1max"]
    assert found.bound is None
    assert "flatters" in found.promise


def test_metadata_is_plain_json() -> None:
    for found in (threshold_at_false_alarm_rate([1.0, 2.0]), threshold_at_best_f1([1.0, 2.0], [0, 1])):
        assert json.loads(json.dumps(found.to_dict(), allow_nan=False)) == found.to_dict()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: threshold_at_false_alarm_rate([]), "at least one score"),
        (lambda: threshold_at_false_alarm_rate([1.0, np.nan]), r"normal_scores\[1\] is nan"),
        (lambda: threshold_at_false_alarm_rate([1.0], 0.0), "rate is 0.0"),
        (lambda: threshold_at_recall([1.0], 1.0), "recall is 1.0"),
        (lambda: threshold_at_best_f1([1.0, 2.0], [0, 0]), "needs normal and anomalous"),
        (lambda: threshold_at_best_f1([1.0, 2.0], [0]), "1 labels for 2 scores"),
    ],
)
def test_refusals(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
