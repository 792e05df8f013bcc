"""Phases, rates, and which pictures a step sees."""

import pytest
import torch

from bikd_fast.config import ObjectiveConfig, TrainingConfig
from bikd_fast.training.sampling import Sampler
from bikd_fast.training.schedule import phase

STEPS = 100


def phases(adapter=True, **objective):
    training = TrainingConfig(steps=STEPS)
    return [phase(s, training, ObjectiveConfig(**objective), adapter) for s in range(STEPS)]


def test_forward_only_then_ramp_then_both_then_teacher_frozen():
    names = [p.name for p in phases()]
    assert names == ["forward"] * 20 + ["ramp"] * 10 + ["both"] * 50 + ["frozen"] * 20
    assert [p.head for p in phases()] == [False] * 20 + [True] * 80


def test_beta_rises_to_its_value_and_never_above():
    betas = [p.beta for p in phases(beta=0.4)]
    assert betas[:20] == [0] * 20 and betas[80:] == [0] * 20
    assert all(a < b for a, b in zip(betas[19:30], betas[20:30])) and betas[30] == pytest.approx(0.4) == max(betas)


def test_the_teacher_moves_only_where_the_backward_direction_runs():
    for p in phases():
        assert (p.teacher > 0) == (p.name in ("ramp", "both"))


@pytest.mark.parametrize("off", [{"adapter": False}, {"beta": 0.0}])
def test_one_way_distillation_never_runs_backward(off):
    assert not any(p.backward or p.teacher for p in phases(**off))
    assert [p.head for p in phases(**off)] == [False] * 20 + [True] * 80  # its head learns as long as any other's


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9, 1.0])
def test_the_rates_carry_the_balance(beta):
    step = 40  # of both directions
    two, one = phases(beta=beta)[step], phases(beta=0.0)[step]
    assert two.teacher / (two.teacher + two.student) == pytest.approx(beta)
    assert max(two.teacher, two.student) == pytest.approx(one.student)
    assert two.weight == 0.5 and one.weight == 0
    theirs = phase(step, TrainingConfig(steps=STEPS), ObjectiveConfig(beta=beta), adapter=True, own_rates=False)
    assert max(theirs.student, theirs.teacher) == 1  # a scheduler of the user's sets the peak
    assert theirs.teacher / (theirs.teacher + theirs.student) == pytest.approx(beta)


def test_the_last_part_runs_at_a_tenth():
    assert {p.student for p in phases()[80:]} == {0.1}


def test_every_picture_is_seen_once_an_epoch():
    sampler = Sampler(count=10, batch_size=4, seed=3)
    seen = torch.cat([b.index for step in range(5) for b in sampler.batches(step)])
    for epoch in (seen[:10], seen[10:20]):
        assert sorted(epoch.tolist()) == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist()


@pytest.mark.parametrize(("world", "accumulation"), [(1, 1), (2, 1), (4, 1), (2, 2), (1, 4)])
def test_the_same_pictures_and_keys_at_any_world_size(world, accumulation):
    whole = Sampler(10, 8, seed=1)
    for step in range(4):
        shares = [Sampler(10, 8, 1, rank, world, accumulation).batches(step) for rank in range(world)]
        got = sorted(pair for rank in shares for b in rank for pair in zip(b.index.tolist(), b.keys.tolist()))
        want = sorted(pair for b in whole.batches(step) for pair in zip(b.index.tolist(), b.keys.tolist()))
        assert got == want


def test_keys_never_repeat_within_a_run_and_differ_between_seeds():
    keys = [torch.cat([b.keys for s in range(200) for b in Sampler(10, 8, seed).batches(s)]) for seed in (0, 1)]
    assert len(keys[0].unique()) == len(keys[0])
    assert not set(keys[0].tolist()) & set(keys[1].tolist())


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"training\.batch_size: 9"):
        Sampler(10, 9, 0, world=2)
