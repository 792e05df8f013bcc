import math

from bikd_fast.report import metrics_table

METRICS = {
    "categories": {
        "brick": {"image_auroc": 0.98765, "aupro": None, "seconds": 3.0},
        "very_long_name": {"image_auroc": 1, "aupro": 0.5},
    },
    "mean": {"image_auroc": 0.9938},
}


def test_table_is_aligned_and_in_percent():
    lines = metrics_table(METRICS).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split() == ["%", "Image", "AUROC", "AUPRO"]
    assert lines[2].split() == ["brick", "98.77", "-"]
    assert lines[3].split() == ["very_long_name", "100.00", "50.00"]
    assert lines[-1].split() == ["mean", "99.38", "50.00"]  # recorded where recorded, else over the defined ones


def test_one_category_has_no_mean_row():
    text = metrics_table(
        {"categories": {"one": {"image_auroc": 0.5, "pixel_ap": math.nan}}, "mean": {"image_auroc": 0.5}}
    )
    assert "mean" not in text
    assert text.splitlines()[-1].split() == ["one", "50.00", "-"]


def test_nothing_recorded_is_said():
    assert metrics_table({}) == "no metrics recorded"
    assert metrics_table({"categories": {"one": {"seconds": 1.0}}}) == "no metrics recorded"
