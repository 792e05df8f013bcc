"""What a search leaves, from made-up records: best trial, gain, importance, page. No cluster."""

import csv
import json
import math
import re

import pytest

from bikd_fast.arguments import load_run
from bikd_fast.config import MapConfig, RunConfig
from bikd_fast.search.settings import plain
from tune.findings import gain, importance, read
from tune.outputs import write
from tune.records import Recorder, add, best_of, read_rows
from tune.schedule import Asha
from tune.space import SPACE, first_points

BASE = plain(RunConfig())
OWN = first_points(SPACE, BASE, [])[0]


def result(rung, score, **more):
    maps = vars(MapConfig()) | {"sigma": 6.0 if rung == 3 else 4.0}
    metrics = {"brick": {"image_auroc": score, "pixel_auroc": score, "aupro": score}}
    common = {"rungs": 3, "map": maps, "metrics": metrics, "score_own_map": score - 0.01, "finished": rung == 3}
    return common | {"rung": rung, "score": score, "training_seconds": 10.0 * rung, "mixed": False} | more


@pytest.fixture
def folder(tmp_path):
    """Default finishes, a better one finishes, one is stopped with the highest score of all, one fails, one is lost."""
    state = {"base": BASE, "default": OWN, "seconds": 60.0, "slots": 2, "rungs": [], "options": {
        "objective": "simulated", "scheduler": "asha", "searcher": "random", "validation": None}}  # fmt: skip
    (tmp_path / "search.json").write_text(json.dumps(state))
    lines = []

    def trial(name, beta, *results, end="complete", **more):
        values = OWN | {"objective.beta": beta}
        lines.append({"what": "start", "trial": name, "values": values})
        lines.extend({"what": "result", "trial": name, "values": values, "result": r} for r in results)
        lines.append({"what": end, "trial": name, **more})

    trial("b", 0.5, result(1, 0.8), result(2, 0.82), result(3, 0.85))
    trial("a", 0.3, result(1, 0.7), result(2, 0.75), result(3, 0.8))
    trial("c", 0.1, result(1, 0.99))
    trial("d", 0.2, {"score": 0.0, "rung": 0, "reason": "ValueError: <b>no</b>", "finished": True})
    trial("e", 0.4, end="error", reason="the worker ended without a message")
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"what": "resu')
    return tmp_path


def test_the_best_is_among_those_that_got_furthest_and_its_file_is_a_job(folder):
    best = write(folder).best
    assert best.trial == "b" and best.values["objective.beta"] == 0.5
    config = load_run(folder / "best.yaml")
    assert config.objective.beta == 0.5 and config.map.sigma == 6.0 and config.output is None
    rows = list(csv.DictReader((folder / "trials.csv").open()))
    assert [r["trial"] for r in rows] == ["a", "b", "c", "d", "e"]  # the job's own settings first, though they began second
    assert [r["status"] for r in rows] == ["finished", "finished", "stopped", "failed", "failed"]
    assert rows[3]["reason"] == "ValueError: <b>no</b>" and rows[4]["reason"] == "the worker ended without a message"
    assert rows[1]["objective"] == "0.85" and rows[1]["best"] == "1" and rows[1]["map.sigma"] == "6.0"


def test_the_page_stands_alone_in_both_themes_and_escapes(folder):
    write(folder)
    first = (folder / "search.html").read_text()
    assert not re.search(r"(src|href)=|https?://|<script|url\(", first)
    assert "prefers-color-scheme: dark" in first and "default-src 'none'" in first
    assert "&lt;b&gt;no&lt;/b&gt;" in first and "<b>no</b>" not in first
    assert "objective 0.8500, the job's own settings 0.7900" in first and "Not measured" in first
    assert first.count("<polyline") == 2 * 3  # parallel coordinates and curves of the three trials that came to a rung
    write(folder)
    assert (folder / "search.html").read_text() == first


def test_a_value_of_zero_where_factors_count_has_its_place_on_the_page(folder):
    zero = {"training.teacher_rate": 0.0}  # of `training.teacher_rate: {values: [0.0, 0.1]}`, as a user may search
    with (folder / "results.jsonl").open("a") as file:
        file.write("\n" + json.dumps({"what": "result", "trial": "b", "values": OWN | zero, "result": result(3, 0.85)}) + "\n")
    write(folder)
    assert (folder / "search.html").read_text().count("<polyline") == 2 * 3


def test_what_several_settings_made_is_not_the_best(folder):
    with (folder / "results.jsonl").open("a") as file:
        file.write("\n" + json.dumps({"what": "start", "trial": "p", "values": OWN}) + "\n")
        file.write(json.dumps({"what": "result", "trial": "p", "values": OWN, "result": result(3, 0.95, mixed=True)}) + "\n")
    assert best_of(read_rows(folder / "results.jsonl")).trial == "b"


