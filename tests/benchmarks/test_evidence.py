"""The table of arms: what is run, what is kept, what the page says of it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import evidence
import evidence_page
import runs
import tables

from bikd_fast.config import to_dict
from bikd_fast.config_checks import check
from bikd_fast.report.contents import flat

JOB = runs.Job(12.5, 900, 0.4)


def run_folder(path, auroc=0.9, categories=("nut", "tiles")):
    path.mkdir(parents=True)
    each = {
        name: {
            "image_auroc": auroc + 0.05 * i,
            "aupro": None,
            "kinds": {"crack": {"image_auroc": 0.5 + 0.5 * i}},
            "training": {"seconds": 10.0 + i, "peak_memory_mb": 800 + i, "diagnostics": {"held_out": {"drift": 0.25}}},
            "diagnostics": {"defect": 0.5},
        }
        for i, name in enumerate(categories)
    }
    (path / "metrics.json").write_text(json.dumps({"categories": each, "mean": {"image_auroc": auroc + 0.025}}))
    versions = dict.fromkeys(("torch", "triton", "timm", "deepspeed"), "1")
    about = {"versions": versions, "ranks": 2, "threads": 1, "device": "some", "python": "3"}
    (path / "environment.json").write_text(json.dumps(about))
    return path


def test_rows_are_a_category_each_and_their_mean(tmp_path):
    rows = runs.rows_of(run_folder(tmp_path / "run"), JOB)
    assert [row["category"] for row in rows] == ["nut", "tiles", "mean"]
    assert rows[2]["auroc:crack"] == 0.75 and rows[2]["train_seconds"] == 21.0 and rows[2]["train_peak_mb"] == 801
    assert rows[0]["held_out:drift"] == 0.25 and rows[0]["test:defect"] == 0.5 and rows[0]["seconds"] == 12.5


def test_what_the_trainings_took_together_is_not_known_where_one_was_interrupted(tmp_path):
    run = run_folder(tmp_path / "run")
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["categories"]["tiles"]["training"]["seconds"] = None
    (run / "metrics.json").write_text(json.dumps(metrics))
    rows = runs.rows_of(run, JOB)
    assert [row["train_seconds"] for row in rows] == [10.0, None, None] and rows[2]["train_peak_mb"] == 801


def test_a_row_names_the_processor_of_a_cpu_run_and_the_gpu_as_it_is(monkeypatch):
    monkeypatch.setattr(runs, "device_name", {"cpu": "some processor"}.__getitem__)
    versions = dict.fromkeys(("torch", "triton", "timm", "deepspeed"), "1")
    about = {"versions": versions, "ranks": 1, "threads": 1, "python": "3"}
    for device, expected in (("", "some processor"), (runs.platform.machine(), "some processor"), ("some GPU", "some GPU")):
        assert runs.about_run(JOB, about | {"device": device})["device"] == expected


def test_a_csv_grows_by_columns_and_keeps_its_rows(tmp_path):
    path = tmp_path / "x.csv"
    runs.append(path, [{"a": 1, "b": 0.25}])
    runs.append(path, [{"a": 2, "c": float("nan")}, {"c": "x, y"}])
    assert runs.read(path) == [
        {"a": "1", "b": "0.25", "c": ""}, {"a": "2", "b": "", "c": ""}, {"a": "", "b": "", "c": "x, y"},
    ]  # fmt: skip


def test_every_arm_can_work_and_no_two_are_alike():
    settings = [evidence.settings(arm, []) for arm in evidence.ARMS]
    for i, run in enumerate(settings):
        check(run)
        assert run not in settings[:i], list(evidence.ARMS)[i]
    assert evidence_page.WHAT.keys() == evidence.ARMS.keys()


def test_an_arm_that_differs_after_training_takes_up_what_another_has_trained(tmp_path):
    others = ["half-steps", "no-head", "no-mahalanobis", "channel-weights", "discrepancy", "bikd"]
    assert evidence.trained_alike("no-fill", others, []) == ["half-steps", "no-mahalanobis", "channel-weights"]
    assert evidence.trained_alike("no-head", ["bikd", "discrepancy"], []) == ["discrepancy"]
    run, done = tmp_path / "run", tmp_path / "done"
    (done / "nut/checkpoints").mkdir(parents=True)
    for step in ("step-1", "step-2"):
        (done / "nut/checkpoints" / step).touch()
        evidence.take_up(run, done)
    assert [str(p.relative_to(run)) for p in run.rglob("step-*")] == ["nut/checkpoints/step-1"]  # then it had begun


def test_most_arms_have_half_of_the_steps_asked_for(tiny_mvtec):
    passed = ["--data.format", "mvtec", "--data.root", str(tiny_mvtec), "--training.steps", "7"]
    assert [evidence.settings(arm, passed).training.steps for arm in ("bikd", "half-steps", "shared", "rd")] == [7, 3, 3, 7]
    assert evidence.describe(passed) == (f"mvtec:{tiny_mvtec.name}", "", "--training.steps 7")


def test_what_is_in_the_table_is_not_run_again(tmp_path, monkeypatch):
    started = []

    def fake(words, jobs):
        arm_and_seed = Path(words[words.index("--output") + 1])
        started.append(arm_and_seed.name.rsplit("-", 1)[0])
        if "f-only-seed1" in arm_and_seed.name and started.count("f-only-seed1") == 1:
            raise evidence.subprocess.CalledProcessError(1, "make")
        run_folder(arm_and_seed)
        return JOB

    monkeypatch.setattr(evidence, "launch", fake)
    monkeypatch.setattr(evidence, "check_same_set", lambda *_: None)  # of the folders that `fake` leaves
    words = ["evidence", "--arms", "bikd", "f-only", "--seeds", "0", "1", "--output", str(tmp_path / "e.csv")]
    monkeypatch.setattr(sys, "argv", [*words, "--folder", str(tmp_path / "runs"), "--training.steps", "7"])
    with pytest.raises(SystemExit, match="f-only seed 1"):
        evidence.main()
    assert started == ["bikd-seed0", "f-only-seed0", "bikd-seed1", "f-only-seed1"]
    evidence.main()  # what failed is tried again, what is there is kept
    assert started[4:] == ["f-only-seed1"] and not list((tmp_path / "runs").iterdir())
    rows = runs.read(tmp_path / "e.csv")
    assert len(rows) == 12 and {row["options"] for row in rows} == {"--training.steps 7"}


@pytest.mark.parametrize(
    ("ours", "base", "beyond"),
    [
        ([0.95, 0.96], [0.90, 0.91], True),
        ([0.95, 0.85], [0.90, 0.91], False),  # one sign each
        ([0.92, 0.94, 0.96], [0.91, 0.93, 0.95], False),  # the same sign, but smaller than the spread
        ([0.95], [0.90], False),
    ],
)
def test_what_exceeds_the_seed_noise(ours, base, beyond):
    assert evidence_page.exceeds([a - b for a, b in zip(ours, base)], ours, base) == beyond


def differences(arm, against):
    """Names of the settings in which two arms differ."""
    ours, theirs = (set(flat(to_dict(evidence.settings(name, [])))) for name in (arm, against))
    return {key for key, _ in ours - theirs}


def test_every_arm_is_compared_once_and_with_what_it_differs_from_in_one_thing():
    run = list(evidence.ARMS)
    found = {against: (title, arms) for title, against, arms in evidence_page.comparisons(run)}
    assert list(found) == ["bikd", "half-steps"] and found["bikd"][0] == "bikd"
    assert "f-only" in found["bikd"][1] and "bikd" not in found["bikd"][1]
    assert {"no-div", "no-fill", "no-head", "shared"} <= set(found["half-steps"][1])
    assert sorted(arm for _, arms in found.values() for arm in arms) == sorted(set(run) - {"bikd"})
    for against, (_, arms) in found.items():
        for arm in arms:
            if evidence.ARMS[arm][0] == "bikd" and "discrepancy" not in arm:  # these lack two parts at once
                assert len(differences(arm, against)) == 1, (arm, against, differences(arm, against))
    assert differences("discrepancy", "half-steps") == {"model.head", "model.mahalanobis"}
    assert differences("f-only-discrepancy", "discrepancy") == {"objective.beta"}
    assert evidence_page.comparisons(["bikd"]) == []


def test_the_page_names_what_was_not_run_and_shows_other_options_apart(tmp_path, monkeypatch):
    rows = []
    for arm, seed, auroc in (("bikd", 0, 0.90), ("bikd", 1, 0.91), ("rd", 0, 0.80), ("rd", 1, 0.82), ("bank", 0, 0.95)):
        about = {"data": "textures", "categories": "", "options": "", "arm": arm, "seed": seed}
        rows += [about | row for row in runs.rows_of(run_folder(tmp_path / f"{arm}{seed}", auroc), JOB)]
    rows += [row | {"arm": "rd", "data": "old", "commit": min(evidence_page.BEFORE_DENTS)} for row in rows if row["arm"] == "rd"]
    rows += [row | {"arm": "stpm", "options": "--training.steps 7"} for row in rows[:3]]
    runs.append(tmp_path / "e.csv", rows)
    monkeypatch.setattr(evidence_page, "PAGE", tmp_path / "page.md")
    evidence_page.write(runs.read(tmp_path / "e.csv"), ["bikd", "rd", "stpm", "bank"])
    whole = (tmp_path / "page.md").read_text()
    page, old = whole.split("## old")
    old, trial = old.split("## textures, with `--training.steps 7`")
    assert "| stpm |" in trial and "| bikd |" not in trial and "Not run: bikd, rd, bank." in trial
    assert "kind of defect is, on any" not in page and "- bikd: crack on nut (50.0 ± 0.0)" in page
    assert "what is published on MVTec AD" not in page
    assert "because measured before there were any, in rd: not those of bikd." in old
    assert "Not run: stpm." in page
    assert "| **bikd** | the defaults: both directions, without L_con | 93.0 ± 0.7 |" in page
    assert "because measured before" not in page
    assert "| rd | -9.50 |  |  | in image AUROC |" in page and "| bank | +5.00 |  |  | one seed: not judged |" in page


def test_published_figures_stand_beside_ours_of_the_same_data_set_only(tmp_path):
    rows = []
    for arm, names in (("stpm", ("bottle", "cable")), ("no-head", ("bottle", "cable"))):
        about = {"data": "mvtec:x", "categories": "", "options": "", "arm": arm, "seed": "0"}
        rows += [about | row for row in runs.rows_of(run_folder(tmp_path / arm, 0.9, names), JOB)]
    runs.append(tmp_path / "e.csv", rows)
    said = "\n\n".join(evidence_page.section(runs.read(tmp_path / "e.csv"), ["stpm", "no-head"]))
    assert "| stpm | 92.5 |  |  | 95.5 | 97.0 | 92.8 | ResNet18 |\n\nOurs is of 2 of the 15 categories." in said
    assert "published" in said and "| no-head | 92.5 |  |  | 9" not in said
    other = [row | {"category": "nut"} if row["category"] == "cable" else row for row in runs.read(tmp_path / "e.csv")]
    assert "published" not in "\n\n".join(evidence_page.section(other, ["stpm", "no-head"]))


def test_two_data_sets_of_one_name_are_not_mixed(tiny_mvtec):
    passed = ["--data.format", "mvtec", "--data.root", str(tiny_mvtec)]
    described = evidence.describe(passed)
    row = {"data": described[0], "categories": ""}
    same = [row | {"category": name} for name in ("dots", "stripes", "mean")]
    evidence.check_same_set(same, described, passed)
    with pytest.raises(SystemExit, match=r"other categories \(nut\)"):
        evidence.check_same_set([*same, row | {"category": "nut"}], described, passed)


def test_the_lint_is_the_same_where_a_training_has_left_its_folder(tmp_path):
    """ruff takes a folder `runs` for a package of the project; then the import of benchmarks/runs.py stood in the wrong place."""
    root, benchmarks = Path(__file__).parents[2], tmp_path / "benchmarks"
    for folder in (benchmarks, tmp_path / "runs"):
        folder.mkdir()
    (tmp_path / "bikd_fast").symlink_to(root / "bikd_fast")
    for name in ("pyproject.toml", "benchmarks/evidence.py"):
        shutil.copy(root / name, tmp_path / name)
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "--no-cache", str(benchmarks)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_readme_shows_the_defaults_on_all_categories_alone():
    row = {"arm": "bikd", "data": "textures", "categories": "", "options": ""}
    others = [row | {"categories": "nut"}, row | {"options": "--training.steps 7"}, row | {"arm": "rd"}, row | {"data": "mvtec:x"}]
    assert tables.shown([row, *others]) == [row]
