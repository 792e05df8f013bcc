"""Regions: equal to SciPy's labelling with 8 neighbours, never across images, in a fixed order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from bikd_fast.metrics.regions import find_regions


def by_scipy(masks: list[np.ndarray]) -> np.ndarray:
    """Region of every anomalous pixel of the stack; SciPy numbers by first pixel too."""
    parts, first = [], 0
    for mask in masks:
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        flat = labels.ravel()
        _, start = np.unique(flat[flat > 0], return_index=True)
        rank = np.empty(count, np.int64)
        rank[np.argsort(start)] = np.arange(count)
        parts.append(rank[flat[flat > 0] - 1] + first)
        first += count
    return np.concatenate(parts)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=9).flatmap(lambda s: hnp.arrays(np.bool_, s)),
        min_size=1,
        max_size=4,
    )
)
def test_equals_scipy(masks: list[np.ndarray]) -> None:
    found = find_regions(masks)
    expected = by_scipy(masks)
    np.testing.assert_array_equal(found.region, expected)
    np.testing.assert_array_equal(found.area, np.bincount(expected))
    np.testing.assert_array_equal(found.positives, [m.sum() for m in masks])


@pytest.mark.parametrize("density", [0.02, 0.3, 0.41, 0.5, 0.9])
def test_equals_scipy_on_large_noise(density: float) -> None:
    masks = list(np.random.default_rng(0).random((3, 200, 310)) < density)
    found = find_regions(masks)
    np.testing.assert_array_equal(found.region, by_scipy(masks))
    images = np.repeat(np.arange(3), found.positives)
    np.testing.assert_array_equal(found.image[found.region], images)


def test_spirals_and_combs_take_no_extra_rounds() -> None:
    mask = np.zeros((101, 101), bool)
    mask[::2] = True  # rows, joined alternately at the right and at the left: one long snake
    mask[1::4, -1] = True
    mask[3::4, 0] = True
    comb = np.zeros((50, 101), bool)
    comb[:, ::2] = True
    comb[-1] = True
    found = find_regions([mask, comb])
    np.testing.assert_array_equal(found.area, [mask.sum(), comb.sum()])
    np.testing.assert_array_equal(found.box, [[0, 0, 101, 101], [0, 0, 50, 101]])


def test_bottom_of_one_image_does_not_touch_top_of_the_next() -> None:
    assert find_regions([np.ones((3, 4), bool)] * 3).area.tolist() == [12, 12, 12]


def test_left_and_right_edge_do_not_touch() -> None:
    mask = np.zeros((4, 5), bool)
    mask[:, 0] = mask[:, -1] = True
    narrow = np.ones((2, 1), np.uint8)
    assert find_regions([mask, narrow]).area.tolist() == [4, 4, 2]
