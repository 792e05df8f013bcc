"""Filling of maps: against scikit-image's own operators, and on shapes whose answer is known."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, grey_dilation, grey_erosion
from skimage.morphology import reconstruction
from tiny_detector import make_detector

from bikd_fast.config import MapConfig
from bikd_fast.models.filling import added, closed


def octagon(square: int, rhombus: int) -> np.ndarray:
    reach = square + rhombus
    y, x = np.abs(np.mgrid[-reach : reach + 1, -reach : reach + 1])
    return np.maximum(y - square, 0) + np.maximum(x - square, 0) <= rhombus


def ring(radius: int, gap: int = 0) -> torch.Tensor:
    """A circle of height 1 in 64 x 64, open to the right over ``gap`` rows."""
    y, x = np.mgrid[:64, :64] - 31.5
    there = np.abs(np.hypot(y, x) - radius) < 1.5
    return torch.from_numpy(there & ~((np.abs(y) < gap / 2) & (x > 0))).float()[None]


@pytest.mark.parametrize("seed", range(3))
def test_it_is_a_closing_and_a_hole_filling(seed):
    rng = np.random.default_rng(seed)
    noise = np.stack([gaussian_filter(rng.normal(size=(64, 64)), s) for s in (1.5, 3)]).astype(np.float32)
    maps = torch.from_numpy(noise)
    for given, exact, near in zip(noise, closed(maps, reach=600).numpy(), closed(maps).numpy()):
        wide = np.pad(given, 8, constant_values=-9)  # outside there is nothing
        bridged = grey_erosion(grey_dilation(wide, footprint=octagon(3, 4)), footprint=octagon(3, 4))[8:-8, 8:-8]
        marker = bridged.copy()
        marker[1:-1, 1:-1] = bridged.max()
        known = reconstruction(marker, bridged, method="erosion")
        assert np.mean(known > given) > 0.3 and np.abs(exact - known).max() < 1e-6
        assert (near >= exact).all() and np.mean(near == exact) > 0.7  # half a side is not far enough for every path through noise


def test_values_are_never_lowered_and_never_exceed_the_highest():
    maps = torch.randn(4, 32, 48, generator=torch.Generator().manual_seed(0))
    found = closed(maps)
    assert found.shape == maps.shape and (found >= maps).all() and torch.equal(found.amax((1, 2)), maps.amax((1, 2)))


def test_what_is_enclosed_is_filled_and_what_is_open_is_not():
    whole, narrow, wide = closed(ring(20)), closed(ring(20, gap=9)), closed(ring(20, gap=22))
    assert whole[0, 31, 31] == 1 and narrow[0, 31, 31] == 1  # a gap narrower than the disk is bridged
    assert wide[0, 31, 31] == 0
    assert all(found[0, 2, 2] == 0 for found in (whole, narrow, wide))
    ramp = torch.arange(64.0).expand(1, 64, 64)
    assert torch.equal(closed(ramp), ramp)


def test_what_is_added_is_soft_and_reaches_the_ring_itself():
    """A disk of 1 inside the ring, 0 outside it, averaged over 5 x 5."""
    found = added(ring(20))[0]
    assert found[31, 31] == 1 and found[2, 2] == 0 and (found >= 0).all() and found.max() == 1
    on_ring = found[ring(20)[0] > 0]
    assert 0.1 < on_ring.mean() < 0.6 and not added(torch.zeros(1, 16, 16)).any()


@pytest.mark.parametrize("side", [1, 2, 3, 16])
def test_maps_of_any_size(side):
    flat = torch.full((2, side, side), -3.0)
    assert torch.equal(closed(flat), flat)


def test_a_detectors_map_is_filled_where_it_is_asked_to():
    plain, more = (make_detector(map_config=MapConfig(fill=fill)) for fill in (False, True))
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    (a, score_a), (b, score_b) = plain(pictures), more(pictures)
    assert torch.allclose(plain.filled(a), b, atol=1e-6) and not torch.equal(a, b)
    assert (b >= a - 1e-6).all() and torch.allclose(score_b, b.amax((1, 2))) and torch.allclose(score_a, a.amax((1, 2)))
