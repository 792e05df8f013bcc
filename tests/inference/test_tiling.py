"""Tiles: the weights sum to one, one tile is the plain prediction, seams cannot be seen, memory is the tiles'."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_detector import make_picture

from bikd_fast.errors import UserError
from bikd_fast.inference import tiling
from bikd_fast.inference.tiling import Tiling, axis, look_tiled, tiles_of


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 16), st.integers(2, 16), st.floats(0, 0.5))
def test_weights_cover_every_pixel_once(length, sides, sizes, overlap):
    side, size = 32 * sides, 32 * sizes
    grid = axis(length, side, size, overlap)
    total = np.zeros(grid.map_starts[-1] + size)
    for start, row in zip(grid.map_starts, grid.weights):
        total[start : start + size] += row
    assert grid.map_length <= len(total)
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert grid.starts[0] == 0 and grid.starts[-1] + side >= length
    for one, two in zip(grid.starts, grid.starts[1:]):
        assert 0 < two - one <= side
    for start, map_start in zip(grid.starts, grid.map_starts):
        assert start * size == map_start * side  # whole pixels in both: blending needs no interpolation
    if len(grid.starts) > 1:
        assert grid.starts[-1] < length


def whole(picture):
    return torch.from_numpy(picture).permute(2, 0, 1)


def test_one_tile_is_the_plain_prediction(detector):
    for side in (64, 128):
        picture = make_picture(1, side, side)
        anomaly, score = look_tiled(detector, whole(picture), Tiling(side))
        plain = detector.predict(picture)
        torch.testing.assert_close(anomaly, plain.maps[0])
        assert score == pytest.approx(plain.scores.item(), rel=1e-6)


def test_blending_is_the_weighted_mean_of_the_tiles(detector):
    """Against a plain loop over whole maps with the same weights."""
    picture = whole(make_picture(1, 150, 211))
    cut = Tiling(96, overlap=0.4, batch=3)
    found, score = look_tiled(detector, picture, cut)
    down, across = axis(150, 96, 64, 0.4), axis(211, 96, 64, 0.4)
    padded = np.pad(picture.numpy(), ((0, 0), (0, 96), (0, 96)), mode="symmetric")
    total = torch.zeros(down.map_starts[-1] + 64, across.map_starts[-1] + 64)
    for i, top in enumerate(down.starts):
        for j, left in enumerate(across.starts):
            tile = padded[:, top : top + 96, left : left + 96].transpose(1, 2, 0)
            weights = torch.from_numpy(np.outer(down.weights[i], across.weights[j]))
            y, x = down.map_starts[i], across.map_starts[j]
            total[y : y + 64, x : x + 64] += weights * detector.predict(tile).maps[0]
    assert found.shape == (100, 141)
    torch.testing.assert_close(found, total[:100, :141], rtol=1e-4, atol=1e-5)
    assert score == pytest.approx(found.max().item())
    assert len(list(tiles_of(150, 211, cut, 64))) == len(down.starts) * len(across.starts) > 4


def test_no_seam(detector, monkeypatch):
    """Maps that differ from tile to tile by one constant blend into a ramp, without a step."""
    level = iter(range(100))

    def steps(_, tiles):
        for _tile in tiles:
            yield torch.full((1, 64, 64), float(next(level))), torch.zeros(1)

    monkeypatch.setattr(tiling, "run_batches", steps)
    found, _ = look_tiled(detector, torch.zeros(3, 64, 400, dtype=torch.uint8), Tiling(64, overlap=0.5))
    rise = found.diff(dim=1)
    assert found[0, 0] == 0 and found.max() >= 10
    assert rise.min() >= -1e-5 and rise.max() < 0.06  # pi / 2 over 32 pixels at the steepest; a hard seam is 1


def test_small_pictures_are_mirrored_not_stretched(detector):
    picture = make_picture(2, 40, 64)
    anomaly, _ = look_tiled(detector, whole(picture), Tiling(64))
    mirrored = np.pad(picture, ((0, 24), (0, 0), (0, 0)), mode="symmetric")
    torch.testing.assert_close(anomaly, detector.predict(mirrored).maps[0][:40])


def test_the_network_sees_no_more_than_a_batch_of_tiles(detector, monkeypatch):
    seen = []
    real = tiling.run_batches

    def watched(detector, tiles):
        seen.append((len(tiles), tiles[0].shape))
        return real(detector, tiles)

    monkeypatch.setattr(tiling, "run_batches", watched)
    look_tiled(detector, whole(make_picture(3, 300, 520)), Tiling(64, batch=4))
    assert max(n for n, _ in seen) == 4 and {shape for _, shape in seen} == {(3, 64, 64)}


@pytest.mark.parametrize("side, overlap, message", [(100, 0.25, "--tile 100"), (0, 0.25, "--tile 0"), (64, 0.7, "--overlap 0.7")])
def test_settings_that_cannot_work_are_refused(side, overlap, message):
    with pytest.raises(UserError, match=message):
        Tiling(side, overlap)
