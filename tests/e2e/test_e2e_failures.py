"""A job under DeepSpeed's launcher when things go wrong: a rank is killed, the launcher is killed, the job is told to stop."""

import json
import signal

import pytest
import torch
from jobs import BIN, end, gone, lines, options, ranks_of, start, until
from safetensors.torch import load_file

from bikd_fast.training.place import free_port

pytestmark = pytest.mark.e2e


@pytest.fixture
def job(tiny_mvtec, tmp_path):
    """(process, run folder, log) of two ranks that have made some steps and written a checkpoint; it goes on if there is one."""
    run, log = tmp_path / "run", tmp_path / "log"
    launch = [BIN / "deepspeed", "--num_accelerators", 2, "--master_port", free_port(), "bikd_fast/train.py"]
    process = start([*launch, *options(tiny_mvtec, run)], log)
    try:
        until(lambda: (lines(run) > 3 and any((run / "checkpoints").glob("step-*"))) or process.poll() is not None, 180, log)
        yield process, run, log
    finally:
        end(process)


def test_a_killed_rank_ends_the_job_with_one_message_that_names_it(job):
    process, run, log = job
    ranks = ranks_of(job[0])
    assert len(ranks) == 2
    ranks[1].kill()
    assert until(lambda: process.poll() is not None, 30, log) < 30
    assert process.returncode != 0 and gone(ranks) and not (run / "DONE").exists()
    said = [line for line in log.read_text().splitlines() if line.startswith("error:")]
    assert len(said) == 1 and f"rank 1 (process {ranks[1].pid}" in said[0], said
    assert "checkpoints/step-" in said[0] and "Traceback" not in log.read_text()


@pytest.mark.parametrize("victim", ["runner", "launcher"])
def test_a_launcher_that_is_killed_leaves_no_orphans(job, victim):
    process, run, log = job
    ranks = ranks_of(process)
    before = {p.name for p in (run / "checkpoints").glob("step-*")}
    if victim == "runner":
        process.send_signal(signal.SIGTERM)
    else:
        ranks[0].parent().kill()
    until(lambda: gone(ranks), 30, log)
    assert "SIGTERM: stopped after step" in log.read_text() and "Traceback" not in log.read_text()
    assert {p.name for p in (run / "checkpoints").glob("step-*")} - before  # written on the way out
    assert not (run / "DONE").exists()


def test_categories_are_trained_side_by_side(tiny_mvtec, tmp_path):
    """Two ranks, two categories: each rank trains one, with the weights that one rank alone gives them."""
    words = [*options(tiny_mvtec, tmp_path / "two", "--training.forward_only", 0.2, steps=6), "--data.category", "all"]
    log, alone = tmp_path / "log", tmp_path / "alone"
    job = start(
        [BIN / "deepspeed", "--num_accelerators", 2, "--master_port", free_port(), "bikd_fast/train.py", *words], log
    )
    single = start(["python", "bikd_fast/train.py", *words, "--output", tmp_path / "one"], alone)
    try:
        assert job.wait(200) == 0 and single.wait(200) == 0, log.read_text()[-3000:]
    finally:
        end(job)
        end(single)
    assert "stripes: step" in log.read_text() and "dots: step" in log.read_text()
    for name in ("stripes", "dots"):
        two, one = (load_file(tmp_path / n / name / "detector.safetensors") for n in ("two", "one"))
        assert all(torch.equal(two[k], one[k]) or two[k].isnan().all() for k in one)
    metrics = [json.loads((tmp_path / n / "metrics.json").read_text())["mean"] for n in ("two", "one")]
    assert metrics[0] == metrics[1] and (tmp_path / "two/DONE").is_file()
    assert json.loads((tmp_path / "two/environment.json").read_text())["side_by_side"]


def stopped_side_by_side(root, run, log, before, victim):
    """SIGTERM to rank 1 or the launcher of two ranks that train a category each; the step of each category's checkpoint."""
    words = [*options(root, run, "--training.checkpoint_seconds", 1000), "--data.category", "all"]  # none but the last
    launch = [BIN / "deepspeed", "--num_accelerators", 2, "--master_port", free_port(), "bikd_fast/train.py"]
    job = start([*launch, *words], log)
    try:
        until(lambda: all(lines(run / n) > step + 3 for n, step in before.items()) or job.poll() is not None, 180, log)
        ranks = ranks_of(job)
        (ranks[1] if victim == "rank" else ranks[1].parent()).send_signal(signal.SIGTERM)
        assert until(lambda: gone(ranks), 60, log) < 25  # the launcher kills after 30
    finally:
        end(job)
    said = log.read_text()
    assert "died" not in said and "Traceback" not in said and not (run / "DONE").exists()
    after = {n: int(max((run / n / "checkpoints").glob("step-*")).stem[5:]) for n in before}
    for name, step in after.items():
        assert step == lines(run / name) and f"{name}: SIGTERM: stopped after step {step};" in said, said[-3000:]
        assert (f"{name}: going on from step {before[name]}\n" in said) == (before[name] > 0)
    return after


def test_sigterm_to_one_rank_or_the_launcher_stops_all_categories_side_by_side(tiny_mvtec, tmp_path):
    run, before = tmp_path / "run", {"stripes": 0, "dots": 0}
    after = stopped_side_by_side(tiny_mvtec, run, tmp_path / "first", before, "rank")
    again = stopped_side_by_side(tiny_mvtec, run, tmp_path / "second", after, "launcher")
    assert all(again[name] > after[name] > 3 for name in before)


def test_killed_outright_and_started_again_it_ends_as_if_undisturbed(tiny_mvtec, tmp_path):
    """The short form of benchmarks/kill_resume.py: SIGKILL in the middle of training, bit for bit the same weights."""
    whole, cut, log = tmp_path / "whole", tmp_path / "cut", tmp_path / "log"
    soon = ("--training.checkpoint_seconds", 0.05)
    words = ["python", "bikd_fast/train.py"]
    undisturbed = start([*words, *options(tiny_mvtec, whole, *soon, steps=60)], tmp_path / "undisturbed")
    killed = start([*words, *options(tiny_mvtec, cut, *soon, steps=60)], log)
    try:
        until(lambda: any((cut / "checkpoints").glob("step-*")), 100, log)
        killed.kill()
        killed.wait(20)
        assert not (cut / "detector.safetensors").exists() and not (cut / "DONE").exists()
        again = start([*words, *options(tiny_mvtec, cut, *soon, steps=60)], log)
        assert again.wait(150) == 0 and undisturbed.wait(150) == 0, log.read_text()[-3000:]
    finally:
        end(undisturbed)
        end(killed)
    assert "going on from step" in log.read_text()
    one, two = (load_file(run / "detector.safetensors") for run in (whole, cut))
    assert all(torch.equal(two[k], one[k]) or two[k].isnan().all() for k in one)
