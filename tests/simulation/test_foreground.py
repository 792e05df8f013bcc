import pytest
import torch
from conftest import object_pool, texture_pool

from bikd_fast.simulation import estimate_foreground, sample_keys
from bikd_fast.simulation.foreground import CENTER, draw_places, object_grids, seats


def test_finds_objects_on_a_background() -> None:
    pool, truth = object_pool()
    found = estimate_foreground(pool)
    assert found is not None
    assert found.dtype == torch.bool
    union = (found | truth).flatten(1).sum(1)
    assert ((found & truth).flatten(1).sum(1) / union).min() > 0.85


def test_a_ring_is_filled() -> None:
    pool, truth = object_pool()
    hole = torch.roll(truth, 0)
    inner = torch.nn.functional.avg_pool2d(truth.float().unsqueeze(1), 25, stride=1, padding=12).squeeze(1) > 0.99
    pool = torch.where((hole & inner).unsqueeze(1), 51, pool)
    found = estimate_foreground(pool.byte())
    assert found is not None
    assert found[inner].float().mean() > 0.95


def joints(count: int = 6, size: int = 128):
    """Bright joints between dark tiles: different from the border's median, solid nowhere."""
    x = torch.arange(size)
    line = (x % 32 < 4).float()
    picture = 60 + 120 * torch.maximum(line.view(-1, 1), line.view(1, -1))
    return picture.expand(count, 3, size, size).byte()


@pytest.mark.parametrize("pool", [texture_pool(size=128), joints(), torch.full((3, 3, 128, 128), 90, dtype=torch.uint8)])
def test_surfaces_have_no_foreground(pool) -> None:
    assert estimate_foreground(pool) is None


def test_an_area_that_varies_is_not_believed() -> None:
    small, _ = object_pool(count=4)
    big = torch.nn.functional.interpolate(small.float()[:, :, 24:104, 24:104], size=128).byte()
    tiny = torch.nn.functional.avg_pool2d(small.float(), 2)
    tiny = torch.nn.functional.pad(tiny, (32, 32, 32, 32), value=51.0).byte()
    assert estimate_foreground(small) is not None
    assert estimate_foreground(torch.cat((big, tiny))) is None


def test_objects_are_believed_category_by_category() -> None:
    parts, _ = object_pool(count=4)
    surface = texture_pool(count=8, size=128)
    both = torch.cat((surface[:4], parts, surface[4:]))
    assert estimate_foreground(both) is None  # a third of a mixed set
    groups = torch.tensor([0] * 4 + [1] * 4 + [0] * 4)
    found = estimate_foreground(both, groups)
    assert found is not None and torch.equal(found[4:8], estimate_foreground(parts))
    assert found[:4].all() and found[8:].all()
    assert estimate_foreground(surface, torch.arange(8) % 2) is None


def test_places_are_on_the_object_and_all_over_it() -> None:
    _, truth = object_pool(count=1)
    cumulative = seats(object_grids(truth)).expand(2000, -1)
    y, x = draw_places(sample_keys(0, 0, torch.arange(2000)), CENTER, cumulative, 128)
    assert truth[0][y.round().long(), x.round().long()].all()
    spread = torch.cat((y, x), 1)
    assert (spread.std(0) > 8).all()
    middle = truth[0].nonzero().float().mean(0)
    assert (spread.mean(0) - middle).abs().max() < 3


def test_a_thin_object_still_has_seats() -> None:
    wire = torch.zeros(1, 128, 128, dtype=torch.bool)
    wire[:, 60:66, 20:100] = True
    cumulative = seats(object_grids(wire))
    assert cumulative[0, -1] > 0
    y, _ = draw_places(sample_keys(0, 0, torch.arange(50)), CENTER, cumulative.expand(50, -1), 128)
    assert ((y > 55) & (y < 70)).all()


def test_places_without_an_object_keep_off_the_rim() -> None:
    y, x = draw_places(sample_keys(0, 0, torch.arange(500)), CENTER, None, 256)
    for v in (y, x):
        assert 15 < v.min() < 25
        assert 230 < v.max() < 241
