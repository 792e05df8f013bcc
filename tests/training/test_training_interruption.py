"""One rank: SIGTERM, losses that are not finite, going on by --resume RUN, which trainings run side by side."""

import json
import os
import shutil
import signal
import sys

import pytest
import torch
from safetensors.torch import load_file
from tiny import interrupted, one_category

from bikd_fast.arguments import load_run, parse_run, run_parser
from bikd_fast.config import ConfigError
from bikd_fast.errors import UserError
from bikd_fast.train import resuming
from bikd_fast.training import agreement, checkpoint, distributed, place
from bikd_fast.training.bad_steps import TrainingError
from bikd_fast.training.distillation import Distillation
from bikd_fast.training.log import Log
from bikd_fast.training.run import side_by_side, train
from bikd_fast.training.state import CheckpointError, restore
from bikd_fast.training.trainer import Trainer


@pytest.fixture(scope="module")
def ranks():
    yield distributed.start()
    distributed.stop()


def settings(root, output, *extra):
    return one_category(root, output, "--training.steps", "8", "--training.log_every", "1", *extra)


def test_sigterm_ends_the_step_writes_a_checkpoint_and_the_same_call_goes_on(tiny_mvtec, tmp_path, ranks, monkeypatch, capfd):
    whole = train(settings(tiny_mvtec, tmp_path / "whole"), ranks)
    step = Trainer._step

    def told_at_three(self, now):
        if self.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        step(self, now)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", told_at_three)
        with pytest.raises(SystemExit) as caught:
            train(settings(tiny_mvtec, tmp_path / "cut"), ranks)
    assert caught.value.code == 143
    assert "SIGTERM: stopped after step 5" in capfd.readouterr().err  # told in step 4, agreed about a step later
    assert [p.name for p in (tmp_path / "cut/checkpoints").iterdir()] == ["step-00000005.safetensors"]
    distributed.termination.wished = False
    again = parse_run(run_parser("test", ""), resuming(["--resume", str(tmp_path / "cut")]))
    resumed = load_file(train(again, ranks) / "detector.safetensors")
    undisturbed = load_file(whole / "detector.safetensors")
    assert all(torch.equal(resumed[k], undisturbed[k]) or resumed[k].isnan().all() for k in undisturbed)
    assert len((tmp_path / "cut/log.jsonl").read_text().splitlines()) == 8


