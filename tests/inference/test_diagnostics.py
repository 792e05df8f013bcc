"""Diagnostics: what they mean on levels where the answer is known, and that ranks change nothing."""

import numpy as np
import pytest
import torch
from tiny_detector import make_detector

from bikd_fast.config import MapConfig
from bikd_fast.inference.calibration import calibrate, channel_weights
from bikd_fast.inference.diagnostics import Gauge, measure
from bikd_fast.inference.shares import Share


@pytest.fixture(scope="module")
def small():
    return make_detector(teacher="test_efficientnet", student="encoder", head=False)


def levels(small, count, fill):
    sizes = [64 // s for s in small.backbone.strides]
    return [fill(torch.zeros(count, c, side, side)) for c, side in zip(small.student.channels, sizes)]


def first_channel(x):
    x[:, 0] = 1
    return x


def test_agreement_outside_and_disagreement_inside_a_defect(small):
    mask = np.zeros((128, 128), bool)
    mask[:64, :64] = True  # a quarter, at twice the resolution
    teacher, student = levels(small, 1, first_channel), levels(small, 1, first_channel)
    for level in student:
        half = level.shape[-1] // 2
        level[:, 0, :half, :half], level[:, 1, :half, :half] = 0, 1  # orthogonal there
    gauge = Gauge(small, [mask])
    gauge(0, teacher, teacher, student)
    found = gauge.result()
    assert found["normal"] == pytest.approx(0) and found["defect"] == pytest.approx(1)
    assert found["drift"] == pytest.approx(0) and found["defect_backbone"] == pytest.approx(1)
    assert found["spread_teacher"] == pytest.approx(0, abs=1e-3)  # one vector everywhere: a collapse


def test_spread_is_large_where_features_differ(small):
    torch.manual_seed(0)
    gauge = Gauge(small)
    some = levels(small, 2, lambda x: torch.randn_like(x))
    gauge(0, some, some, some)
    assert 0.9 < gauge.result()["spread_student"] <= 1 and "defect" not in gauge.result()


def test_two_ranks_give_the_figures_of_one(small, monkeypatch):
    torch.manual_seed(0)
    masks = [np.eye(64) > 0 if i % 2 else np.zeros((64, 64), bool) for i in range(5)]
    masks[1][:20, :20] = True
    e, t, s = (levels(small, 5, lambda x: torch.rand_like(x)) for _ in range(3))

    def gauged(which):
        gauge = Gauge(small, [masks[i] for i in which])
        gauge(0, *([f[which] for f in part] for part in (e, t, s)))
        return gauge

    whole = gauged([0, 1, 2, 3, 4]).result()
    parts = [gauged([0, 2, 4]), gauged([1, 3])]
    places = np.array([0, 2, 4, 1, 3])

    class Both(Share):
        def collect(self, rows, _):
            return np.concatenate([np.concatenate(p.rows) for p in parts])[np.argsort(places)]

    assert parts[0].result(Both(), np.array([0, 2, 4])) == whole


def test_channel_weights_favour_what_the_student_can_predict(small):
    config = MapConfig(calibrate_channels=True)
    detector = make_detector(teacher="test_efficientnet", student="encoder", head=False, map_config=config)
    pictures = torch.randint(0, 255, (6, 3, 64, 64), dtype=torch.uint8)
    features = detector.features

    def good_at_channel_three(x):
        teacher, student = features(x)
        for t, s in zip(teacher, student):
            s[:, 3] = torch.nn.functional.normalize(t, dim=1)[:, 3] * s.norm(dim=1)
        return teacher, student

    before = [w[3] / w.mean() for w in channel_weights(detector, pictures)]
    detector.features = good_at_channel_three
    after = channel_weights(detector, pictures)
    del detector.features
    assert all(w[3] > b for w, b in zip(after, before)) and all(abs(w.mean() - 1) < 1e-5 for w in after)
    assert all(w.max() < 50 for w in after)  # a channel that is always right does not take it all
    calibrate(detector, pictures)
    assert not torch.equal(detector.channel_weights()[0], torch.ones_like(detector.channel_weights()[0]))
    assert detector.threshold.isfinite()


def test_a_memory_has_none():
    bank = make_detector(teacher="test_efficientnet", student="bank", adapter=False, head=False, mahalanobis=False)
    assert measure(bank, torch.zeros(1, 3, 64, 64, dtype=torch.uint8)) == {}