def test_a_trial_that_was_forgotten_with_a_killed_driver_is_gone(folder):
    for entry in ({"what": "start", "trial": "f", "values": OWN}, {"what": "gone", "trial": "f"}):
        add(folder / "results.jsonl", entry)
    assert [row.trial for row in read_rows(folder / "results.jsonl")] == ["b", "a", "c", "d", "e"]


def test_a_line_cut_short_does_not_take_the_next_one_with_it(folder):
    assert not (folder / "results.jsonl").read_text().endswith("\n")
    Recorder(folder / "results.jsonl").on_trial_start(0, [], _Trial("f", OWN))
    assert read_rows(folder / "results.jsonl")[-1].values == OWN


def test_no_result_no_best(tmp_path, folder):
    (folder / "results.jsonl").write_text(json.dumps({"what": "start", "trial": "a", "values": OWN}) + "\n")
    assert write(folder).best is None and not (folder / "best.yaml").exists()
    assert "No trial came to a result" in (folder / "search.html").read_text()


def test_a_gain_is_claimed_only_where_its_interval_is_above_zero(folder):
    clear, unclear, loss = (gain("x", [0.8, 0.8, 0.8], best) for best in ([0.9, 0.91, 0.92], [0.78, 0.85, 0.83], [0.7, 0.71, 0.7]))
    assert clear.verdict == "a gain" and clear.mean == pytest.approx(0.11)
    assert clear.high - clear.low == pytest.approx(2 * 4.302653 * 0.01 / math.sqrt(3), rel=1e-5)  # Student's t, 2 degrees
    assert unclear.mean > 0 and unclear.verdict.startswith("no gain") and loss.verdict == "a loss"
    assert "no verdict" in gain("x", [0.8], [0.9]).verdict
    lines = []
    for seed, scores in ((1001, (0.8, 0.81)), (1002, (0.82, 0.80)), (1003, (0.8, 0.8))):
        for who, score in zip(("default", "best"), scores):
            values = {"point": {"_who": who, "_of": "b", "seed": seed}}
            test = {"brick": {"image_auroc": score + 0.1, "pixel_auroc": 0.9, "aupro": 0.8}}
            for what in ({"what": "start"}, {"what": "result", "result": result(1, score, test=test, finished=True)}):
                lines.append(json.dumps({"trial": f"{who}{seed}", "values": values, **what}))
    (folder / "gain.jsonl").write_text("\n".join(lines))
    found = read(folder).gains
    assert [g.name for g in found] == ["objective", "test image_auroc", "test pixel_auroc", "test aupro"]
    assert found[0].differences == pytest.approx([0.01, -0.02, 0.0]) and found[0].verdict.startswith("no gain")
    write(folder)
    page = (folder / "search.html").read_text()
    assert "no gain that could be told from chance" in page and "own settings: with new seeds best_trial.yaml is not ahead" in page
    assert load_run(folder / "best.yaml") == RunConfig() and load_run(folder / "best_trial.yaml").objective.beta == 0.5


def test_the_jobs_own_settings_stand_unless_the_best_is_ahead_by_more_than_a_standard_error(folder):
    assert gain("x", [0.8], [0.9]).ahead is None and not read(folder).kept  # nobody has looked: the best trial is the best there is
    cases = {(0.85, 0.79, 0.82): True, (0.83, 0.79, 0.81): False, (0.79, 0.79, 0.80): False}  # +.02 +-.017, +.01 +-.012, below
    for scores, ahead in cases.items():
        assert gain("x", [0.8] * 3, list(scores)).ahead is ahead
        lines = [
            json.dumps({"what": what, "trial": f"{who}{seed}", "values": values, "result": result(3, score)})
            for seed, other in enumerate(scores)
            for who, score in (("default", 0.8), ("best", other))
            for values in [{"_who": who, "_of": "b", "seed": seed}]
            for what in ("start", "result")
        ]
        (folder / "gain.jsonl").write_text("\n".join(lines))
        assert write(folder).kept is not ahead
        assert load_run(folder / "best.yaml").objective.beta == (0.5 if ahead else 0.3)
        assert load_run(folder / "best_trial.yaml").objective.beta == 0.5
        assert ("the job's own settings: with" in (folder / "best.yaml").read_text()) is not ahead
    # of another trial, which was the best before: says nothing of this one
    (folder / "gain.jsonl").write_text((folder / "gain.jsonl").read_text().replace('"_of": "b"', '"_of": "a"'))
    assert not read(folder).gains and not read(folder).kept


def test_a_test_set_of_defects_alone_measures_what_it_can(folder):
    test = {"brick": {"image_auroc": math.nan, "pixel_auroc": 0.9, "aupro": 0.8}}
    lines = [
        json.dumps({"what": what, "trial": f"{who}{seed}", "values": {"_who": who, "_of": "b", "seed": seed}, "result": found})
        for seed in range(2)
        for who in ("default", "best")
        for found in [result(3, 0.8, test=test)]
        for what in ("start", "result")
    ]
    (folder / "gain.jsonl").write_text("\n".join(lines))
    assert [g.name for g in write(folder).gains] == ["objective", "test pixel_auroc", "test aupro"]