@pytest.mark.parametrize("when", ["the last agreement is over", "the last checkpoint is being written"])
def test_sigterm_after_the_last_step_ends_the_run_with_its_checkpoint(tiny_mvtec, tmp_path, ranks, monkeypatch, capfd, when):
    where, name = (Log, "conclude") if when.startswith("the last agreement") else (checkpoint, "write")
    call = getattr(where, name)

    def told(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return call(*arguments)

    monkeypatch.setattr(where, name, told)
    monkeypatch.setattr("bikd_fast.training.run.calibrate", lambda *_: pytest.fail("went on"))
    try:
        with pytest.raises(SystemExit) as caught:
            train(settings(tiny_mvtec, tmp_path / "run"), ranks)
    finally:
        distributed.termination.wished = False
    assert caught.value.code == 143 and "SIGTERM: stopping" in capfd.readouterr().err
    assert [p.name for p in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000008.safetensors"]


def test_killed_while_it_calibrates_a_run_is_done_training(tiny_mvtec, tmp_path, ranks, monkeypatch):
    whole = train(settings(tiny_mvtec, tmp_path / "whole"), ranks)
    with monkeypatch.context() as patch:
        patch.setattr("bikd_fast.training.run.calibrate", lambda *_: sys.exit("killed"))
        with pytest.raises(SystemExit, match="killed"):
            train(settings(tiny_mvtec, tmp_path / "cut"), ranks)
    assert not (tmp_path / "cut/detector.safetensors").exists()
    monkeypatch.setattr(Trainer, "_step", lambda *_: pytest.fail("trained again"))
    resumed = load_file(train(settings(tiny_mvtec, tmp_path / "cut"), ranks) / "detector.safetensors")
    undisturbed = load_file(whole / "detector.safetensors")
    assert all(torch.equal(resumed[k], undisturbed[k]) or resumed[k].isnan().all() for k in undisturbed)
    assert len((tmp_path / "cut/log.jsonl").read_text().splitlines()) == 8


def test_what_is_made_after_training_may_be_made_otherwise_from_the_same_checkpoint(tiny_mvtec, tmp_path, ranks, monkeypatch):
    run = train(settings(tiny_mvtec, tmp_path / "run"), ranks)
    options = ("--map.fill", "false", "--map.calibrate_levels", "false", "--model.mahalanobis", "false")
    shutil.copytree(run / "checkpoints", tmp_path / "other/checkpoints")
    anew = train(settings(tiny_mvtec, tmp_path / "anew", *options), ranks)
    monkeypatch.setattr(Trainer, "_step", lambda *_: pytest.fail("trained again"))
    other = load_file(train(settings(tiny_mvtec, tmp_path / "other", *options), ranks) / "detector.safetensors")
    undisturbed = load_file(anew / "detector.safetensors")
    assert other.keys() == undisturbed.keys()
    assert all(torch.equal(other[k], undisturbed[k]) or other[k].isnan().all() for k in undisturbed)


def test_too_many_bad_steps_in_a_row_stop_the_run_and_name_the_last_good_checkpoint(tiny_mvtec, tmp_path, ranks, monkeypatch):
    forward, calls = Distillation.forward, []

    def broken(self, inputs, beta):
        loss, terms = forward(self, inputs, beta)
        calls.append(0)
        return loss * (float("inf") if len(calls) > 3 else 1), terms

    monkeypatch.setattr(Distillation, "forward", broken)
    options = ("--training.max_bad_steps", "2", "--training.checkpoint_seconds", "1e-9")
    with pytest.raises(TrainingError, match=r"step 5: .*stripes.*2 steps in a row.*checkpoints/step-\d+\.safetensors"):
        train(settings(tiny_mvtec, tmp_path / "run", *options), ranks)
    newest = max((tmp_path / "run/checkpoints").iterdir())
    assert all(value.isfinite().all() for value in load_file(newest).values())
    rows = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert rows[2]["bad_steps"] == 0 and rows[-1]["bad_steps"] == 1


def test_bad_steps_are_counted_over_an_interruption_and_the_last_one_is_told(tiny_mvtec, tmp_path, ranks, monkeypatch):
    forward, calls = Distillation.forward, []

    def broken(self, inputs, beta):
        loss, terms = forward(self, inputs, beta)
        calls.append(0)
        return loss * (float("nan") if len(calls) in (2, 7, 8) else 1), terms

    monkeypatch.setattr(Distillation, "forward", broken)
    options = ("--training.checkpoint_seconds", "1e-9")
    with interrupted(before=5):
        train(settings(tiny_mvtec, tmp_path / "run", *options), ranks)
    train(settings(tiny_mvtec, tmp_path / "run", *options), ranks)
    rows = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [row["bad_steps"] for row in rows] == [0, 0, 1, 1, 1, 1, 1, 2]
    assert json.loads((tmp_path / "run/training.json").read_text())["bad_steps"] == 3


def test_a_gradient_that_no_rank_holds_whole_is_looked_at_too(tiny_mvtec, tmp_path, ranks, monkeypatch, capfd):
    """ZeRO leaves such a step out by itself."""
    forward, calls = Distillation.forward, []

    def broken(self, inputs, beta):
        loss, terms = forward(self, inputs, beta)
        calls.append(0)
        zero = sum(p.sum() for p in self.student.parameters()) * 0
        return loss + (zero.abs().sqrt() if len(calls) == 3 else 0), terms  # finite; its gradient is not

    monkeypatch.setattr(Distillation, "forward", broken)
    (tmp_path / "ds.json").write_text('{"zero_optimization": {"stage": 1}}')
    run = train(settings(tiny_mvtec, tmp_path / "run", "--deepspeed_config", str(tmp_path / "ds.json")), ranks)
    assert "step 3 skipped: the gradient is not finite" in capfd.readouterr().err
    assert json.loads((run / "training.json").read_text())["bad_steps"] == 1


def test_gradients_that_no_loss_scale_of_fp16_makes_finite_end_with_one_error(tiny_mvtec, tmp_path, ranks, monkeypatch):
    forward, calls = Distillation.forward, []

    def broken(self, inputs, beta):
        loss, terms = forward(self, inputs, beta)
        calls.append(0)
        zero = sum(p.sum() for p in self.student.parameters()) * 0
        return loss + (zero.abs().sqrt() if len(calls) > 3 else 0), terms  # finite; its gradient is not

    monkeypatch.setattr(Distillation, "forward", broken)
    (tmp_path / "ds.json").write_text('{"fp16": {"enabled": true, "initial_scale_power": 1, "hysteresis": 1}}')
    options = ("--deepspeed_config", str(tmp_path / "ds.json"), "--training.precision", "auto")
    with pytest.raises(TrainingError) as caught:
        train(settings(tiny_mvtec, tmp_path / "run", *options, "--training.checkpoint_seconds", "1e-9"), ranks)
    said = str(caught.value)
    assert said.startswith("step 5: gradients in fp16 are not finite at the smallest loss scale either (1).")
    assert "train/good/0" in said and "take bf16" in said and said.endswith("checkpoints/step-00000004.safetensors.")

    monkeypatch.setattr(Distillation, "forward", forward)
    run = train(settings(tiny_mvtec, tmp_path / "run", *options, "--training.log_every", "1"), ranks)
    last = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    assert (last["loss_scale"], last["overflowed_steps"], last["bad_steps"]) == (1, 1, 0)  # step 4's, before the interruption


def test_a_run_of_another_optimizer_is_refused_and_one_at_another_stage_goes_on(tiny_mvtec, tmp_path, ranks, monkeypatch, capfd):
    file = tmp_path / "ds.json"
    with interrupted(before=3):
        train(settings(tiny_mvtec, tmp_path / "run", "--training.checkpoint_seconds", "1e-9"), ranks)
    monkeypatch.chdir(tmp_path)
    config = settings(tiny_mvtec, tmp_path / "run", "--deepspeed_config", "ds.json")
    told = r"holds a run of other settings \(see .*config.yaml\): the DeepSpeed configuration's optimizer, scheduler"
    for user in ('{"optimizer": {"type": "SGD"}}', '{"gradient_clipping": 0.01}', '{"scheduler": {"type": "WarmupLR"}}'):
        file.write_text(user)
        with pytest.raises(ConfigError, match=told):
            train(config, ranks)
    with pytest.raises(ConfigError, match=r"training\.accumulation was 1 and is 2\. Give another"):
        train(settings(tiny_mvtec, tmp_path / "run", "--training.accumulation", "2"), ranks)
    file.write_text('{"zero_optimization": {"stage": 1}, "gradient_clipping": 1, "wall_clock_breakdown": false}')
    run = train(config, ranks)
    assert "going on from step 3" in capfd.readouterr().err
    assert load_run(run / "config.yaml").deepspeed_config == str(file)  # --resume RUN may be said elsewhere
    file.write_text('{"optimizer": {"type": "AdamW", "params": {"momentum": 0.9}}}')
    with pytest.raises(ConfigError, match=told):  # finished or not
        train(config, ranks)


def test_a_folder_whose_run_was_refused_before_its_first_step_is_nobodys(tiny_mvtec, tmp_path, ranks):
    config = settings(tiny_mvtec, tmp_path / "run", "--deepspeed_config", str(tmp_path / "ds.json"), "--training.steps", "1")
    (tmp_path / "ds.json").write_text('{"optimizer": {"type": "AdamW", "params": {"speed": 3}}}')
    with pytest.raises(ConfigError, match="speed"):
        train(config, ranks)
    (tmp_path / "ds.json").write_text("{}")
    train(config, ranks)


def test_state_of_another_optimizer_is_refused():
    """As a search may hand it on."""
    module = torch.nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match="of Lamb, and this run trains with AdamW"):
        restore({}, module, torch.optim.AdamW(module.parameters()), "Lamb")


def test_ranks_that_see_different_things_do_not_train_together(monkeypatch):
    def gather(everyones, seen, group):
        everyones[:] = [seen | {key: 310 for key in seen if "step" in key}, seen]

    monkeypatch.setattr(agreement.dist, "all_gather_object", gather)
    two = distributed.Ranks(1, 2, torch.device("cpu"))
    agreement.alike(two, number_of_pictures=5)
    with pytest.raises(UserError, match="step to go on from: rank 0 sees 310, rank 1 sees 0"):
        agreement.alike(two, number_of_pictures=5, step_to_go_on_from=0)


def test_every_line_says_where_the_time_went(tiny_mvtec, tmp_path, ranks):
    run = train(settings(tiny_mvtec, tmp_path / "run"), ranks)
    for line in (run / "log.jsonl").read_text().splitlines():
        row = json.loads(line)
        shares = [row[f"share_{part}"] for part in ("data", "communication", "compute", "other")]
        assert sum(shares) == pytest.approx(1, abs=0.02) and all(0 <= s <= 1 for s in shares)
        assert row["share_communication"] < 0.2 < row["share_compute"]  # DeepSpeed reduces in a world of one too
        assert row["pictures_per_second"] > 0 and row["peak_memory_mb"] > 50


def test_resume_takes_auto_never_and_folders(tmp_path):
    assert resuming(["--resume", "never", "--seed", "3"]) == ["--resume", "never", "--seed", "3"]
    (tmp_path / "config.yaml").write_text("")
    words = resuming([f"--resume={tmp_path}", "--report", "false"])
    assert words[:2] == ["--config", str(tmp_path / "config.yaml")] and words[-3:-2] == [str(tmp_path)]
    with pytest.raises(ConfigError, match="nowhere"):
        resuming(["--resume", "/nowhere"])


@pytest.mark.parametrize(
    ("size", "options", "beside"),
    [
        (1, ("--training.parallel", "categories"), False),
        (2, (), True),  # two categories on two ranks
        (4, (), False),  # half of the ranks would idle
        (3, (), True),  # 4 pictures do not divide among 3
        (2, ("--training.parallel", "data"), False),
        (8, ("--training.parallel", "categories"), True),
        (2, ("--model.shared", "true"), False),
    ],
)
def test_which_trainings_run_side_by_side(tiny_mvtec, tmp_path, size, options, beside):
    config = settings(tiny_mvtec, tmp_path, "--data.category", "all", *options)
    assert side_by_side(config, size) == beside


@pytest.mark.parametrize(("rank", "waits"), [("0", False), ("3", True)])
def test_only_the_first_rank_of_a_machine_says_what_is_wrong_at_once(rank, waits, monkeypatch, capsys):
    """The others say it after the launcher has had the time to end them, with what was said before it, options included."""
    said_before_waiting = []
    monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setattr(place.time, "sleep", lambda seconds: said_before_waiting.append(capsys.readouterr().err))
    with pytest.raises(SystemExit), place.said_once():
        parse_run(run_parser("test", ""), ["--training.stepz", "3"])
    assert said_before_waiting == ([""] if waits else [])
    assert "stepz" in capsys.readouterr().err


def test_one_detector_cannot_be_trained_side_by_side(tiny_mvtec, tmp_path):
    with pytest.raises(ConfigError, match=r"training\.parallel"):
        side_by_side(settings(tiny_mvtec, tmp_path, "--training.parallel", "categories"), 2)


def test_a_process_leaves_no_place_for_others_to_take(monkeypatch):
    """What it settled for itself is gone afterwards: a process started from here must not listen at the same port."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    monkeypatch.setattr(place, "_before", {})
    place.settle()
    assert os.environ["WORLD_SIZE"] == "1" and int(os.environ["MASTER_PORT"]) > 0
    place.restore()
    assert dict(os.environ) == before
