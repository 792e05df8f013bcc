"""The gate: a file that judges otherwise is not handed out; and the resize that travels inside."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_detector import make_picture

from bikd_fast import export
from bikd_fast.data import fit
from bikd_fast.errors import guarded
from bikd_fast.exporting import export as exporting
from bikd_fast.exporting import formats, parity
from bikd_fast.exporting.errors import ExportError
from bikd_fast.exporting.formats import Format
from bikd_fast.exporting.resize import Resize


def runner(detector, change):
    """What an exported file would give, changed."""

    def run(squares):
        known = detector.predict(squares)
        found = {"score": known.scores.numpy().copy(), "map": known.maps.numpy().copy(), "anomalous": known.labels.numpy().copy()}
        change(found)
        return found

    return run


def shift(by):
    def change(found):
        found["score"][0] *= 1 + by

    return change


def flip(found):
    found["anomalous"][-1] ^= True


def broken(found):
    found["score"][1] = np.nan


def test_parity_measures_the_largest_difference_and_every_flip(detector, pictures):
    paths = sorted(pictures.glob("*/*.png"))
    assert parity.compare(detector, runner(detector, shift(0)), paths).passed
    small = parity.compare(detector, runner(detector, shift(5e-4)), paths)
    assert small.passed and small.largest_score == pytest.approx(5e-4, rel=0.01) and small.pictures == 10
    large = parity.compare(detector, runner(detector, shift(-2e-3)), paths)
    assert not large.passed and large.worst in map(str, paths)
    flipped = parity.compare(detector, runner(detector, flip), paths)
    assert not flipped.passed and flipped.label_flips == [str(paths[7]), str(paths[9])]  # the last of each batch
    assert not parity.compare(detector, runner(detector, broken), paths).passed


FAILURES = [(shift(2e-3), "a score differs by 2.00e-03"), (flip, "2 of 10 labels flip"), (broken, "inf")]


@pytest.mark.parametrize("change, message", FAILURES)
def test_a_file_that_fails_is_not_left_behind(change, message, run, detector, pictures, tmp_path, monkeypatch, capsys):
    fake = Format(".onnx", lambda module, path, _: path.write_bytes(b"x"), lambda path: runner(detector, change))
    monkeypatch.setitem(formats.FORMATS, "onnx", fake)
    path = tmp_path / "d.onnx"
    path.write_bytes(b"the export of yesterday")
    words = [str(run / "stripes"), "--output", str(path), "--pictures", str(pictures)]
    assert guarded(lambda: export.main(words)) == 2
    assert message in capsys.readouterr().err
    assert path.read_bytes() == b"the export of yesterday" and [p.name for p in tmp_path.iterdir()] == ["d.onnx"]


def test_without_pictures_there_is_no_export(run, detector, pictures, tmp_path, capsys):
    assert guarded(lambda: export.main([str(run / "stripes")])) == 2
    assert "Give a folder with --pictures DIR" in capsys.readouterr().err
    words = [str(run / "stripes"), "--pictures", str(pictures), "--picture-size", "50", "60"]
    with pytest.raises(ExportError, match="no picture of 60 x 50 pixels"):
        parity.compare(detector, runner(detector, flip), sorted(pictures.glob("*/*.png")), (50, 60))
    assert guarded(lambda: export.main([*words[:2], str(tmp_path)])) == 2
    with pytest.raises(SystemExit):
        export.main([*words, "--output", str(tmp_path / "d.xml")])


@pytest.mark.parametrize("size", [("0", "5"), ("5", "-1")])
def test_pictures_without_a_size_are_refused(size, run, pictures, tmp_path, capsys):
    words = [str(run / "dots"), "--pictures", str(pictures), "--output", str(tmp_path / "x.onnx"), "--picture-size", *size]
    assert guarded(lambda: export.main(words)) == 2
    assert f"error: --picture-size {' '.join(size)}: height and width must be at least 1 pixel" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_pictures_of_a_run_are_those_nearest_the_threshold_and_some_of_the_rest(tmp_path, monkeypatch):
    monkeypatch.setattr(parity, "MOST", 8)
    paths = []
    for i in range(30):
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / f"{i:02}.png")
        paths.append(str(tmp_path / f"{i:02}.png"))
    np.savez(tmp_path / "predictions.npz", path=np.array([*paths, "/gone.png"]), score=np.arange(31, dtype=np.float32))
    chosen = [int(p.stem) for p in parity.run_pictures(tmp_path, tmp_path, 20.2)]
    assert len(set(chosen)) == 8 and set(chosen) >= {19, 20, 21} and min(chosen) < 5


def test_tensorrt_where_it_is_not_says_what_to_do(run, pictures, tmp_path, capsys):
    try:
        import tensorrt  # noqa: F401
    except ImportError:
        words = [str(run / "stripes"), "--format", "tensorrt", "--pictures", str(pictures), "--output", str(tmp_path / "d.engine")]
        assert guarded(lambda: export.main(words)) == 2
        assert "TensorRT is not installed here" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_missing_package_is_named(detector, pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(ExportError, match=r"needs onnxscript: pip install 'bikd_fast\[export\]'"):
        exporting.export_detector(detector, "onnx", tmp_path / "d.onnx", sorted(pictures.glob("*/*.png")))


@pytest.mark.parametrize("height, width, size", [(80, 100, 64), (64, 200, 64), (33, 47, 64), (301, 97, 64), (1024, 700, 256)])
def test_the_resize_inside_is_the_resize_of_training(height, width, size):
    noise = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    known = fit(noise, size).float()
    found = Resize(height, width, size)(noise.float())
    difference = (found - known).abs()
    assert difference.max() <= 1 and (difference > 0).float().mean() < 1e-3
    picture = torch.from_numpy(make_picture(1, height, width)).permute(2, 0, 1)[None]
    assert (Resize(height, width, size)(picture.float()) - fit(picture, size)).abs().max() <= 1


def test_a_folder_under_the_name_of_the_file_is_told(run, pictures, tmp_path, capsys):
    (tmp_path / "x.onnx").mkdir()
    words = [str(run / "dots"), "--pictures", str(pictures), "--output", str(tmp_path / "x.onnx")]
    assert guarded(lambda: export.main(words)) == 2
    assert "x.onnx: a folder. Name the file to write." in capsys.readouterr().err and not list((tmp_path / "x.onnx").iterdir())


def test_a_damaged_table_of_predictions_gives_way_to_the_others(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "0.png")
        np.savez(tmp_path / name / "predictions.npz", path=np.array([str(tmp_path / name / "0.png")]), score=np.ones(1))
    damaged = tmp_path / "a/predictions.npz"
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert parity.run_pictures(tmp_path, tmp_path, 0.5) == [tmp_path / "b/0.png"]
