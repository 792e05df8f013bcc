"""Heat maps of an evaluation: one a picture whatever the pictures are called, and none of an earlier one."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tiny_detector import make_picture

from bikd_fast.data import Sample
from bikd_fast.inference.evaluation import draw_heatmaps
from bikd_fast.inference.heatmaps import heatmap_names
from bikd_fast.inference.runner import Outputs
from bikd_fast.inference.shares import Share


def sample(path: str, kind: str = "good") -> Sample:
    return Sample(Path(path), None, int(kind != "good"), kind)


def test_names_are_plain_where_they_can_be_and_never_the_same():
    assert heatmap_names([sample("x/a.png"), sample("x/b.png"), sample("x/a.png", "hole")]) == [
        "good_a.jpg", "good_b.jpg", "hole_a.jpg",
    ]  # fmt: skip
    alike = [sample("a.png"), sample("a.jpg"), sample("A.bmp")]
    assert heatmap_names(alike) == ["good_a.png.jpg", "good_a.jpg.jpg", "good_A.bmp.jpg"]
    hard = [sample(name) for name in ("x/a.png", "y/a.png", "a.png-2.png", "b.png", "B.PNG")] + [sample("b.png", "good_b")]
    names = heatmap_names(hard)
    assert len({name.lower() for name in names}) == len(hard)
    assert names == heatmap_names(hard)


def test_pictures_of_one_stem_are_both_drawn_and_old_maps_go(detector, tmp_path):
    pictures = [tmp_path / "a.png", tmp_path / "a.bmp"]
    for i, path in enumerate(pictures):
        Image.fromarray(make_picture(i)).save(path)
    folder = tmp_path / "heatmaps"
    folder.mkdir()
    (folder / "good_gone.jpg").write_bytes(b"of an earlier evaluation")
    (folder / "notes.txt").write_text("somebody's own")
    maps = torch.rand(2, 64, 64, generator=torch.Generator().manual_seed(0))
    draw_heatmaps(folder, [sample(str(p)) for p in pictures], np.arange(2), Outputs(maps, maps.amax((1, 2))), detector)
    assert sorted(p.name for p in folder.iterdir()) == ["good_a.bmp.jpg", "good_a.png.jpg", "notes.txt"]
    one, two = (np.asarray(Image.open(folder / f"good_a.{kind}.jpg")).astype(int) for kind in ("png", "bmp"))
    assert one.shape == two.shape == (80, 100, 3) and np.abs(one - two).mean() > 5


def test_a_rank_without_a_picture_of_its_own_draws_nothing(detector, tmp_path):
    """More ranks than test pictures; what it collects are the rows of the others."""
    Image.fromarray(make_picture(0)).save(tmp_path / "a.png")
    others, sent = [np.zeros((1, 64, 64), np.float32), np.zeros(1, np.float32)], []

    class Third(Share):
        def collect(self, rows, places):
            sent.append(rows)
            return others[len(sent) - 1]

    nothing = Outputs(torch.empty(0, 64, 64), torch.empty(0))
    draw_heatmaps(tmp_path / "heatmaps", [sample(str(tmp_path / "a.png"))], np.arange(0), nothing, detector, Third(2, 3))
    assert [rows.shape for rows in sent] == [(0, 64, 64), (0,)] and not list((tmp_path / "heatmaps").iterdir())
