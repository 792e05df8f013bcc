"""Whole searches on a real Ray cluster of two nodes: undisturbed, a population, the driver killed, a node killed."""

import os
import signal

import pytest
from clusters import LONG, complete, results, some, start, table, until, whole, words

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def test_a_search_with_a_setting_that_fails(tiny_mvtec, tmp_path, cluster):
    """Four trials on two nodes, proposed by Optuna; one kind of setting cannot work: told, and the rest goes on. Workers run code
    that was sent to them."""
    _, address, _ = cluster
    output, log, space = tmp_path / "found", tmp_path / "log", tmp_path / "space.yaml"
    space.write_text("model.teacher: {values: [tf_efficientnet_lite0, no_such_backbone]}\nsimulation.kinds.hole: null\n")
    extra = ("--searcher", "optuna", "--space", str(space), "--address", address)
    whole(words(tiny_mvtec, output, *extra, trials=4), log, tmp_path)
    rows = complete(output, 4)
    failed = [row for row in rows if row["status"] == "failed"]
    assert failed and all(row["model.teacher"] == "no_such_backbone" and "no_such_backbone" in row["reason"] for row in failed)
    assert all(row["model.teacher"] == "tf_efficientnet_lite0" for row in rows if row not in failed)
    assert "no_such_backbone" in (output / "search.html").read_text()
    seen = [r["result"] for r in results(output) if r["what"] == "result"]
    assert all("runtime_resources" in r["code"] for r in seen)


def test_a_population(tiny_mvtec, tmp_path, cluster):
    """More trials than places share the machine's time; the worst go on from the networks of the best with changed settings. What
    comes of that is no best trial: where it is ahead, its settings are trained once more from scratch."""
    _, address, _ = cluster
    output, log = tmp_path / "found", tmp_path / "log"
    whole(words(tiny_mvtec, output, "--scheduler", "pbt", "--address", address, trials=4), log, tmp_path)
    rows = table(output)
    assert {(row["status"], row["rung"], row["rungs"]) for row in rows} == {("finished", "5", "5")}
    seen = [r for r in results(output) if r["what"] == "result"]
    population = {row["trial"] for row in rows[:4]}
    begun = [r["trial"] for r in seen if r["result"]["rung"] == 1]
    later = next(place for place, r in enumerate(seen) if r["result"]["rung"] == 3)
    assert population <= {r["trial"] for r in seen[:later]} and population <= set(begun)
    last = {r["trial"]: r["result"] for r in seen}
    mixed = [last[trial]["score"] for trial in population if last[trial]["mixed"]]
    clean = [last[trial]["score"] for trial in population if not last[trial]["mixed"]]
    assert mixed and all(not last[row["trial"]]["mixed"] for row in rows if row["best"] == "1" or row["trial"] not in population)
    assert (len(rows) == 5) == (not clean or max(clean) < max(mixed))


def test_driver_killed_and_resumed_then_a_node_killed(tiny_mvtec, tmp_path, cluster):
    """One search: SIGKILL to its driver; `--resume` goes on, and while it does the second node dies."""
    made, address, second = cluster
    output, log = tmp_path / "found", tmp_path / "log"
    first = start(words(tiny_mvtec, output, "--address", address), log, tmp_path)
    try:
        until(lambda: some(output, 3) or first.poll() is not None, LONG, log)
        assert first.poll() is None, log.read_text()[-3000:]
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait(20)
    before = results(output)
    again = start(["--resume", str(output), "--address", address], log, tmp_path)
    try:
        until(lambda: len(results(output)) > len(before) + 2 or again.poll() is not None, LONG, log)
        assert again.poll() is None, log.read_text()[-3000:]
        made.remove_node(second, allow_graceful=False)
        assert again.wait(LONG) == 0, log.read_text()[-3000:]
    finally:
        again.kill()
    complete(output)
    scores = {}  # what Ray's last snapshot, up to two seconds old, did not know of is done again: with the same result
    for row in results(output):
        if row["what"] == "result" and not row["result"].get("reason"):
            scores.setdefault((row["trial"], row["result"]["rung"]), set()).add(row["result"]["score"])
    assert scores and all(len(found) == 1 for found in scores.values()), scores
    assert os.path.getmtime(output / "search.html") >= os.path.getmtime(output / "results.jsonl")
