"""The rates of a step: our schedule, or a scheduler of the user's with the teacher's share, balance and rest kept."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from deepspeed.runtime import lr_schedules
from safetensors.torch import load_file
from tiny import interrupted, one_category

from bikd_fast.config import ConfigError, ObjectiveConfig, TrainingConfig
from bikd_fast.training import distributed
from bikd_fast.training.rates import Rates
from bikd_fast.training.run import train
from bikd_fast.training.schedule import phase

TRAINING = TrainingConfig(steps=20, lr_student=0.01, lr_teacher=0.0005)
SCHEDULERS = {
    "none": lambda optimizer: None,
    "warm": lambda optimizer: lr_schedules.WarmupLR(optimizer, 0.001, 0.02, 5),
    "cosine": lambda optimizer: lr_schedules.WarmupCosineLR(optimizer, 20, warmup_num_steps=5),
    "cycle": lambda optimizer: lr_schedules.OneCycle(optimizer, 0.001, 0.02, cycle_first_step_size=7, cycle_momentum=False),
    "exponential": lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9),  # goes on from the rate it finds
}


def engine(make):
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "part": part} for part in ("student", "teacher")]
    optimizer = torch.optim.AdamW(groups, lr=TRAINING.lr_student)
    return SimpleNamespace(optimizer=optimizer, lr_scheduler=make(optimizer))


def at(rates, step):
    """(student, teacher) rates as the optimizer has them at a step of the bidirectional schedule."""
    now = phase(step, TRAINING, ObjectiveConfig(beta=0.25), adapter=True, own_rates=rates.ours)
    told = rates.set(step, now)
    student, teacher = (group["lr"] for group in rates.groups)
    assert told == student
    return student, teacher


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_sets_the_students_rate_and_the_teacher_keeps_its_share(name):
    make = SCHEDULERS[name]
    plain, rates = engine(make), Rates(engine(make), TRAINING)
    for step in range(TRAINING.steps):
        student, teacher = at(rates, step)
        now = phase(step, TRAINING, ObjectiveConfig(beta=0.25), adapter=True)
        assert (teacher > 0) == (now.teacher > 0 and student > 0)
        if name == "none":
            assert student == TRAINING.lr_student * now.student and teacher == TRAINING.lr_teacher * now.teacher
            continue
        assert student == pytest.approx(plain.optimizer.param_groups[0]["lr"])
        if now.name == "both":
            assert teacher == pytest.approx(student * 0.05 / 3)  # lr_teacher / lr_student, beta / (1 - beta)
        plain.optimizer.step()
        plain.lr_scheduler.step()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_rates_are_those_of_the_steps_number(name):
    rates = Rates(engine(SCHEDULERS[name]), TRAINING)
    undisturbed = [at(rates, step) for step in range(TRAINING.steps)]
    for first in (1, 9, 17):
        later = Rates(engine(SCHEDULERS[name]), TRAINING)  # a run that goes on there
        assert at(later, first) == undisturbed[first] and at(later, first + 2) == undisturbed[first + 2]


def test_a_scheduler_that_waits_for_a_metric_is_refused():
    with pytest.raises(ConfigError, match=r"ReduceLROnPlateau.*metric"):
        Rates(engine(torch.optim.lr_scheduler.ReduceLROnPlateau), TRAINING)


def test_under_a_users_scheduler_the_teacher_rests_and_an_interrupted_run_ends_as_if_undisturbed(tiny_mvtec, tmp_path):
    scheduler = {"type": "WarmupCosineLR", "params": {"total_num_steps": 12, "warmup_num_steps": 4}}
    (tmp_path / "ds.json").write_text(json.dumps({"scheduler": scheduler, "optimizer": {"type": "Lamb", "params": {"lr": 0.01}}}))
    options = ("--deepspeed_config", str(tmp_path / "ds.json"), "--training.steps", "12", "--training.log_every", "1")
    options += ("--training.checkpoint_seconds", "1e-9", "--training.keep_checkpoints", "20")
    try:
        ranks = distributed.start()
        whole = train(one_category(tiny_mvtec, tmp_path / "whole", *options), ranks)
        with interrupted(before=7):
            train(one_category(tiny_mvtec, tmp_path / "cut", *options), ranks)
        resumed = train(one_category(tiny_mvtec, tmp_path / "cut", *options), ranks)
    finally:
        distributed.stop()
    ours, theirs = (load_file(run / "detector.safetensors") for run in (whole, resumed))
    assert all(torch.equal(ours[key], theirs[key]) or ours[key].isnan().all() for key in ours)
    rates = [json.loads(line)["lr"] for line in (whole / "log.jsonl").read_text().splitlines()]
    assert rates[4] == max(rates) and rates[-1] < rates[4] / 4 and not any(math.isnan(rate) for rate in rates)
    then, last = (load_file(whole / f"checkpoints/step-{step:08d}.safetensors") for step in (10, 12))  # frozen from step 10 on
    adapter = [key for key in then if key.startswith("module/adapter.")]
    student = [key for key in then if key.startswith("module/student.")]
    assert adapter and all(torch.equal(then[key], last[key]) for key in adapter)
    assert not all(torch.equal(then[key], last[key]) for key in student)


def test_monitors_are_given_the_students_rate_and_the_losses_also_where_a_run_goes_on(tiny_mvtec, tmp_path):
    (tmp_path / "ds.json").write_text(
        json.dumps({"csv_monitor": {"enabled": True, "output_path": str(tmp_path / "csv"), "job_name": "it"}})
    )
    options = ("--deepspeed_config", str(tmp_path / "ds.json"), "--training.steps", "6", "--training.log_every", "1")
    config = one_category(tiny_mvtec, tmp_path / "run", *options, "--training.checkpoint_seconds", "1e-9")
    try:
        ranks = distributed.start()
        with interrupted(before=4):
            train(config, ranks)
        run = train(config, ranks)
    finally:
        distributed.stop()
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    for name in ("lr", "loss", "forward"):
        rows = (tmp_path / f"csv/it/Train_Samples_{name}.csv").read_text().splitlines()
        seen = dict(row.split(",") for row in rows if not row.startswith("step"))  # a header for each process; steps made twice
        assert [int(count) for count in seen] == [4 * line["step"] for line in lines]
        assert [float(value) for value in seen.values()] == pytest.approx([line[name] for line in lines])
    assert (tmp_path / "csv/it/Train_Samples_lr_teacher.csv").is_file()
