"""`bikd predict` as a user meets it."""

import csv
import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_detector import make_detector, make_picture

from bikd_fast import predict
from bikd_fast.errors import UserError, guarded
from bikd_fast.inference.sources import SourceError, expand
from bikd_fast.report.overlay import resize_map


def rows(folder):
    with (folder / "scores.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_files_of_a_run(run, detector, pictures, tmp_path, capsys):
    words = ["--category", "stripes", "--write", "all", "--output", str(tmp_path), "--device", "cpu"]
    code = predict.main([str(run), str(pictures), *words])
    paths = sorted(pictures.glob("*/*.png"))
    known = detector.predict(paths)
    found = rows(tmp_path)
    assert code == 0 and [r["path"] for r in found] == [str(p) for p in paths]
    assert [float(r["score"]) for r in found] == pytest.approx(known.scores.tolist(), rel=1e-5)
    assert [r["label"] for r in found] == ["anomalous" if x else "normal" for x in known.labels]
    assert {(r["width"], r["height"], r["error"]) for r in found} == {("100", "80", "")}
    assert [float(r["anomalous_share"]) for r in found] == pytest.approx(known.masks.float().mean((1, 2)).tolist(), abs=1e-3)

    described = json.loads((tmp_path / "scores.json").read_text())
    assert described["threshold"] == detector.threshold.item() and described["categories"] == ["stripes"]
    entry = described["pictures"][3]
    assert entry["score"] == pytest.approx(known.scores[3].item(), rel=1e-5) and entry["path"] == str(paths[3])
    mask = np.asarray(Image.open(tmp_path / entry["mask"])) > 0
    assert np.array_equal(mask, resize_map(known.maps[3].numpy(), 100, 80) >= known.pixel_threshold) and mask.any()
    assert Image.open(tmp_path / entry["heatmap"]).size == (100, 80)
    assert sum(r["area"] for r in entry["regions"]) == pytest.approx(mask.sum(), rel=0.15)
    assert (tmp_path / "heatmaps/a/3.jpg").is_file() and (tmp_path / "masks/b/4.png").is_file()

    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 10 and str(paths[0]) in out
    assert "10 pictures: 5 anomalous, 5 normal" in err


def test_nothing_is_written_unasked(run, pictures, tmp_path, capsys):
    assert predict.main([str(run / "dots"), str(pictures / "a/0.png"), "--write", "csv", "--output", str(tmp_path)]) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["scores.csv"]
    nowhere = f"{pictures}/a/0.png/x"  # where no folder can be made
    assert predict.main([str(run / "dots"), str(pictures / "a/0.png"), "--write", "none", "--output", nowhere]) == 0


def test_an_unreadable_picture_does_not_end_the_rest(run, pictures, tmp_path, capsys):
    bad = tmp_path / "bad.png"
    bad.write_bytes((pictures / "a/1.png").read_bytes()[:200])
    given = [str(pictures / "a/0.png"), str(bad), str(pictures / "a/1.png")]
    code = predict.main([str(run), *given, "--category", "stripes", "--output", str(tmp_path / "out"), "--write", "all"])
    found = rows(tmp_path / "out")
    assert code == 1 and [bool(r["error"]) for r in found] == [False, True, False]
    assert "bad.png" in found[1]["error"] and found[1]["label"] == "unknown" and found[1]["score"] == ""
    assert json.loads((tmp_path / "out/scores.json").read_text())["pictures"][1]["error"] == found[1]["error"]
    assert "1 unreadable" in capsys.readouterr().err


def test_standard_input_globs_and_equal_names(pictures, tmp_path):
    listed = io.StringIO(f"{pictures}/a/0.png\n\n{pictures}/b/0.png\r\nnowhere.png\n")
    found = expand(["-"], stdin=listed)
    sources = list(found.sources)
    assert found.live and found.count is None
    assert [s.name for s in sources] == [f"{pictures}/a/0.png", f"{pictures}/b/0.png", "nowhere.png"]
    assert [s.stem for s in sources] == ["0", "0-2", "nowhere"]
    with pytest.raises(UserError, match=r"nowhere\.png"):
        sources[2].read()

    globbed = expand([f"{pictures}/*/[01].png"])
    assert globbed.count == 4 and [s.stem for s in globbed.sources] == ["0", "1", "0-2", "1-2"]

    for name in ("x.png", "x.jpg", "x-2.png"):
        Image.fromarray(make_picture(0)).save(tmp_path / name)
    (tmp_path / ".hidden.png").write_bytes(b"")
    stems = [s.stem for s in expand([str(tmp_path)]).sources]
    assert sorted(stems) == sorted(set(stems)) and len(stems) == 3  # no output overwrites another


def test_a_name_that_starts_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    for name in ("~draft.png", "home/a.png"):
        Image.fromarray(make_picture(0)).save(name)
    assert [s.name for s in expand(["~draft.png", "~/a.png"]).sources] == ["~draft.png", str(tmp_path / "home/a.png")]


def test_names_that_are_not_utf8(run, pictures, tmp_path, monkeypatch, capsys):
    name = tmp_path / os.fsdecode(b"\xff.png")
    name.write_bytes((pictures / "a/0.png").read_bytes())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(os.fsencode(name) + b"\n"), encoding="utf-8"))
    words = [str(run / "dots"), "-", str(name), "--write", "all", "--output", str(tmp_path / "out")]
    assert guarded(lambda: predict.main(words)) == 0
    assert capsys.readouterr().out.count(r"\udcff.png") == 2
    assert [r["path"] for r in rows(tmp_path / "out")] == [rf"{tmp_path}/\udcff.png"] * 2
    entries = json.loads((tmp_path / "out/scores.json").read_text())["pictures"]
    assert [e["path"] for e in entries] == [str(name)] * 2 and all((tmp_path / "out" / e["mask"]).is_file() for e in entries)


