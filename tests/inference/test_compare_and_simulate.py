"""`bikd compare` and `bikd simulate` as a user meets them."""

import json

import numpy as np
import pytest
import yaml
from PIL import Image

from bikd_fast import compare, simulate
from bikd_fast.errors import guarded
from bikd_fast.metrics import evaluate, mean_metrics, to_json
from bikd_fast.simulation.kinds import KINDS


def make_metrics(folder, shift, categories=("one", "two")):
    """metrics.json of a made-up detector: anomalous pictures score higher by ``shift``."""
    found = {}
    for number, name in enumerate(categories):
        rng = np.random.default_rng(number)
        labels = np.arange(40) % 2
        masks = np.zeros((40, 16, 16), bool)
        masks[labels == 1, 4:9, 4:9] = True
        maps = rng.normal(0, 1, (40, 16, 16)) + shift * masks
        scores = rng.normal(0, 1, 40) + shift * labels
        found[name] = evaluate(list(maps), list(masks), scores=scores, labels=labels.tolist())
    folder.mkdir(exist_ok=True)
    (folder / "metrics.json").write_text(to_json({"categories": found, "mean": mean_metrics(list(found.values()))}))
    return folder


def test_the_table_and_its_numbers(tmp_path, capsys):
    runs = [make_metrics(tmp_path / name, shift) for name, shift in (("weak", 0.5), ("strong", 2.0), ("same", 0.5))]
    words = ["--json", str(tmp_path / "out.json"), "--resamples", "200"]
    assert compare.main([*map(str, runs), *words]) == 0
    text = capsys.readouterr().out
    found = json.loads((tmp_path / "out.json").read_text())
    strong, same = found["runs"]
    known = [json.loads((run / "metrics.json").read_text())["categories"]["two"]["image_auroc"] for run in runs]
    row = strong["categories"]["two"]["image_auroc"]
    assert (row["a"], row["b"]) == (known[0], known[1]) and row["low"] < row["difference"] < row["high"]
    assert row["low"] > 0 and f"{100 * row['difference']:+.2f}" in text and "Image AUROC" in text
    assert same["mean"]["aupro"]["difference"] == 0 and same["mean"]["aupro"]["better"] == 0.5
    lines = [line for line in text.split(str(runs[2]))[1].splitlines() if "AUPRO" in line]
    assert len(lines) == 3 and all("+0.00 to +0.00" in line and "*" not in line for line in lines)
    assert any("*" in line for line in text.split(str(runs[2]))[0].splitlines()[2:])


def test_runs_that_cannot_be_compared(tmp_path, capsys):
    one, other = make_metrics(tmp_path / "a", 1), make_metrics(tmp_path / "b", 1, ("three",))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/metrics.json").write_text('{"categories"')
    (tmp_path / "short").mkdir()
    short = json.loads((one / "metrics.json").read_text())
    short["categories"]["one"]["images"].pop()
    (tmp_path / "short/metrics.json").write_text(json.dumps(short))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/metrics.json").write_text('{"categories": {"one": {"images": []}}}')
    assert guarded(lambda: compare.main([str(tmp_path / "empty")] * 2)) == 2
    assert "no pictures were evaluated" in capsys.readouterr().err
    for second, message in (
        (other, "share no category"),
        (tmp_path, "no metrics.json there"),
        (tmp_path / "damaged", "not readable"),
        (tmp_path / "short", "40 and 39 pictures"),
    ):
        assert guarded(lambda second=second: compare.main([str(one), str(second)])) == 2
        err = capsys.readouterr().err
        assert message in err and str(second) in err and len(err.strip().splitlines()) == 1
    with pytest.raises(SystemExit):
        compare.main([str(one)])


def test_a_sheet_of_simulated_defects(pictures, tmp_path, capsys):
    words = [str(pictures), "--sheet", str(tmp_path / "sheet.png"), "--rows", "4", "--size", "64"]
    assert simulate.main(words) == 0
    drawn = np.asarray(Image.open(tmp_path / "sheet.png"))
    left = drawn[:64, 8:72].astype(int) if drawn.shape[0] == 2 * 68 else None
    assert left is not None and drawn.shape[1] == 2 * (4 * 68 + 8) and left.std() > 5
    assert simulate.main([*words[:2], str(tmp_path / "other.png"), *words[3:], "--seed", "1"]) == 0
    assert not np.array_equal(drawn, np.asarray(Image.open(tmp_path / "other.png")))
    for bad, message in ((["nowhere.png"], "no such file"), (["-"], "no lists")):
        assert guarded(lambda bad=bad: simulate.main([*bad, "--sheet", str(tmp_path / "x.png")])) == 2
        assert message in capsys.readouterr().err
    assert guarded(lambda: simulate.main([*words, "--config", str(tmp_path / "none.yaml")])) == 2
    assert guarded(lambda: simulate.main([words[0], "--sheet", str(tmp_path / "nowhere/x.png"), *words[3:]])) == 2


def test_a_sheet_shows_what_a_run_was_trained_with(tmp_path, capsys):
    good, red, sheet = tmp_path / "good", tmp_path / "red", tmp_path / "sheet.png"
    for folder, colour, count in ((good, (100, 100, 100), 5), (red, (255, 0, 0), 1)):
        folder.mkdir()
        for i in range(count):
            Image.new("RGB", (70, 80), colour).save(folder / f"{i}.png")
    kinds, sources = dict.fromkeys(KINDS, 0.0) | {"blend": 1.0}, {"picture": 0.0, "texture": 1.0, "shuffle": 0.0}
    simulation = {"kinds": kinds, "sources": sources, "foreground": False, "opacity": [1.0, 1.0]}

    def drawn(*words, **data):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({"data": {"image_size": 96, **data}, "simulation": simulation}))
        code = guarded(lambda: simulate.main([str(good), "--sheet", str(sheet), *words, "--config", str(tmp_path / "config.yaml")]))
        return code, capsys.readouterr()

    def redness(size):
        pixels = np.asarray(Image.open(sheet)).astype(int)
        assert pixels.shape[:2] == (2 * (size + 4), 2 * (4 * (size + 4) + 8))  # four samples, two a line
        return (pixels[..., 0] - pixels[..., 1:].max(-1)).max()

    assert drawn("--rows", "4")[1].out.endswith("4 samples from 5 pictures\n") and redness(96) < 100
    assert drawn("--rows", "4", "--textures", str(red))[0] == 0 and redness(96) > 100
    assert drawn("--rows", "4", textures=str(red))[0] == 0 and redness(96) > 100
    assert drawn("--rows", "4", "--size", "64", textures=str(red))[0] == 0 and redness(64) > 100
    sheet.unlink()
    for words, data in ((("--textures", str(tmp_path / "none")), {}), ((), {"textures": str(tmp_path / "none")})):
        code, said = drawn(*words, **data)
        assert code == 2 and str(tmp_path / "none") in said.err and len(said.err.strip().splitlines()) == 1
    assert not sheet.exists()
