"""Options of an evaluation that only one call in a hundred uses."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_detector import make_picture

from bikd_fast import evaluate as command
from bikd_fast.arguments import parse_run, run_parser
from bikd_fast.config import ConfigError, DataConfig
from bikd_fast.data import Category, DataError, Sample
from bikd_fast.data.cache import scratch
from bikd_fast.inference import evaluation
from bikd_fast.inference.evaluation import evaluate_category
from bikd_fast.inference.run import evaluate_run
from bikd_fast.models.detector import DetectorError


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
    for name in ("held", "large"):
        (tmp_path / name).mkdir()
    return Category("stripes", [], samples)


def test_aupimo_is_measured_where_it_is_asked_for(detector, category, tmp_path):
    plain = evaluate_category(detector, category, DataConfig(), tmp_path)
    more = evaluate_category(detector, category, DataConfig(), tmp_path, aupimo=True)
    assert "aupimo" not in plain and 0 <= more["aupimo"] <= 1
    each = [image["aupimo"] for image in more["images"] if image["label"]]
    assert len(each) == 3 and np.mean(each) == pytest.approx(more["aupimo"])
    assert more["kinds"]["red"]["aupimo"] == pytest.approx(more["aupimo"])


def test_test_pictures_that_are_left_out_are_named(detector, category, tmp_path, capsys):
    (tmp_path / "2.png").write_bytes(b"")
    Image.new("L", (9, 9)).save(tmp_path / "3_mask.png")
    found = evaluate_category(detector, category, DataConfig(on_bad_image="skip"), tmp_path)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == len(found["skipped"]) == 2 and len(found["images"]) == 4
    assert said[0] == f"stripes: not measured, skipped {tmp_path}/2.png: {found['skipped'][0]['reason']}"
    assert "3_mask.png: the mask has 9 x 9 pixels" in said[1]


def test_the_command_passes_it_on(monkeypatch):
    asked = {}
    monkeypatch.setattr("bikd_fast.inference.run.evaluate_run", lambda run, **options: asked.update(options, run=run))
    assert command.main(["runs/x", "--aupimo", "--no-report"]) == 0
    assert asked == {"run": Path("runs/x"), "report": False, "aupimo": True}


def test_settings_that_are_no_text_name_their_file(tmp_path):
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=rf"{tmp_path}/config\.yaml: no text in UTF-8"):
        evaluate_run(tmp_path)
    with pytest.raises(ConfigError, match=rf"config: {tmp_path}/config\.yaml: no text"):
        parse_run(run_parser("test", ""), ["--seed", "1", f"--config={tmp_path}/config.yaml"])


def test_a_test_set_larger_than_memory_is_measured_to_the_same_bit(detector, category, tmp_path, monkeypatch):
    cache, files = tmp_path / "cache", []
    monkeypatch.setattr(evaluation, "scratch", lambda *given: files.append(given) or scratch(*given))
    held = evaluate_category(detector, category, DataConfig(), tmp_path / "held")
    assert not files
    large = evaluate_category(detector, category, DataConfig(cache_gb=1e-6, cache_dir=str(cache)), tmp_path / "large")
    assert large == held
    assert files == [(cache, (6, 64, 64))]
    assert [p.suffix for p in sorted(cache.iterdir()) if not p.name.startswith(".")] == [".json", ".npy"]  # the maps' file is gone
    for name in ("held", "large"):
        assert (tmp_path / name / "predictions.npz").is_file()
    one, two = (np.load(tmp_path / name / "predictions.npz") for name in ("held", "large"))
    assert all(np.array_equal(one[key], two[key]) for key in one.files)


def test_maps_without_room_are_one_clear_error(tmp_path, monkeypatch):
    def full(descriptor: int, offset: int, count: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(DataError, match=r"cache: 4\.0 GB of maps can't be written \(No space left on device\)"):
        scratch(tmp_path / "cache", (1000, 1000, 1000))


def test_pictures_that_have_moved_are_told_by_the_file_that_says_where_they_were(tmp_path):
    (tmp_path / "config.yaml").write_text("data:\n  format: mvtec\n  root: pictures\n")
    with pytest.raises(DetectorError, match=r"config.yaml: data.root: pictures is no folder below /.*Write into that file"):
        evaluate_run(tmp_path)
