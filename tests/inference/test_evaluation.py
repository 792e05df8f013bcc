"""Options of an evaluation that only one call in a hundred uses."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_detector import make_picture

from bikd_fast import evaluate as command
from bikd_fast.config import DataConfig
from bikd_fast.data import Category, Sample
from bikd_fast.inference.evaluation import evaluate_category


@pytest.fixture
def category(tmp_path: Path) -> Category:
    """Three good pictures and three with a red rectangle."""
    samples = []
    for i in range(6):
        path = tmp_path / f"{i}.png"
        Image.fromarray(make_picture(i)).save(path)
        if i % 2:
            mask = np.zeros((80, 100), np.uint8)
            mask[20:40, 30:60] = 255
            Image.fromarray(mask).save(tmp_path / f"{i}_mask.png")
        samples.append(Sample(path, tmp_path / f"{i}_mask.png" if i % 2 else None, i % 2, "red" if i % 2 else "good"))
    return Category("stripes", [], samples)


def test_aupimo_is_measured_where_it_is_asked_for(detector, category, tmp_path):
    plain = evaluate_category(detector, category, DataConfig(), tmp_path)
    more = evaluate_category(detector, category, DataConfig(), tmp_path, aupimo=True)
    assert "aupimo" not in plain and 0 <= more["aupimo"] <= 1
    each = [image["aupimo"] for image in more["images"] if image["label"]]
    assert len(each) == 3 and np.mean(each) == pytest.approx(more["aupimo"])
    assert more["kinds"]["red"]["aupimo"] == pytest.approx(more["aupimo"])


def test_the_command_passes_it_on(monkeypatch):
    asked = {}
    monkeypatch.setattr("bikd_fast.inference.run.evaluate_run", lambda run, **options: asked.update(options, run=run))
    assert command.main(["runs/x", "--aupimo", "--no-report"]) == 0
    assert asked == {"run": Path("runs/x"), "report": False, "aupimo": True}