def test_links_are_followed_and_globs_match_folders(tmp_path):
    good, other = tmp_path / "good", tmp_path / "other"
    for path in (good / "day/0.png", good / "day/.hidden/h.png", good / "1.png", other / "2.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(make_picture(0)).save(path)
    for name, target in (("a loop", good), ("a twin", good / "day"), ("link", other), ("link.png", good / "1.png")):
        (good / name).symlink_to(target)
    (other / "back").symlink_to(good)
    (good / "gone.png").symlink_to(good / "nothing")
    names = [Path("1.png"), Path("day/0.png"), Path("link/2.png"), Path("link.png")]
    assert [s.name for s in expand([str(good)]).sources] == [str(good / name) for name in sorted(names)]
    for pattern in (f"{good}/*", f"{good}/**", f"{good}/**/*.png", f"{tmp_path}/**/*.png", f"{tmp_path}/g*"):
        found = expand([pattern])
        names = [Path(s.name) for s in found.sources]
        assert found.count == 4 and {name.name for name in names} == {"1.png", "0.png", "2.png", "link.png"}


def test_a_folder_that_cannot_be_looked_into_is_not_passed_over(tmp_path, monkeypatch):
    for name in ("a/0.png", "secret/1.png"):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(make_picture(0)).save(tmp_path / name)
    scandir = os.scandir

    def guarded_scandir(path):
        if Path(path).name == "secret":
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded_scandir)  # permissions do not stop root
    for pattern in (tmp_path, f"{tmp_path}/*", f"{tmp_path}/**", f"{tmp_path}/**/*.png"):
        found = list(expand([str(pattern)]).sources)
        assert [s.name for s in found] == [f"{tmp_path}/a/0.png", f"{tmp_path}/secret"], pattern
    (alone,) = expand([f"{tmp_path}/secret"]).sources
    assert alone.stem == "secret"
    with pytest.raises(UserError, match="/secret: "):
        alone.read()


@pytest.mark.parametrize("place", ["results", "."])
def test_own_results_among_the_pictures_are_not_looked_at(run, tmp_path, place):
    Image.fromarray(make_picture(1)).save(tmp_path / "1.png")
    for words in ([str(tmp_path)], [str(tmp_path)], [f"{tmp_path}/**"], [f"{tmp_path}/[1hmr]*"]):
        assert predict.main([str(run / "dots"), *words, "--write", "all", "--output", str(tmp_path / place)]) == 0
        assert [r["path"] for r in rows(tmp_path / place)] == [str(tmp_path / "1.png")], words
    drawn = tmp_path / place / "heatmaps"
    assert [s.name for s in expand([str(drawn)], without=[drawn]).sources] == [str(drawn / "1.jpg")]  # as it was named
    (tmp_path / "1.png").unlink()
    with pytest.raises(SourceError, match="no pictures there but those that this command itself draws"):
        expand([str(tmp_path)], without=[drawn, tmp_path / place / "masks"])


@pytest.mark.parametrize(
    "words, message",
    [
        (["nowhere"], "nowhere: no such file"),
        (["*.nothing"], "no file matches"),
        (["EMPTY"], "no pictures in this folder"),
        (["~no-such-user/a.png"], r"~no-such-user/a\.png: no such home folder"),
        (["x" * 300 + ".png"], "xx.png: no such file"),
        (["x" * 300 + ".mp4"], "xx.mp4: no such file"),
    ],
)
def test_inputs_that_are_not_there(words, message, tmp_path):
    with pytest.raises(SourceError, match=message):
        expand([str(tmp_path) if w == "EMPTY" else w for w in words])


