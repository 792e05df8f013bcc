import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from bikd_fast.metrics import evaluate
from bikd_fast.report.charts import tick_labels, ticks
from bikd_fast.report.curves import area, count_pixels, image_curves, pixel_curves, recorded_curves, thin


def test_image_curves_equal_scikit_learn():
    rng = np.random.default_rng(0)
    label = rng.random(300) < 0.3
    score = np.round(rng.normal(size=300) + label, 1).astype(np.float32)  # with ties
    curves = image_curves(score, label)
    x, y, _ = roc_curve(label, score, drop_intermediate=False)
    assert np.allclose(curves["roc"], (x, y))
    assert area(curves["roc"]) == pytest.approx(roc_auc_score(label, score))
    recall, precision = curves["pr"]
    assert (np.diff(recall) * precision[1:]).sum() == pytest.approx(average_precision_score(label, score))


def test_curves_that_need_an_absent_class_are_left_out():
    score = np.array([0.1, 0.2, np.nan], dtype=np.float32)
    assert set(image_curves(score, np.array([False, False, True]))) == set()
    assert set(image_curves(score, np.array([True, True, False]))) == {"pr"}
    assert image_curves(np.zeros(0, np.float32), np.zeros(0, bool)) == {}


def plain_pixel_curves(maps, masks):
    """The definition, point by point: distinct scores, 8-connected regions."""
    flat, truth = np.concatenate([m.ravel() for m in maps]), np.concatenate([m.ravel() for m in masks])
    regions = []
    for map, mask in zip(maps, masks):
        found, count = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [map[found == at] for at in range(1, count + 1)]
    points = [(0.0, 0.0, 0.0)]
    for value in np.unique(flat)[::-1]:
        hit = flat >= value
        overlap = np.mean([(region >= value).mean() for region in regions])
        points.append(((hit & ~truth).sum() / (~truth).sum(), (hit & truth).sum() / truth.sum(), overlap))
    return np.array(points).T


def test_pixel_curves_equal_the_definition():
    rng = np.random.default_rng(1)
    masks = [rng.random((12, 12)) < 0.08 for _ in range(4)] + [np.zeros((12, 12), bool)]
    maps = [np.round(rng.normal(size=(12, 12)) + mask, 1).astype(np.float16) for mask in masks]
    curves = pixel_curves(count_pixels(zip(maps, [*masks[:4], None])), fpr_limit=0.3)
    fpr, tpr, pro = plain_pixel_curves(maps, masks)
    assert np.allclose(curves["roc"], (fpr, tpr))
    x, y = curves["pro"]
    assert x[-1] == 0.3 and y[-1] == pytest.approx(np.interp(0.3, fpr, pro))
    assert np.allclose(y[:-1], pro[fpr <= 0.3]) and np.allclose(x[:-1], fpr[fpr <= 0.3])


def test_masks_keep_their_own_resolution():
    mask = np.zeros((64, 64), bool)
    mask[3, 5:50] = True  # thinner than a map cell
    mask[60, 60] = True
    counts = count_pixels([(np.zeros((16, 16), np.float16), mask)])
    assert counts.regions == 2
    assert counts.bad.sum() == mask.sum() and counts.region.sum() == pytest.approx(2)
    assert counts.good.sum() == (~mask).sum()


def test_negative_and_zero_scores_are_in_order():
    map = np.array([[-2.0, -0.0, 0.0, 3.0]], dtype=np.float16)
    mask = np.array([[False, False, True, True]])
    x, y = pixel_curves(count_pixels([(map, mask)]))["roc"]
    assert x.tolist() == [0, 0, 0.5, 1] and y.tolist() == [0, 0.5, 1, 1]


def test_recorded_curves_are_taken_only_when_usable():
    entry = {
        "image_roc": {"x": [0, 1], "y": [0, 1], "threshold": [1, 0]},
        "pro": {"x": [], "y": []},
        "pixel_pr": {"x": [0, None], "y": [0, 1]},
        "pixel_roc": {"x": [0, 1], "y": [0]},
        "other": {"x": [0, 1], "y": [0, 1]},
    }
    assert set(recorded_curves(entry)) == {"image_roc"}
    assert recorded_curves(None) == {} and recorded_curves({"pro": 3}) == {}


def test_metrics_curves_are_understood():
    rng = np.random.default_rng(0)
    masks = np.zeros((4, 16, 16), bool)
    masks[2:, 4:9, 4:9] = True
    result = evaluate(rng.random((4, 16, 16)) + masks, masks, curves=50)
    assert set(recorded_curves(result["curves"])) == {"image_roc", "image_pr", "pixel_roc", "pixel_pr", "pro"}


def test_thin_keeps_ends_and_shape():
    x = np.linspace(0, 1, 5000)
    y = x**0.1
    a, b = thin((x, y), 100)
    assert len(a) <= 102 and (a[0], a[-1]) == (0, 1)
    assert np.abs(np.interp(x, a, b) - y).max() < 0.02


def test_ticks_are_round_and_inside():
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert all(0.0137 <= tick <= 0.0912 for tick in ticks(0.0137, 0.0912))
    assert tick_labels([0, 0.5, 1.0]) == ["0", "0.5", "1.0"]
    assert tick_labels([-20, 0, 20]) == ["−20", "0", "20"]
    assert tick_labels([0, 2e-4, 4e-4]) == ["0", "2e−4", "4e−4"]
    assert ticks(3.0, 3.0) == [3.0]
