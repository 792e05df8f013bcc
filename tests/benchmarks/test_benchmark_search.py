"""A row of the search's tables is of the call that it says, and stands there once."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import search as benchmark

import tune.findings


@pytest.fixture
def appended(monkeypatch):
    """Rows that were recorded, of searches that are over at once."""
    rows = []
    found = SimpleNamespace(rows=[], best=SimpleNamespace(score=0.5), gains=[], kept=True)
    found.state = {"seconds": 1.0, "slots": 1, "options": {"scheduler": "asha", "searcher": "random"}}
    monkeypatch.setattr(tune.findings, "read", lambda _: found)
    monkeypatch.setattr(tune.findings, "overhead", lambda *_: 0.1)
    monkeypatch.setattr(benchmark, "append", lambda _, new: rows.extend(new))
    monkeypatch.setattr(benchmark, "subprocess", SimpleNamespace(run=lambda words, **_: None))
    return rows


def test_a_search_is_recorded_once(tmp_path, appended):
    for folder in ("one", "two"):
        benchmark.search(tmp_path / folder, 2, [])
    with pytest.raises(SystemExit, match="one: is finished and in the table"):
        benchmark.search(tmp_path / "one", 2, [])
    assert len(appended) == 2


def test_a_folder_of_another_call_is_refused(tmp_path, appended, monkeypatch):
    def interrupted(words, **_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(benchmark, "subprocess", SimpleNamespace(run=interrupted))
        benchmark.search(tmp_path, 2, ["--seed", "1"])
    for trials, passed in ((5, ["--seed", "1"]), (2, [])):
        with pytest.raises(SystemExit, match="was begun with --trials 2 --seed 1"):
            benchmark.search(tmp_path, trials, passed)
    assert not appended
    benchmark.search(tmp_path, 2, ["--seed", "1"])
    assert len(appended) == 1 and json.loads((tmp_path / benchmark.NOTE).read_text())["recorded"]
