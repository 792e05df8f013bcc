"""The second test set: training and test windows share no pixel, and a defect changes its picture where its mask says so."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import surfaces

from bikd_fast.data import has_masks, load_masks, open_dataset


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


def test_what_is_written_is_a_category_in_mvtecs_layout(ground, tmp_path, monkeypatch):
    for name, count in (("GOOD", 3), ("TEST_GOOD", 2), ("EACH", 1)):
        monkeypatch.setattr(surfaces, name, count)
    surfaces.write(tmp_path / "noise", "noise", 0, {"noise": ground})
    (found,) = open_dataset("mvtec", tmp_path, ["noise"])
    assert len(found.train) == 3 and sum(s.label == 0 for s in found.test) == 2
    assert {s.kind for s in found.test if s.label} == set(surfaces.KINDS)
    assert has_masks(found.test)
    masks = load_masks(found.test)
    assert all(m.shape == (256, 256) and m.any() == bool(s.label) for m, s in zip(masks, found.test))
    assert len({s.path.read_bytes() for s in [*found.train, *found.test]}) == 5 + len(surfaces.KINDS)  # no picture twice


def test_a_file_lists_the_pictures_and_a_folder_holds_them(ground, tmp_path, monkeypatch):
    for name in ("GOOD", "TEST_GOOD", "EACH"):
        monkeypatch.setattr(surfaces, name, 1)
    (tmp_path / "game").mkdir()
    for name in ("a", "b"):
        surfaces.save(ground if name == "a" else 1 - ground, tmp_path / "game" / f"{name}.png")
    (tmp_path / "list.txt").write_text("one=game/a.png\ntwo=game/b.png\n")
    monkeypatch.setattr(
        "sys.argv", ["surfaces.py", f"@{tmp_path}/list.txt", "--pictures", str(tmp_path), "--output", str(tmp_path / "set")]
    )
    surfaces.main()
    assert [d.name for d in open_dataset("mvtec", tmp_path / "set", ["all"])] == ["one", "two"]
