"""What trainings of one process share: the same bits as without, and never more than there is room for."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tiny import one_category

from bikd_fast.data import open_dataset
from bikd_fast.models.backbone import Backbone
from bikd_fast.training import distributed, trainer
from bikd_fast.training.kept import Kept, digest, size_of
from bikd_fast.training.pool import Pool
from bikd_fast.training.run import train_one, training_groups


@pytest.fixture(scope="module")
def ranks():
    yield distributed.start()
    distributed.stop()


@pytest.mark.parametrize("category", ["stripes", "dots"])
def test_a_training_is_the_same_to_the_bit_with_what_another_left(tiny_mvtec, tmp_path, ranks, monkeypatch, category):
    """Of the two trainings that share, the first has other settings."""
    made = []
    whole, copies, masks = Pool._all_features, trainer.natural_copies, trainer.estimate_foreground
    monkeypatch.setattr(Pool, "_all_features", lambda self: made.append("features") or whole(self))
    monkeypatch.setattr(trainer, "natural_copies", lambda *given: made.append("copies") or copies(*given))
    monkeypatch.setattr(trainer, "estimate_foreground", lambda *given: made.append("masks") or masks(*given))
    options = ("--data.category", category, "--training.steps", "6", "--simulation.foreground", "true", "--data.copies", "true")
    config = one_category(tiny_mvtec, tmp_path / "unused", *options, "--data.holdout", "0.25")
    found = open_dataset("mvtec", tiny_mvtec, config.data.category)
    ((name, group),) = training_groups(config, found)
    other = replace(config, objective=replace(config.objective, beta=0.1), simulation=replace(config.simulation, scale=1.5))
    kept = Kept(2**28)

    train_one(other, name, group, tmp_path / "other", ranks, kept=kept)
    assert sorted(made) == ["copies", "features", "masks"]
    train_one(config, name, group, tmp_path / "with", ranks, kept=kept)
    assert len(made) == 3
    train_one(config, name, group, tmp_path / "without", ranks)
    assert len(made) == 6

    ours, alone, apart = (load_file(tmp_path / run / "detector.safetensors") for run in ("with", "without", "other"))
    assert all(torch.equal(ours[k], alone[k]) for k in alone) and ours.keys() == alone.keys()
    assert any(not torch.equal(ours[k], apart[k]) for k in ours)


def test_contents_are_the_key():
    backbone = Backbone("tf_efficientnet_lite0", (4, 8), 64).fold()
    x = torch.arange(12.0).view(1, 3, 2, 2)
    same = digest("f", x, backbone, torch.float32)
    assert digest("f", x.clone(), backbone, torch.float32) == same
    other = x.clone()
    other[0, 2, 1, 1] += 1e-6
    laid = x.contiguous(memory_format=torch.channels_last)
    pooled = Backbone("tf_efficientnet_lite0", (4, 8), 64, pool=3).fold()
    pooled.load_state_dict(backbone.state_dict())
    others = [
        digest("g", x, backbone, torch.float32),
        digest("f", other, backbone, torch.float32),
        digest("f", laid, backbone, torch.float32),
        digest("f", x.view(1, 3, 4, 1), backbone, torch.float32),
        digest("f", x, pooled, torch.float32),
        digest("f", x, backbone, torch.bfloat16),
    ]
    with torch.no_grad():
        next(backbone.parameters()).add_(1)
    others.append(digest("f", x, backbone, torch.float32))
    assert len({same, *others}) == 8


def test_a_frozen_backbone_computes_a_batch_once_and_only_inside():
    torch.manual_seed(0)
    backbone, kept, ran = Backbone("tf_efficientnet_lite0", (4, 8), 64).fold(), Kept(2**24), []
    backbone.net.register_forward_hook(lambda *_: ran.append(1))
    x, y = torch.rand(2, 2, 3, 64, 64)
    with torch.inference_mode():
        plain = [backbone(x), backbone(y)]
        for _ in range(2):
            with kept.frozen(backbone):
                found = [backbone(x), backbone(y), backbone(x.clone())]
        assert len(ran) == 4
        assert all(torch.equal(a, b) for levels, own in zip(found, [*plain, plain[0]]) for a, b in zip(levels, own))
        backbone(x)
        with Kept(0).frozen(backbone):
            backbone(x)
        assert len(ran) == 6


def test_the_longest_unused_goes_first_and_nothing_too_large_stays():
    kept, made = Kept(100), []

    def ask(name, count):
        return kept(lambda: made.append(name) or torch.full((count,), ord(name[0]), dtype=torch.uint8), name)

    first = ask("a", 40)
    ask("b", 40)
    assert ask("a", 40) is first and made == ["a", "b"]
    ask("c", 40)  # b has to go
    ask("a", 40)
    ask("b", 40)
    assert made == ["a", "b", "c", "b"]
    ask("d", 101)
    ask("d", 101)
    assert made[4:] == ["d", "d"] and ask("a", 40) is first
    assert sum(size for size, _ in kept._results.values()) <= 100


def test_a_result_that_is_none_is_kept_too_and_no_room_keeps_nothing():
    made = []
    for room, times in ((10, 1), (0, 3)):
        kept = Kept(room)
        made.clear()
        assert [kept(lambda: made.append(1), "none") for _ in range(3)] == [None] * 3
        assert len(made) == times
    assert size_of([torch.zeros(2, 3), (torch.zeros(4, dtype=torch.uint8), None, "x")]) == 28
