"""The second test set: training and test windows share no pixel, and a defect changes its picture where its mask says so."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import surfaces


@pytest.fixture(scope="module")
def ground():
    return np.random.default_rng(0).uniform(0.2, 0.8, (surfaces.SOURCE, surfaces.SOURCE, 3))


def test_training_windows_see_the_left_half_only(ground):
    other = ground.copy()
    other[:, surfaces.SOURCE // 2 :] = 0
    for test, same in ((False, True), (True, False)):
        drawn = [surfaces.window(g, np.random.default_rng(1), test) for g in (ground, other)]
        assert np.array_equal(*drawn) is same
    other = ground.copy()
    other[:, : surfaces.SOURCE // 2] = 0
    drawn = [surfaces.window(g, np.random.default_rng(1), True) for g in (ground, other)]
    assert np.array_equal(*drawn)


@pytest.mark.parametrize("kind", list(surfaces.KINDS))
def test_every_kind_changes_the_picture_inside_its_mask(ground, kind):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        good = surfaces.window(ground, rng, True)
        damaged, mask = surfaces.KINDS[kind](good, rng, [ground[::-1].copy()])
        change = abs(damaged - good).max(2)
        assert 10 < mask.sum() < 0.2 * mask.size
        assert change[mask].mean() > 0.02
        assert change[~mask].sum() < 0.2 * change[mask].sum()
