"""Outlines of what lies above the threshold."""

import numpy as np
import pytest

from bikd_fast.inference.regions import regions


def shoelace(points):
    x, y = np.array(points).T
    return 0.5 * float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum())


def test_a_disc_has_its_area_its_place_and_its_peak():
    y, x = np.mgrid[:64, :64] + 0.5
    anomaly = np.maximum(0, 2 - np.hypot(x - 40, y - 20) / 10).astype(np.float32)
    (found,) = regions(anomaly, 1.0, 640, 1280)
    (outline,) = found["polygons"]
    assert outline[0] == outline[-1]
    assert abs(shoelace(outline)) == pytest.approx(np.pi * 10 * 10 * 10 * 20, rel=0.04)
    assert found["area"] == pytest.approx(np.pi * 100 * 200, rel=0.02)
    assert np.mean(outline, 0) == pytest.approx([800, 200], abs=20)
    assert found["peak"] == anomaly.max()
    left, top, right, bottom = found["box"]
    assert left == pytest.approx(600, abs=20) and right == pytest.approx(1000, abs=20)
    assert top == pytest.approx(100, abs=10) and bottom == pytest.approx(300, abs=10)


def test_regions_come_apart_the_worst_first_and_holes_turn_the_other_way():
    anomaly = np.zeros((40, 60), np.float32)
    anomaly[2:8, 2:8] = 1
    anomaly[10:30, 20:50] = 3
    anomaly[15:25, 30:40] = 0
    first, second = regions(anomaly, 0.5, 40, 60)
    assert (first["peak"], second["peak"]) == (3, 1) and second["area"] == 36 and first["area"] == 500
    assert len(second["polygons"]) == 1 and len(first["polygons"]) == 2
    outer, hole = sorted(map(shoelace, first["polygons"]), key=abs, reverse=True)
    assert outer * hole < 0 and abs(outer) == pytest.approx(600, rel=0.1) and abs(hole) == pytest.approx(100, rel=0.3)


def test_a_region_at_the_edge_reaches_the_edge():
    anomaly = np.zeros((32, 32), np.float32)
    anomaly[:, 20:] = 1
    (found,) = regions(anomaly, 0.5, 320, 320)
    points = np.array(found["polygons"][0])
    assert points[:, 0].max() == 320 and points[:, 1].min() == 0 and points[:, 1].max() == 320
    everything = regions(np.ones((8, 8), np.float32), 0.5, 80, 80)
    assert abs(shoelace(everything[0]["polygons"][0])) == pytest.approx(6400, rel=0.02)


def test_diagonal_neighbours_are_one_region_and_nothing_is_nothing():
    anomaly = np.eye(10, dtype=np.float32)
    assert len(regions(anomaly, 1.0, 10, 10)) == 1  # at the threshold counts as above it
    assert regions(anomaly, 1.5, 10, 10) == [] and regions(anomaly, float("nan"), 10, 10) is None


def test_a_region_smaller_than_the_tolerance_has_its_outline():
    anomaly = np.zeros((16, 16), np.float32)
    anomaly[4, 6] = 1.0
    (found,) = regions(anomaly, 0.9, 160, 160)
    (outline,) = found["polygons"]
    assert outline[0] == outline[-1] and abs(shoelace(outline)) == pytest.approx(2, rel=0.05)  # a square on its corner
    assert np.mean(outline[:-1], 0) == pytest.approx([65, 45])
