"""A set that is read while training: the same detector, bit for bit, whatever is in memory and however many threads read."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny import one_category

from bikd_fast.config import ConfigError
from bikd_fast.data import Sample, load_images
from bikd_fast.data.store import Store
from bikd_fast.simulation import SimulationConfig, Simulator
from bikd_fast.simulation.content import foreign_rows
from bikd_fast.simulation.foreground import evenly
from bikd_fast.training import distributed, streaming
from bikd_fast.training.mirrors import rounds, with_copies
from bikd_fast.training.run import HELD_OUT, split, train
from bikd_fast.training.sampling import Sampler
from bikd_fast.training.streaming import Stream, in_memory

TINY_MEMORY = ("--data.cache_gb", "1e-6")


@pytest.fixture(scope="module")
def ranks():
    yield distributed.start()
    distributed.stop()


def losses(run: Path):
    return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]


def samples(root: Path) -> list[Sample]:
    return [Sample(p) for p in sorted((root / "dots/train/good").iterdir())]


def test_a_streamed_training_is_the_one_from_memory_bit_for_bit(tiny_mvtec, tmp_path, ranks):
    words = ("--training.steps", "8", "--training.forward_only", "0.2", "--training.log_every", "1", "--training.accumulation", "2")
    held = train(one_category(tiny_mvtec, tmp_path / "held", *words), ranks)
    small = (*TINY_MEMORY, "--data.cache_dir", str(tmp_path / "cache"))
    read = train(one_category(tiny_mvtec, tmp_path / "read", *words, *small), ranks)
    assert len(losses(held)) == 8 and losses(held) == losses(read)
    one, two = load_file(held / "detector.safetensors"), load_file(read / "detector.safetensors")
    assert all(torch.equal(one[k], two[k]) or one[k].isnan().all() for k in one)
    came_to = json.loads((read / "training.json").read_text())
    assert sum(came_to[f"share_{name}"] for name in ("data", "communication", "compute", "other")) == pytest.approx(1, abs=1e-3)
    assert came_to["pictures_per_second"] > 0 and came_to["peak_memory_mb"] > 100
    rows = next((tmp_path / "cache").glob("store-*.u8"))
    assert rows.stat().st_size <= 12 * 3 * 64 * 64


def test_what_a_step_gets_does_not_depend_on_threads_or_on_where_it_starts(tiny_mvtec, tmp_path, monkeypatch):
    groups = torch.arange(12) % 2
    copies = rounds([["left-right"], ["left-right", "half turn"]])
    whole = with_copies(load_images(samples(tiny_mvtec), 64)[0], copies, groups)
    sampler = Sampler(len(whole), 4, seed=3)
    for threads, first in ((1, 0), (4, 0), (4, 5)):
        monkeypatch.setattr(streaming, "default_threads", lambda threads=threads: threads)
        store = Store(samples(tiny_mvtec), 64, tmp_path / f"{threads}{first}")
        stream = Stream(store, range(12), copies, groups)
        assert store.decoded == 0  # nothing is read before it is asked for
        stream.begin(sampler, 12, pin=False)
        for step in range(first, 12):
            batch = sampler.batches(step)[0]
            own, others = stream.take(step)[0]
            assert torch.equal(own, whole[batch.index])
            assert torch.equal(others, whole[foreign_rows(batch.index, batch.keys, len(whole))])
        stream.end()
        assert store.decoded >= 12 - first


@pytest.mark.parametrize(("objects", "mixed"), [(False, False), (True, False), (True, True)])
def test_a_simulator_that_is_brought_its_pictures_makes_the_same_defects(objects, mixed):
    y, x = torch.meshgrid(torch.arange(128), torch.arange(128), indexing="ij")
    noise = torch.randint(0, 30, (300, 3, 128, 128), generator=torch.Generator().manual_seed(0))
    inside = ((y - 64) ** 2 + (x - 64) ** 2 < 40**2) if objects else torch.zeros(128, 128, dtype=torch.bool)
    groups = torch.arange(300) % 2 if mixed else None
    with_object = inside if groups is None else inside & (groups == 1).view(-1, 1, 1, 1)
    pool = (noise + torch.where(with_object, 180, 20)).byte()
    config = SimulationConfig()
    holding, brought = Simulator(config, pool, groups=groups), Simulator(config, pool[evenly(300)], count=300, groups=groups)
    assert brought.each_time == objects == (holding.foreground is not None)
    index, keys = torch.tensor([0, 299, 17, 130, 5, 66]), torch.arange(6) * 77
    shown = pool[index].float() / 255
    a, b = holding(shown, index, keys), brought(shown, index, keys, pool[foreign_rows(index, keys, 300)])
    assert a.mask.any() and all(torch.equal(p, q) for p, q in zip(a, b))


def test_the_choice_goes_by_size(monkeypatch):
    monkeypatch.setattr("bikd_fast.data.room.memory", lambda: 10**9)
    assert in_memory(100, 64, 0) and not in_memory(10_000, 64, 0)
    assert in_memory(10_000, 64, 10) and not in_memory(100, 64, 1e-6)
    monkeypatch.setenv("LOCAL_SIZE", "8")  # every rank holds its own
    count = 250_000_000 // (6 * 3 * 64 * 64)
    assert not in_memory(count, 64, 0) and in_memory(count // 8, 64, 0)
    assert len(split(100_000, 0.15, 0)[1]) == HELD_OUT


def test_a_bad_picture_met_while_training_is_named_or_replaced(tmp_path):
    for number in range(4):
        Image.fromarray(np.full((70, 64, 3), 40 * number, np.uint8)).save(tmp_path / f"{number}.png")
    (tmp_path / "2.png").write_bytes(b"nothing")
    some = [Sample(tmp_path / f"{n}.png") for n in range(4)]
    with pytest.raises(ValueError, match=r"2\.png"):
        Store(some, 64, tmp_path / "cache").rows([0, 2])
    store = Store(some, 64, tmp_path / "cache", "skip")
    assert store.rows([1, 2, 3])[:, 0, 0, 0].tolist() == [40, 120, 120]
    assert list(store.skipped) == [tmp_path / "2.png"]


def test_a_memory_of_features_needs_all_pictures(tiny_mvtec, tmp_path, ranks):
    alone = [word for part in ("adapter", "head", "mahalanobis") for word in (f"--model.{part}", "false")]
    bank = ("--model.student", "bank", *alone, "--data.cache_dir", str(tmp_path))
    with pytest.raises(ConfigError, match="cache_gb"):
        train(one_category(tiny_mvtec, tmp_path / "run", *bank, *TINY_MEMORY), ranks)
