import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from make_run import make_run

from bikd_fast.data import decode_mask
from bikd_fast.metrics import evaluate, mean_metrics, threshold_at_false_alarm_rate, to_json
from bikd_fast.report import write_report


class Reader(HTMLParser):
    """Tags with their attributes, and the visible text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.hidden = "", False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.hidden = tag in ("script", "style")

    def handle_endtag(self, tag):
        self.hidden = False

    def handle_data(self, data):
        self.text += "" if self.hidden else data + " "


def read(run) -> Reader:
    return Reader((run / "report.html").read_text("utf-8"))


def text(run) -> str:
    return re.sub(r"\s+", " ", read(run).text)


def scores(run) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', (run / "report.html").read_text("utf-8"), re.S).group(1))


def change(run, **arrays) -> None:
    with np.load(run / "predictions.npz") as data:
        kept = dict(data)
    kept |= arrays
    np.savez(run / "predictions.npz", **{key: value for key, value in kept.items() if value is not None})


@pytest.fixture
def small(tmp_path):
    """A run of one category, to be changed."""
    return make_run(tmp_path, categories=("brick",), normals=3, defects=3, side=64, map_side=16)


def test_page_says_what_the_run_holds(run):
    page = text(run)
    assert "10 of 12 defects caught , 2 missed . 2 false alarms among 12 good pictures." in page
    assert "All 24 test pictures are shown." in page
    assert "Image AUROC" in page and "96.00" in page and "91.00" in page
    assert "Not defined: AUPRO of gravel: the run records no reason." in page
    assert "chosen for a false-alarm rate of at most 5 % on 40 held-out normal pictures." in page
    assert "At most 4.88% of new ones" in page or "at most 4.88% of new ones" in page
    assert "drawn from the display copies (48 px, float16), the figure from full resolution" in page
    assert "tf_efficientnet_lite0" in page and "0123abc" in page and "machine.cpu" in page
    assert "terms.div" in page and "pictures per second" in page
    assert "What this page cannot show" not in page


def test_page_is_one_file_that_asks_for_nothing(run):
    page = read(run)
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;") and "script-src 'sha256-" in policy
    for tag, attributes in page.tags:
        for name in ("src", "href", "data", "poster", "action", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, name, value[:80])
        assert not any(name.startswith("on") for name in attributes)
        assert tag not in ("link", "iframe", "object", "embed", "base") or attributes.get("href") == "data:,"
    assert "url(" not in (run / "report.html").read_text("utf-8")
    assert (run / "report.html").stat().st_size < 10_000_000


def test_same_files_give_the_same_bytes(run):
    before = (run / "report.html").read_bytes()
    assert write_report(run) == run / "report.html"
    assert (run / "report.html").read_bytes() == before
    assert not list(run.glob("*.part"))


def test_all_scores_are_listed(run):
    data = scores(run)
    assert [len(group["rows"]) for group in data["categories"]] == [12, 12]
    with np.load(run / "brick" / "predictions.npz") as found:
        assert [row[4] for row in data["categories"][0]["rows"]] == pytest.approx(found["score"].tolist(), rel=1e-6)
        assert [data["prefix"] + row[0] for row in data["categories"][0]["rows"]] == found["path"].tolist()


def test_hostile_names_stay_text(small):
    evil = "</script><img src=x onerror=alert(1)>\"'&"
    with np.load(small / "predictions.npz") as found:
        paths, kinds = found["path"], found["kind"]
    change(small, path=np.array([f"{path}{evil}" for path in paths]), kind=np.array([kind + evil for kind in kinds]))
    (small / "config.yaml").write_text(f"name: {evil}\n# {evil}\nplain {evil}\n")
    (small / "environment.json").write_text(json.dumps({evil: evil}))
    (small / "metrics.json").write_text(json.dumps({"categories": {evil: {"image_auroc": 0.5, evil: evil}}}))
    (small / "log.jsonl").write_text(json.dumps({"step": 1, evil: 1.0}) + "\n")
    write_report(small)
    page = read(small)
    assert not any("onerror" in attributes or attributes.get("src") == "x" for _, attributes in page.tags)
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert evil in page.text
    assert scores(small)["kinds"] == sorted({kind + evil for kind in kinds.tolist()})


def test_moved_data_set_gives_a_note_and_the_heat_maps(small, tmp_path):
    shutil.move(tmp_path / "data", tmp_path / "elsewhere")
    write_report(small)
    page = text(small)
    assert "6 of 6 gallery pictures could not be read" in page
    assert "no pixel curves, a ground-truth mask could not be read" in page
    assert "Image ROC" in page and "Pixel ROC" not in page
    images = [attributes["class"] for tag, attributes in read(small).tags if tag == "img"]
    assert images == ["heat"] * 6


def test_relative_paths_are_found_from_the_run(small, tmp_path):
    with np.load(small / "predictions.npz") as found:
        paths = [path.replace(str(tmp_path), "..") for path in found["path"].tolist()]
        masks = [path.replace(str(tmp_path), "..") for path in found["mask_path"].tolist()]
    change(small, path=np.array(paths), mask_path=np.array(masks))
    write_report(small)
    assert "could not be read" not in text(small)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("config.yaml", "config.yaml is missing: the configuration is not shown."),
        ("metrics.json", "metrics.json is missing: there is no table of exact metrics."),
        ("environment.json", "environment.json is missing: versions, machine and commit are not shown."),
        ("log.jsonl", "brick: log.jsonl is missing: no training curves."),
        ("predictions.npz", "brick: predictions.npz is missing: no scores, curves or pictures."),
    ],
)
def test_what_is_missing_or_damaged_is_said(small, name, says):
    (small / name).unlink()
    write_report(small)
    assert says.removeprefix("brick: ") in text(small)
    (small / name).write_bytes(b"\x00\xff{not it")
    write_report(small)
    page = text(small)
    assert "could not be read" in page or "are not JSON objects" in page or name == "config.yaml"


def test_pickled_predictions_are_not_loaded(small):
    change(small, kind=np.array([{"a": 1}] * 6, dtype=object))
    write_report(small)
    assert re.search(r"predictions.npz could not be read \(.*allow_pickle", text(small))


def test_a_log_cut_short_keeps_its_whole_lines(small):
    whole = (small / "log.jsonl").read_text()
    (small / "log.jsonl").write_text(whole + '{"step": 999, "lo')
    write_report(small)
    page = text(small)
    assert "log.jsonl: 1 line(s) are not JSON objects and were left out." in page
    assert "pictures per second" in page


def test_no_threshold_judges_nothing(small):
    change(small, threshold=np.float32(np.nan))
    write_report(small)
    page = text(small)
    assert "6 test pictures scored; no threshold is recorded, so none is called right or wrong." in page
    assert "not judged" in page and "caught" not in page.split("Pictures")[1]


def test_undefined_metrics_carry_their_reason(small):
    change(small, label=np.zeros(6, np.uint8), mask_path=np.array([""] * 6))
    (small / "metrics.json").write_text('{"categories": {"brick": {"image_auroc": NaN, "aupro": null}}, "mean": {}}')
    write_report(small)
    assert "Not defined: Image AUROC, AUPRO of brick: no test picture has a defect." in text(small)


def test_skipped_pictures_and_absent_masks_are_named(small):
    change(small, mask_path=np.array([""] * 6), threshold=np.float32(np.nan))
    entry = {
        "aupro": None,
        "skipped": [{"path": "bad.png", "reason": "cut short"}],
        "threshold": {"method": "none", "promise": "No held-out pictures: no threshold was chosen."},
    }
    (small / "metrics.json").write_text(json.dumps({"categories": {"brick": entry}}))
    write_report(small)
    page = text(small)
    assert "AUPRO of brick: 3 of 3 defective test pictures have no ground-truth mask." in page
    assert "brick: bad.png was left out of the evaluation: cut short" in page
    assert (
        "This run records no threshold: pictures are ranked, but not called right or wrong. No held-out pictures"
        in page
    )


def test_what_the_metrics_write_is_understood(small):
    with np.load(small / "predictions.npz") as found:
        maps, kinds, labels = found["map"].astype(np.float32), found["kind"].tolist(), found["label"]
        masks = [decode_mask(path, None) if path else np.zeros((64, 64), bool) for path in found["mask_path"].tolist()]
    result = evaluate(list(maps), masks, labels=labels, kinds=kinds, curves=50)
    change(small, pixel_threshold=np.float32(0.625))
    result["threshold"] = threshold_at_false_alarm_rate(np.linspace(0, 0.5, 40), 0.05).to_dict()
    (small / "metrics.json").write_text(to_json({"categories": {"brick": result}, "mean": mean_metrics([result])}))
    write_report(small)
    page = text(small)
    assert f"AUPRO {100 * result['aupro']:.2f} %" in page and "display copies" not in page
    assert f"{100 * result['kinds']['hole']['pixel_auroc']:.2f}" in page
    assert "chosen for a false-alarm rate of at most 5 % on 40 held-out normal pictures." in page
    assert result["threshold"]["promise"].rstrip(".") in page
    assert "Maps are outlined at a threshold of their own, 0.625." in page
    assert "about.regions" in page and "Not defined" not in page


def test_nan_scores_and_missing_maps_are_said(small):
    score = np.array([0.1, np.nan, 0.9, 0.8, 0.7, np.inf], dtype=np.float32)
    change(small, score=score, map=None, mask_path=None)
    write_report(small)
    page = text(small)
    assert "1 score(s) are NaN" in page and "no maps in predictions.npz" in page
    assert "3 of 3 defective pictures have no ground-truth mask" in page
    assert [row[4] for row in scores(small)["categories"][0]["rows"]][1] is None


def test_a_broken_map_is_said_and_spoils_no_other(small):
    with np.load(small / "predictions.npz") as found:
        maps = found["map"]
    maps[0] = np.nan
    change(small, map=maps, threshold=np.float32(np.inf))
    write_report(small)
    page = text(small)
    assert page.count("map contains NaN") == 1
    assert "0 of 3 defects caught , 3 missed" in page
    assert [a["class"] for tag, a in read(small).tags if tag == "img"].count("heat") == 5


def test_drawing_loads_no_heavy_library():
    code = (
        "import sys; from bikd_fast.report import draw_overlay;"
        "print([name for name in ('torch', 'deepspeed', 'ray', 'matplotlib', 'skimage', 'timm') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_size_stays_under_ten_megabytes(tmp_path):
    run = make_run(tmp_path, categories=("brick",), normals=2, defects=2, side=64, map_side=16)
    rng = np.random.default_rng(0)
    count = 50_000
    change(
        run,
        path=np.array([f"{rng.integers(1 << 60):x}/{at}/{'x' * 150}.png" for at in range(count)]),
        kind=np.array(["good", "bad"] * (count // 2)),
        label=np.array([0, 1] * (count // 2), np.uint8),
        score=rng.random(count).astype(np.float32),
        map=None,
        mask_path=None,
    )
    write_report(run)
    assert (run / "report.html").stat().st_size < 10_000_000
    assert re.search(r"of the first [\d,]+; all 50,000 are in predictions.npz", text(run))


def test_no_run_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run folder at"):
        write_report(tmp_path / "nothing")
    with pytest.raises(ValueError, match="is not a run folder: it holds no config"):
        write_report(tmp_path)


def test_category_names_never_lead_outside_the_run(small, tmp_path):
    (tmp_path / "secret").mkdir()
    shutil.copy(small / "predictions.npz", tmp_path / "secret")
    (small / "predictions.npz").unlink()
    (small / "metrics.json").write_text('{"categories": {"../secret": {"image_auroc": 0.5}}}')
    write_report(small)
    assert "predictions.npz is missing" in text(small)


@pytest.mark.parametrize(("metrics", "says"), [
    ('{"categories": ["x"]}', "metrics.json: categories is no object"),
    ('{"categories": {"brick": 5}, "mean": 5}', "metrics.json: no metrics of brick"),
    ('{"categories": {"brick": {"skipped": 5}}}', "brick"),
    ('{"categories": {"%s": {}}}' % ("a" * 300), "brick"),
    ('{"categories": {"brick": {"image_auroc": %s}}}' % ("9" * 400), "brick"),
], ids=["list", "numbers", "skipped", "long name", "long number"])  # fmt: skip
def test_metrics_of_another_form_cost_no_page(small, metrics, says):
    (small / "metrics.json").write_text(metrics)
    write_report(small)
    assert says in text(small)


@pytest.mark.parametrize("arrays", [{"map": np.full((6, 4, 4), "x")}, {"score": np.ones((6, 2))}, {"label": np.ones((6, 2))}],
                         ids=["text", "scores", "labels"])  # fmt: skip
def test_arrays_of_another_form_are_said(small, arrays):
    change(small, **arrays)
    write_report(small)
    assert "predictions.npz could not be read (its labels, scores and maps are not numbers of each picture)" in text(small)


def test_numbers_too_large_to_draw_are_left_out(small):
    values = ("1e308", "-1e308", "9" * 400)
    (small / "log.jsonl").write_text("".join(f'{{"step": {i}, "loss": {value}}}\n' for i, value in enumerate(values)))
    write_report(small)
    assert "could not be read" not in text(small)