def test_a_best_that_fails_with_new_seeds_is_not_recommended(folder):
    def line(who, seed, found):
        of = {"trial": f"{who}{seed}", "values": {"_who": who, "_of": "b", "seed": seed}}
        return [json.dumps(of | what) for what in ({"what": "start"}, {"what": "result", "result": found})]

    failed = {"score": 0.0, "rung": 0, "reason": "TrainingError: not finite", "finished": True}
    lines = [text for seed in range(3) for text in line("default", seed, result(3, 0.8)) + line("best", seed, failed)]
    (folder / "gain.jsonl").write_text("\n".join(lines))
    assert write(folder).kept and read(folder).gains[0].best == [0.0] * 3
    assert load_run(folder / "best.yaml") == RunConfig()


def test_a_trial_that_fails_on_the_way_keeps_its_reason_and_is_not_the_best(folder):
    failed = {"score": 0.0, "rung": 0, "reason": "ConfigError: no", "finished": True}
    with (folder / "results.jsonl").open("a") as file:
        file.write("\n" + json.dumps({"what": "result", "trial": "b", "values": OWN, "result": failed}) + "\n")
    row = next(row for row in read_rows(folder / "results.jsonl") if row.trial == "b")
    assert row.status == "failed" and row.error == "ConfigError: no" and row.rung == 3
    assert read(folder).best.trial == "a"


@pytest.mark.parametrize("again", [[], [{"what": "start", "trial": "b", "values": OWN}, {"what": "result", "trial": "b"}]], ids=len)
def test_a_trial_that_had_come_to_its_end_stays_finished(folder, again):
    """The driver was killed before Ray's snapshot knew, and the node that was to do the end again died."""
    more = [*again, {"what": "error", "trial": "b", "reason": "the actor's node was terminated unexpectedly"}]
    for entry in more:
        if entry["what"] == "result":
            entry |= {"values": OWN, "result": result(3, 0.85)}
    with (folder / "results.jsonl").open("a") as file:
        file.write("".join("\n" + json.dumps(entry) for entry in more))
    row = next(row for row in read_rows(folder / "results.jsonl") if row.trial == "b")
    assert row.status == "finished" and read(folder).best.trial == "b"


def test_a_changed_trial_is_not_called_the_jobs_own_settings(folder):
    """A population took the first trial over: what it began with is not what it has become."""
    assert read(folder).default.trial == "a"
    text = (folder / "results.jsonl").read_text()
    more = {"what": "result", "trial": "a", "values": OWN | {"objective.beta": 0.6}, "result": result(3, 0.9, mixed=True)}
    start = {"what": "start", "trial": "b", "values": OWN | {"objective.beta": 0.1}}  # what it goes on with has no result yet
    (folder / "results.jsonl").write_text("\n".join([text, json.dumps(more), json.dumps(start)]) + "\n")
    found = write(folder)
    assert found.default is None and found.best.trial == "b" and found.best.values["objective.beta"] == 0.5
    assert "own settings" not in (folder / "search.html").read_text().split("Gain over")[0]
    assert [r["mixed"] for r in csv.DictReader((folder / "trials.csv").open())].count("1") == 1


def test_importance_sees_what_moves_the_objective(folder):
    rows = read_rows(folder / "results.jsonl")[:1] * 8
    from copy import deepcopy

    rows = [deepcopy(row) for row in rows]
    for i, row in enumerate(rows):
        row.values |= {"objective.beta": i / 20, "objective.margin": [0.3, 0.9, 0.5, 0.4, 0.8, 0.2, 0.6, 0.7][i]}
        row.history = [(1, 0.5 - i / 100)]
    found, chance = importance(rows)
    assert found[0] == ("objective.beta", pytest.approx(1.0)) and dict(found)["objective.margin"] < chance < 1
    assert importance(rows[:3])[0] == []


class _Trial:
    def __init__(self, name, config):
        self.trial_id, self.config = name, config


def test_halving_remembers_what_a_killed_search_had_seen_and_never_stops_the_default(folder):
    """b, a and c reached the first rung with 0.8, 0.7 and 0.99 before: 0.75 is below the best third of them."""
    fresh, restored = Asha(9, folder / "nothing.jsonl", OWN), Asha(9, folder / "results.jsonl", OWN)
    for scheduler, expected in ((fresh, "CONTINUE"), (restored, "STOP")):
        new, own = _Trial("new", OWN | {"objective.beta": 0.6}), _Trial("own", OWN)
        for trial in (new, own):
            scheduler.on_trial_add(None, trial)
        assert scheduler.on_trial_result(None, new, {"score": 0.75, "resource": 1}) == expected
        assert scheduler.on_trial_result(None, own, {"score": 0.1, "resource": 1}) == "CONTINUE"
