"""The loop in one process: bit-for-bit repeatable, resumable, and it learns."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import interrupted, one_category

from bikd_fast.config import ConfigError, MapConfig, RunConfig, TrainingConfig
from bikd_fast.config_checks import check
from bikd_fast.data import Sample
from bikd_fast.data.cache import identity
from bikd_fast.errors import UserError
from bikd_fast.training import distributed
from bikd_fast.training.folder import DONE, fingerprint, finish
from bikd_fast.training.run import foreign_textures, split, train
from bikd_fast.training.sampling import Sampler


@pytest.fixture(scope="module")
def ranks():
    yield distributed.start()
    distributed.stop()


def settings(root, output, *extra):
    return one_category(root, output, "--training.steps", "12", *extra)


def weights(run: Path):
    return load_file(run / "detector.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) or (a[k].isnan() & b[k].isnan()).all() for k in a)


def test_same_seed_same_bits_and_another_seed_others(tiny_mvtec, tmp_path, ranks):
    runs = [train(settings(tiny_mvtec, tmp_path / n, "--seed", s), ranks) for n, s in (("a", "1"), ("b", "1"), ("c", "2"))]
    first, again, other = map(weights, runs)
    assert same(first, again)
    assert not same(first, other)


def test_the_balance_decides_how_far_the_teacher_moves(tiny_mvtec, tmp_path, ranks):
    """Adam divides a gradient by its size: as a weight of the loss alone the balance would move the teacher as far at any value."""
    moved = {}
    for beta in ("0.05", "0.5"):
        trained = weights(train(settings(tiny_mvtec, tmp_path / beta, "--objective.beta", beta), ranks))
        last = [w for name, w in trained.items() if name.startswith("adapter.levels") and name.endswith("2.weight")]
        moved[beta] = sum(float(w.norm()) for w in last)  # they begin at zero
    assert moved["0.5"] > 5 * moved["0.05"] > 0


@pytest.mark.parametrize("student", ["image", "reverse"])
def test_stopped_and_resumed_it_ends_as_if_undisturbed(tiny_mvtec, tmp_path, ranks, student):
    options = ("--model.student", student, "--training.checkpoint_seconds", "1e-9")
    whole = train(settings(tiny_mvtec, tmp_path / "whole", *options), ranks)

    with interrupted(before=7):
        train(settings(tiny_mvtec, tmp_path / "cut", *options), ranks)
    newest = sorted((tmp_path / "cut/checkpoints").glob("*.safetensors"))[-1]
    assert newest.name == "step-00000007.safetensors"
    resumed = train(settings(tiny_mvtec, tmp_path / "cut", *options), ranks)
    assert same(weights(whole), weights(resumed))


def test_a_folder_with_another_run_is_refused(tiny_mvtec, tmp_path, ranks):
    finish(train(settings(tiny_mvtec, tmp_path / "run"), ranks))
    with pytest.raises(ConfigError, match=r"holds a run of other settings"):
        train(settings(tiny_mvtec, tmp_path / "run", "--seed", "5"), ranks)
    assert (tmp_path / "run" / DONE).is_file()  # what was refused leaves the other run as it was
    train(settings(tiny_mvtec, tmp_path / "run", "--seed", "5", "--resume", "never"), ranks)
    assert not (tmp_path / "run" / DONE).exists()


@pytest.mark.parametrize(
    ("refused", "mended"),
    [
        (("--model.teacher", "resnet81"), ()),
        (("--model.weights", "no.safetensors"), ("--model.weights", "random")),
        ((), ("--data.on_bad_image", "skip")),
    ],
    ids=["teacher", "weights", "picture"],
)
def test_what_was_refused_before_anything_was_made_can_be_mended_in_the_same_folder(tiny_mvtec, tmp_path, ranks, refused, mended):
    shutil.copytree(tiny_mvtec / "stripes", tmp_path / "data/stripes")
    if not refused:
        (tmp_path / "data/stripes/train/good/003.png").write_bytes(b"cut short")
    with pytest.raises(UserError, match=r"teacher: timm has no|weights: no file|003.png: its 9 bytes"):
        train(settings(tmp_path / "data", tmp_path / "run", *refused), ranks)
    train(settings(tmp_path / "data", tmp_path / "run", *mended), ranks)


def test_another_category_or_map_is_another_run(tiny_mvtec, tmp_path, ranks):
    train(settings(tiny_mvtec, tmp_path / "run"), ranks)
    for other in (("--data.category", "dots"), ("--map.sigma", "2")):
        with pytest.raises(ConfigError, match=r"holds a run of other settings"):
            train(settings(tiny_mvtec, tmp_path / "run", *other), ranks)


def test_a_detector_of_other_pictures_is_kept_and_that_is_said(tiny_mvtec, tmp_path, ranks, capsys):
    shutil.copytree(tiny_mvtec / "stripes", tmp_path / "data/stripes")
    config = settings(tmp_path / "data", tmp_path / "run")
    before = weights(train(config, ranks))
    train(config, ranks)
    assert "already trained, kept" in (said := capsys.readouterr().err) and "have changed" not in said
    good = tmp_path / "data/stripes/train/good"
    shutil.copy(good / "000.png", good / "another.png")
    assert same(weights(train(config, ranks)), before)
    assert "have changed since: --resume never" in capsys.readouterr().err


def test_starting_anew_touches_nothing_but_its_own_run(tiny_mvtec, tmp_path, ranks):
    train(settings(tiny_mvtec, tmp_path / "runs/one"), ranks)
    before = weights(tmp_path / "runs/one")
    train(settings(tiny_mvtec, tmp_path / "runs", "--resume", "never"), ranks)
    assert same(weights(tmp_path / "runs/one"), before)
    assert "resume: auto" in (tmp_path / "runs/config.yaml").read_text()


def test_a_checkpoint_of_other_pictures_is_not_taken_up(tiny_mvtec, tmp_path):
    """Other contents of the same length under the same name; the same pictures elsewhere are the same."""
    config = settings(tiny_mvtec, "unused")
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        shutil.copytree(tiny_mvtec / "dots/train/good", folder)
    here, there = ([Sample(p) for p in sorted(folder.iterdir())] for folder in folders)
    assert fingerprint(config, "a", identity(here)) == fingerprint(config, "a", identity(there))
    changed = bytearray(there[-1].path.read_bytes())
    changed[-20] ^= 1
    there[-1].path.write_bytes(changed)
    assert fingerprint(config, "a", identity(here)) != fingerprint(config, "a", identity(there))


def test_foreign_textures_come_from_a_folder(tiny_mvtec, tmp_path, ranks):
    folder = tiny_mvtec / "dots/train/good"
    flat, as_in_dtd = (settings(tiny_mvtec, "unused", "--data.textures", str(where)) for where in (folder, folder.parent))
    assert foreign_textures(flat, ranks).shape == (12, 3, 64, 64)
    assert torch.equal(foreign_textures(flat, ranks), foreign_textures(as_in_dtd, ranks))
    run = train(settings(tiny_mvtec, tmp_path / "with", "--data.textures", str(folder)), ranks)
    assert not same(weights(run), weights(train(settings(tiny_mvtec, tmp_path / "without"), ranks)))


@pytest.mark.parametrize("share", [0.0, 0.15, 0.9])
def test_held_out_pictures_are_never_trained_on(share):
    training, held_out = split(20, share, seed=0)
    assert sorted(training + held_out) == list(range(20)) and training
    assert len(held_out) == min(19, round(20 * share))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("training.steps", "0"), ("objective.beta", "1.5"), ("data.image_size", "100"), ("training.lr_teacher", "0.1"),
        ("model.bound", "2"), ("model.bound", "1.0"), ("map.false_alarms", "0"), ("data.root", "null"),
        ("training.log_every", "0"), ("model.strides", "[4, 4]"), ("training.warmup", "-1"), ("training.warmup", "2"),
        ("training.weight_decay", "-1"), ("objective.segmentation", "-1"), ("objective.forward_corrupt", "-1"),
        ("training.forward_only", "-0.05"), ("training.lr_student", "-1"), ("training.lr_student", ".nan"),
        ("training.checkpoint_seconds", "-1"), ("training.max_bad_steps", "-1"), ("map.sigma", "-1"), ("map.sigma", ".inf"),
        ("model.teacher", "hf-hub:timm/resnet18"),
        ("seed", "99999999999999999999999"), ("simulation.nuisance", "5"), ("simulation.kinds", "{hole: -1}"),
    ],
)  # fmt: skip
def test_impossible_settings_name_their_key(tiny_mvtec, tmp_path, ranks, key, value):
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")):
        train(settings(tiny_mvtec, tmp_path, f"--{key}", value), ranks)


def test_settings_at_the_ends_of_what_works_are_taken():
    shares = {"warmup": 1.0, "forward_only": 1.0, "ramp": 0.0, "teacher_frozen": 0.0}
    still = {"lr_student": 0.0, "lr_teacher": 0.0, "weight_decay": 0.0, "checkpoint_seconds": 0.0}
    for seed in (-(2**42), 2**42):
        check(RunConfig(seed=seed, training=TrainingConfig(**shares, **still), map=MapConfig(sigma=0.0)))
        batch = Sampler(5, 4, seed).batches(10**6)[0]
        assert len(batch.index.unique()) == len(batch.keys.unique()) == 4
