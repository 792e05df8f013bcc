import numpy as np
import pytest

from bikd_fast.report.gallery import choose
from bikd_fast.report.judge import errors, kind_rows, outcomes
from bikd_fast.report.run_folder import Predictions


def predictions(label, score, kind=None, threshold=0.5) -> Predictions:
    n = len(label)
    kinds = kind or ["bad" if flag else "good" for flag in label]
    scores = np.array(score, np.float32)
    return Predictions([""] * n, kinds, np.array(label, bool), scores, None, [""] * n, threshold, threshold)


def test_judgement():
    found = predictions([0, 0, 1, 1, 1], [0.1, 0.9, 0.2, 0.5, np.nan])
    assert outcomes(found) == ["correct", "false alarm", "missed", "correct", "not judged"]
    error = errors(found)
    assert error[:4] == pytest.approx([-1.0, 1.0, 0.75, 0.0], abs=1e-6)  # the normal scores' deviation is 0.4
    assert error[4] == np.inf


def test_without_threshold_the_order_is_by_rank():
    found = predictions([0, 0, 1, 1], [0.1, 0.6, 0.5, 0.9], threshold=float("nan"))
    assert errors(found).tolist() == [-0.5, 0.0, 0.0, -0.5]


def test_kinds_are_counted_and_ranked():
    found = predictions([0, 0, 1, 1, 1], [0.1, 0.7, 0.9, 0.2, 0.8], ["good", "good", "cut", "hole", "hole"])
    rows = kind_rows(found, {"kinds": {"cut": {"aupro": 0.5}}})
    assert [(row.kind, row.pictures, row.alarms) for row in rows] == [("good", 2, 1), ("hole", 2, 1), ("cut", 1, 1)]
    assert rows[1].auroc == pytest.approx(0.75) and rows[2].recorded == {"aupro": 0.5}


def test_gallery_takes_both_mistakes_and_every_kind():
    rng = np.random.default_rng(0)
    label = np.array([0] * 50 + [1] * 50)
    score = np.concatenate([rng.uniform(0.6, 0.7, 25), rng.uniform(0, 0.4, 25), rng.uniform(0, 0.2, 40), [0.9] * 10])
    kind = ["good"] * 50 + ["faint"] * 40 + ["a", "b"] * 5
    found = predictions(label, score, kind)
    outcome = outcomes(found)
    chosen = choose(found, errors(found), outcome, 12)
    assert len(chosen) == len(set(chosen)) == 12
    assert {found.kind[at] for at in chosen} == {"good", "faint", "a", "b"}
    assert sum(outcome[at] == "missed" for at in chosen) >= 4
    assert sum(outcome[at] == "false alarm" for at in chosen) >= 4
    assert chosen[0] == 50 + int(np.argmin(score[50:90]))
