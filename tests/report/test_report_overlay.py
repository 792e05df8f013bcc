import numpy as np
import pytest

from bikd_fast.report import draw_overlay, heat_range
from bikd_fast.report.colormap import HEAT
from bikd_fast.report.pictures import map_outline, mask_outline

GRAY = np.full((40, 60, 3), 128, dtype=np.uint8)


def hot_corner(rows: int = 8, columns: int = 12) -> np.ndarray:
    map = np.zeros((rows, columns), dtype=np.float16)
    map[:3, :3] = 1.0
    return map


def test_colours_grow_evenly_lighter():
    linear = np.where(HEAT <= 10, HEAT / 255 / 12.92, ((HEAT / 255 + 0.055) / 1.055) ** 2.4)
    lightness = 116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16
    steps = np.diff(lightness[::16])
    assert HEAT.shape == (256, 3) and HEAT.dtype == np.uint8
    assert steps.min() > 0
    assert lightness[-1] - lightness[0] > 60


def test_cold_pixels_stay_as_they_are_and_hot_ones_take_the_hottest_colour():
    drawn = draw_overlay(GRAY, hot_corner(), low=0.0, high=1.0)
    assert drawn.shape == GRAY.shape and drawn.dtype == np.uint8
    assert (drawn[-5:, -5:] == GRAY[-5:, -5:]).all()
    expected = GRAY[0, 0] + 0.8 * (HEAT[-1].astype(float) - GRAY[0, 0])
    assert np.abs(drawn[0, 0] - expected).max() <= 1
    assert (GRAY == 128).all()


def test_outline_runs_where_the_map_reaches_the_threshold():
    plain = draw_overlay(GRAY, hot_corner(), low=0.0, high=1.0)
    lined = draw_overlay(GRAY, hot_corner(), low=0.0, high=1.0, threshold=0.5)
    changed = (plain != lined).any(axis=2)
    # the map's step lies at 3/8 of the height, 3/12 of the width: rows 15 of 40, columns 15 of 60
    assert changed[2, 12:18].any() and changed[12:18, 2].any()
    assert not changed[:8, :8].any() and not changed[25:, 25:].any()
    assert (draw_overlay(GRAY, hot_corner(), low=0, high=1, threshold=2.0) == plain).all()
    assert (draw_overlay(GRAY, hot_corner(), low=0, high=1, threshold=float("nan")) == plain).all()


def test_infinite_map_values_are_the_hottest_and_coldest():
    map = np.array([[np.inf, -np.inf]])
    drawn = draw_overlay(GRAY, map, low=0.0, high=1.0)
    assert (drawn[:, -5:] == 128).all()
    assert (drawn[:, 0] != 128).any()


@pytest.mark.parametrize(
    ("picture", "map", "low", "high", "says"),
    [
        (GRAY[:, :, 0], hot_corner(), 0, 1, r"uint8 \(H, W, 3\)"),
        (GRAY.astype(float), hot_corner(), 0, 1, "float64"),
        (GRAY, np.zeros((2, 2, 2)), 0, 1, r"\(h, w\), found \(2, 2, 2\)"),
        (GRAY, np.full((4, 4), np.nan), 0, 1, "NaN"),
        (GRAY, hot_corner(), 1, 1, "below high"),
    ],
)
def test_wrong_input_is_named(picture, map, low, high, says):
    with pytest.raises(ValueError, match=says):
        draw_overlay(picture, map, low=low, high=high)


def test_range_leaves_normal_texture_cold_and_the_threshold_coloured():
    rng = np.random.default_rng(0)
    maps = rng.uniform(0.1, 0.3, (6, 32, 32)).astype(np.float16)
    maps[4:, 8:12, 8:12] = 1.0
    low, high = heat_range(maps, np.array([0, 0, 0, 0, 1, 1]), threshold=0.9)
    assert 0.25 < low < 0.3
    assert high == pytest.approx(low + 2 * (0.9 - low), abs=1e-3)
    constant = heat_range(np.zeros((2, 4, 4), np.float16), np.zeros(2))
    assert constant[0] == 0.0 and constant[1] == 1.0


def test_outlines_follow_regions_and_keep_thin_ones():
    mask = np.zeros((400, 400), dtype=bool)
    mask[100, 50:350] = True  # one pixel wide: area averaging at 100 px would lose it
    path = mask_outline(mask, (100, 100))
    points = np.array([point.split() for point in path.strip("MZ").replace("M", "L").split("L")], dtype=float)
    assert 12 <= points[:, 0].min() <= 13 and 87 <= points[:, 0].max() <= 88
    assert points[:, 1].min() >= 24.5 and points[:, 1].max() <= 26.5
    assert mask_outline(np.zeros((9, 9), bool), (9, 9)) == ""
    assert map_outline(hot_corner(), (60, 40), 2.0) == ""
    assert map_outline(hot_corner(), (60, 40), float("nan")) == ""
    assert map_outline(hot_corner(), (60, 40), 0.5).startswith("M")


def test_eight_bit_blending_stays_within_two_levels_of_floats():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    map = rng.uniform(-0.2, 1.2, (40, 60)).astype(np.float32)
    heat = map.clip(0, 1).astype(np.float64)
    colour, alpha = HEAT[np.round(255 * heat).astype(int)].astype(float), (0.8 * heat * (2 - heat))[..., None]
    exact = picture + (colour - picture) * alpha
    assert np.abs(draw_overlay(picture, map, low=0.0, high=1.0) - exact).max() <= 2.5
