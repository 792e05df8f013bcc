"""Two processes: every ZeRO stage trains alike, and a checkpoint of any rank count and stage is taken up by any other."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from two_ranks import CUT, STEPS, settings

from bikd_fast.training import distributed
from bikd_fast.training.place import free_port
from bikd_fast.training.run import train

STAGES = (0, 1, 2, 3)


def losses(run):
    return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]


def cut(run: Path, to: Path) -> None:
    """A run as a kill after step CUT leaves it: its checkpoint, and log lines beyond it."""
    (to / "checkpoints").mkdir(parents=True)
    shutil.copy(run / f"checkpoints/step-{CUT:08d}.safetensors", to / "checkpoints")
    shutil.copy(run / "log.jsonl", to)


@pytest.fixture(scope="module")
def ranks():
    yield distributed.start()
    distributed.stop()


@pytest.fixture(scope="module")
def runs(tiny_mvtec, tmp_path_factory, ranks):
    """FOLDER/single by one rank, FOLDER/zeroN by two, FOLDER/resumedN by two from single's checkpoint, FOLDER/nan by two."""
    folder = tmp_path_factory.mktemp("two")
    train(settings(tiny_mvtec, folder / "single"), ranks)
    for stage in STAGES:
        cut(folder / "single", folder / f"resumed{stage}")
    environment = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    script = Path(__file__).with_name("two_ranks.py")
    processes = [
        subprocess.Popen(
            [sys.executable, script, tiny_mvtec, folder], env={**environment, "RANK": str(r), "LOCAL_RANK": str(r)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for r in range(2)
    ]  # fmt: skip
    try:
        said = [p.communicate(timeout=280)[0] for p in processes]
    finally:
        for p in processes:
            p.kill()
    assert [p.returncode for p in processes] == [0, 0], said[0][-3000:] + said[1][-3000:]
    return folder, said[0]


def close(a, b, tolerance):
    return a.keys() == b.keys() and all(torch.allclose(a[k], b[k], rtol=tolerance, atol=tolerance, equal_nan=True) for k in a)


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_on_two_ranks_gives_the_losses_of_one_rank(runs, stage):
    folder, _ = runs
    assert losses(folder / f"zero{stage}") == pytest.approx(losses(folder / "single"), rel=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_checkpoints_of_every_stage_hold_the_same_moments(runs, stage):
    folder, _ = runs
    name = f"checkpoints/step-{CUT:08d}.safetensors"
    ours, single = load_file(folder / f"zero{stage}" / name), load_file(folder / "single" / name)
    moments = [k for k in single if "/exp_avg/" in k]
    assert len(moments) > 20 and ours.keys() == single.keys()
    assert all(torch.allclose(ours[k], single[k], rtol=1e-3, atol=1e-6) for k in moments)
    assert all(ours[k] == single[k] for k in single if "/step/" in k)


@pytest.mark.parametrize("stage", STAGES)
def test_one_rank_to_two_ranks_of_every_stage(runs, stage):
    folder, said = runs
    assert said.count(f"going on from step {CUT}") == len(STAGES)
    assert losses(folder / f"resumed{stage}") == pytest.approx(losses(folder / "single"), rel=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_of_every_stage_to_one_rank(runs, stage, tiny_mvtec, ranks):
    """And the moments matter: without them the losses after the cut are others."""
    folder, _ = runs
    cut(folder / f"zero{stage}", folder / f"back{stage}")
    train(settings(tiny_mvtec, folder / f"back{stage}"), ranks)
    back, single = losses(folder / f"back{stage}"), losses(folder / "single")
    assert len(back) == STEPS and back == pytest.approx(single, rel=1e-5)


def test_a_loss_that_is_not_finite_on_one_rank_is_skipped_on_both_and_its_pictures_are_named(runs):
    folder, said = runs
    rows = [json.loads(line) for line in (folder / "nan/log.jsonl").read_text().splitlines()]
    assert len(rows) == STEPS and rows[-1]["bad_steps"] == 1
    message = next(line for line in said.splitlines() if "step 3 skipped" in line)
    assert message.count("stripes/train/good/") == 2, message  # rank 1's two pictures, not rank 0's
    good = losses(folder / "single")
    assert losses(folder / "nan")[:2] == pytest.approx(good[:2], rel=1e-5)
    weights = [load_file(folder / f"nan/checkpoints/step-{s:08d}.safetensors") for s in (2, 3, 4)]
    module = [k for k in weights[0] if not k.startswith("optimizer/step")]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in module)  # step 3 changed nothing
    assert not all(torch.equal(weights[1][k], weights[2][k]) for k in module)
    assert all(torch.isfinite(weights[2][k]).all() for k in module)
