"""What is refused before a search starts or is taken up, and where it keeps itself. No cluster."""

import json
import re
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest
from locked import another

from bikd_fast.config import ConfigError, DataConfig, RunConfig
from bikd_fast.errors import UserError
from bikd_fast.search.settings import plain
from tune import drive
from tune.search import absolute, main, parse
from tune.space import SPACE, first_points
from tune.state import Options, remember, taken_up

BASE = plain(RunConfig())
OWN = first_points(SPACE, BASE, [])[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "output: name the folder"),
        (["--resume", "nowhere"], "nowhere holds no search"),
        (["--output", "{new}", "--latency"], "two objectives need --searcher optuna"),
        (["--output", "{new}", "--scheduler", "pbt", "--searcher", "optuna"], "pbt changes settings by itself"),
        (["--output", "{new}", "--scheduler", "pbt", "--ranks-per-trial", "2"], "one process a trial"),
        (["--output", "{new}", "--objective", "labelled"], "belong together"),
        (["--output", "{old}"], "holds a search"),
        (["--resume", "{old}", "--seed", "1"], "leave out --seed 1"),
        (["--resume", "{old}", "--trials", "20"], "leave out --trials"),
        (["--resume={old}", "--address=there:1", "--storage=elsewhere"], "leave out --storage"),
        (["--output", "{new}", "--data.format", "mvtec", "--data.root", "{new}"], "no such folder"),
        (["--output", "{new}", "--trials", "0"], "at least 1"),
        (["--output", "{new}", "--categories", "-1"], "categories at least 0"),
    ],
)
def test_mistakes_are_told_before_anything_starts(tmp_path, words, said):
    (tmp_path / "search.json").write_text("{}")
    words = [word.format(new=tmp_path / "new", old=tmp_path) for word in words]
    with pytest.raises(Exception, match=re.escape(said)):
        parse(words)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "damaged"),
        ("[]", "no state"),
        ("{}", "missing 'options'"),
        ('{"options": {"output": "x", "speed": 1}, "base": {}}', "speed"),
        ('{"options": {"output": "x"}, "base": {"model": {"colour": 1}}}', "colour"),
    ],
)
def test_a_damaged_search_is_not_taken_up(tmp_path, content, said):
    (tmp_path / "search.json").write_text(content)
    with pytest.raises(UserError, match=rf"{tmp_path}/search\.json: .*{said}.* another folder"):
        parse(["--resume", str(tmp_path)])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--validation", "{root}"], "validation: .* is the data set itself"),
        (["--validation", "{root}/stripes", "--data.category", "stripes"], "validation: .* is the data set itself, or a part"),
        (["--validation", "{root}/nowhere"], "validation: .*nowhere: no such folder"),
        (["--validation", "{good}"], "needs good pictures and defects with masks"),
        (["--data.holdout", "0.2"], ": 2 good pictures are held out, and judging needs at least 4"),
    ],
    ids=["whole", "part", "nowhere", "unlabelled", "few"],
)
def test_what_no_trial_could_be_judged_by_is_told_before_anything_starts(tiny_mvtec, tmp_path, words, said):
    shutil.copytree(tiny_mvtec / "stripes/train", tmp_path / "good/stripes/train")
    words = [word.format(root=tiny_mvtec, good=tmp_path / "good") for word in words]
    words += ["--objective", "labelled"] if "--validation" in words else []
    with pytest.raises(UserError, match=said):
        parse(["--output", str(tmp_path / "new"), "--data.format", "mvtec", "--data.root", str(tiny_mvtec), *words])
    assert not (tmp_path / "new").exists()


def test_paths_of_the_job_are_of_the_folder_where_the_search_was_started(tmp_path, monkeypatch):
    """Each trial has a folder of its own: a cache below that would be made anew for every one of them."""
    monkeypatch.chdir(tmp_path)
    data = absolute(RunConfig(data=DataConfig(root="parts", textures="other", cache_dir="cache"))).data
    assert [data.root, data.textures, data.cache_dir] == [str(tmp_path / name) for name in ("parts", "other", "cache")]


def test_a_folder_in_which_another_process_searches_is_left_alone(tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new/.lock").write_text("process 7 on node1")
    told = r"another process \(process 7 on node1\) searches in .*new\."
    with another(tmp_path / "new/.lock"), pytest.raises(ConfigError, match=told):
        main(["--output", str(tmp_path / "new")])
    assert [file.name for file in (tmp_path / "new").iterdir()] == [".lock"]


def test_a_storage_keeps_searches_of_one_name_apart_and_is_missed_where_it_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(drive.cluster, "connect", lambda *_: {"CPU": 1.0, "GPU": 0.0})
    monkeypatch.setattr(drive, "plan_of", Mock(side_effect=InterruptedError))  # here it would begin
    places = []
    for where in ("mine", "yours"):
        options = Options(str(tmp_path / where / "found"), storage=str(tmp_path / "storage"))
        with pytest.raises(InterruptedError):
            drive.search(options, BASE, False)
        places.append(drive._place(options, Path(options.output), "trials"))
    assert places[0] != places[1]
    (tmp_path / "yours/found/space.yaml").write_text("")  # of the user's, for another search
    moved = (tmp_path / "yours/found").rename(tmp_path / "moved")
    options, base = taken_up(moved)
    assert options.space is None and drive._place(options, moved, "trials") == places[1]
    with pytest.raises(InterruptedError):  # nothing had begun
        drive.search(options, base, True)
    (moved / "results.jsonl").write_text(json.dumps({"what": "start", "trial": "a", "values": OWN}) + "\n")
    options.storage = None
    with pytest.raises(UserError, match=rf"moved: the search was begun as {tmp_path}/yours/found, .* Move it back"):
        drive.search(options, base, True)
    options.storage = str(tmp_path / "storage")
    with pytest.raises(UserError, match=f"{places[1][0]}/{places[1][1]}: holds nothing of this search"):
        drive.search(options, base, True)


@pytest.mark.parametrize(("done", "code", "said"), [(False, 130, "interrupted; "), (True, 1, "no trial came to a result")], ids=str)
def test_interrupted_before_any_result_is_no_search_without_results(tiny_mvtec, tmp_path, monkeypatch, capsys, done, code, said):
    def begun(options, base, resumed):
        remember(options, base)
        return done

    monkeypatch.setattr(drive, "search", begun)
    words = ["--data.format", "mvtec", "--data.root", str(tiny_mvtec), "--data.holdout", "0.4", "--output", str(tmp_path / "new")]
    assert main(words) == code
    told = capsys.readouterr()
    assert said in told.err and "best.yaml" not in told.out
    assert (f"--resume {tmp_path / 'new'}" in told.err) is not done


def test_a_search_that_no_cluster_takes_may_be_said_anew_in_its_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(drive.cluster, "connect", lambda *_: {"CPU": 1.0, "GPU": 0.0})
    options = Options(str(tmp_path / "new"), ranks_per_trial=2)
    with pytest.raises(UserError, match=r"ranks-per-trial: .* does not fit"):
        drive.search(options, BASE, False)
    assert not (tmp_path / "new/search.json").exists()