def test_errors_are_one_line(run, pictures, tmp_path, capsys):
    picture = str(pictures / "a/0.png")
    for arguments, message in (
        ([str(run), picture], "choose one with --category: dots, stripes"),
        ([str(run), picture, "--category", "cats"], "no detector of category 'cats'; there are: dots, stripes"),
        ([str(run / "dots"), picture, "--category", "cats"], "a detector of dots, not of 'cats'"),
        ([str(tmp_path), picture], "no detector.safetensors there"),
        ([str(run / "dots"), picture, "--device", "cuda:99"], "--device cuda:99: not usable here"),
        ([str(run / "dots"), picture, "--device", "meta"], "--device meta: computes nothing"),
        ([str(run / "dots"), picture, "--tile", "100"], "multiple of 32"),
        ([str(run / "dots"), picture, "--tile", "0"], "--tile 0: the side of a tile must be a multiple of 32"),
        ([str(run / "dots"), picture, "--output", f"{pictures}/a/0.png/x"], "cannot be written to"),
    ):
        assert guarded(lambda arguments=arguments: predict.main(arguments)) == 2
        err = capsys.readouterr().err.strip()
        assert err.startswith("error: ") and message in err and len(err.splitlines()) == 1
    for words in (["--write", "everything"], ["--every", "0"], ["--batch", "0"], ["--overlap", "0.4"]):
        with pytest.raises(SystemExit):
            predict.main([str(run / "dots"), picture, *words])
        assert words[0] in capsys.readouterr().err.splitlines()[-1]


def test_a_disk_that_is_full_is_said(run, pictures, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device", "somewhere.jpg")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(UserError, match=r"somewhere\.jpg.*No space left"):
        predict.main([str(run / "dots"), str(pictures), "--output", str(tmp_path)])


def test_a_detector_without_threshold_says_unknown(pictures, tmp_path, capsys):
    make_detector().save(tmp_path / "plain.safetensors")
    arguments = [str(tmp_path / "plain.safetensors"), str(pictures / "a"), "--write", "all", "--output", str(tmp_path / "out")]
    assert predict.main(arguments) == 0
    assert {r["label"] for r in rows(tmp_path / "out")} == {"unknown"}
    entry = json.loads((tmp_path / "out/scores.json").read_text())
    assert entry["threshold"] is None and entry["pictures"][0]["regions"] is None
    assert "mask" not in entry["pictures"][0] and not (tmp_path / "out/masks").exists()
    err = capsys.readouterr().err
    assert "no verdicts: made up for a test." in err and err.count("no masks and no regions") == 1


@pytest.mark.parametrize("met", [True, False])
def test_a_promise_that_falls_short_is_said(pictures, tmp_path, capsys, met):
    made = make_detector(threshold=1.0)
    made.about["threshold"] |= {"met": met}
    made.save(tmp_path / "plain.safetensors")
    predict.main([str(tmp_path / "plain.safetensors"), str(pictures / "a"), "--write", "none"])
    assert ("threshold: made up for a test." in capsys.readouterr().err) is not met


def test_tiles_find_what_the_detector_finds_in_parts(run, detector, tmp_path):
    picture = make_picture(1, 192, 320)
    Image.fromarray(picture).save(tmp_path / "large.png")
    words = ["--tile", "64", "--overlap", "0", "--output", str(tmp_path / "out"), "--write", "all"]
    assert predict.main([str(run / "stripes"), str(tmp_path / "large.png"), *words]) == 0
    (found,) = rows(tmp_path / "out")
    tiles = [picture[y : y + 64, x : x + 64] for y in (0, 64, 128) for x in range(0, 320, 64)]
    assert float(found["score"]) == pytest.approx(detector.predict(tiles).scores.max().item(), rel=1e-5)
    assert Image.open(tmp_path / "out/masks/large.png").size == (320, 192)


_LIGHT = """
import sys
from bikd_fast.cli import main
code = main()
heavy = [name for name in ("deepspeed", "ray", "matplotlib", "fastapi", "onnx", "av", "skimage", "sklearn") if name in sys.modules]
print("heavy:", heavy, "code:", code)
"""


@pytest.mark.e2e
def test_the_command_loads_neither_deepspeed_nor_ray(run, pictures, tmp_path):
    words = ["predict", str(run), str(pictures / "a"), "--category", "dots", "--output", str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", _LIGHT, *words], capture_output=True, text=True, timeout=120)
    assert "heavy: [] code: 0" in done.stdout, done.stdout + done.stderr
    assert done.stdout.count("a/") >= 5 and "Traceback" not in done.stderr


def test_a_name_with_a_line_break_stays_one_line(run, tmp_path, capsys):
    Image.fromarray(make_picture(0)).save(tmp_path / "a\nb.png")
    (tmp_path / "c\nd.png").write_text("no picture")
    assert predict.main([str(run / "dots"), str(tmp_path), "--write", "none", "--device", "cpu"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[0].endswith("a\\x0ab.png") and "c\\x0ad.png" in lines[1]
