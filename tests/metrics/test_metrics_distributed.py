"""evaluate() over 2 to 4 processes: every rank gets, bit for bit, what one process with all the images gets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist
import torch.multiprocessing as mp
from exact_reference import random_case

from bikd_fast.metrics import StreamingEvaluation, evaluate, to_json

CASES = 12
WORLD = 4


def make_case(seed: int) -> tuple[list[np.ndarray], list[np.ndarray], list[float], list[str]]:
    rng = np.random.default_rng(seed)
    maps, masks = random_case(rng, images=int(rng.integers(1, 14)))
    if seed % 3 == 0:  # one image in double precision: every rank must rank in double then
        maps[-1] = maps[-1].astype(np.float64) + 1e-12
    kinds = [["good", "scratch", "hole, käsig"][(1 + i % 2) * bool(m.any())] for i, m in enumerate(masks)]
    return maps, masks, rng.normal(size=len(maps)).round(1).tolist(), kinds


def work(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD)
    answers: dict[str, list] = {}
    for world in (2, 3, 4):
        group = dist.new_group(list(range(world)))
        if rank >= world:
            continue
        answers[str(world)] = [share(seed, rank, world, group) for seed in range(CASES)]
        answers[f"{world} errors"] = errors(rank, world, group)
        answers[f"{world} stream"] = stream(rank, world, group)
    Path(folder, f"rank{rank}.json").write_text(json.dumps(answers))
    dist.barrier()
    dist.destroy_process_group()


def share(seed: int, rank: int, world: int, group: dist.ProcessGroup) -> str:
    maps, masks, scores, kinds = make_case(seed)
    mine = list(range(len(maps)))[rank::world]  # interleaved, as samplers do; some ranks may get none
    options = dict(kinds=[kinds[i] for i in mine], indices=mine, aupimo=True, curves=20, group=group)
    return to_json(evaluate([maps[i] for i in mine], [masks[i] for i in mine], [scores[i] for i in mine], **options))


def errors(rank: int, world: int, group: dist.ProcessGroup) -> list[str]:
    maps, masks = np.zeros((2, 4, 4), np.float32), np.zeros((2, 4, 4), bool)
    masks[0, 0, 0] = True
    broken = maps.copy()
    broken[0, 2, 2] = np.nan
    said = []
    for attempt in (
        lambda: evaluate(broken if rank == 1 else maps, masks, [0.0, 1.0], group=group),
        lambda: evaluate(maps, masks[: 1 + (rank == 0)], group=group),
        lambda: evaluate(maps, masks, indices=[0, 1], group=group),
    ):
        try:
            attempt()
            said.append("nothing")
        except (ValueError, RuntimeError) as e:
            said.append(str(e))
    return said


def stream(rank: int, world: int, group: dist.ProcessGroup) -> str:
    maps, masks, scores, _ = make_case(1)
    part = StreamingEvaluation()
    for i in range(rank, len(maps), world):
        part.add([maps[i]], [masks[i]], [scores[i]])
    first = to_json(part.result(group=group))
    assert to_json(part.result(group=group)) == first  # asking changes nothing
    return first


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(work, (str(folder),), nprocs=WORLD)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(WORLD)]


@pytest.mark.parametrize("world", [2, 3, 4])
def test_bit_identical_to_one_process(answers: list[dict], world: int) -> None:
    for seed in range(CASES):
        maps, masks, scores, kinds = make_case(seed)
        one = to_json(evaluate(maps, masks, scores, kinds=kinds, aupimo=True, curves=20))
        for rank in range(world):
            assert answers[rank][str(world)][seed] == one, (seed, rank)


@pytest.mark.parametrize("world", [2, 3, 4])
def test_an_error_on_one_rank_ends_all(answers: list[dict], world: int) -> None:
    for rank in range(world):
        nan, lengths, twice = answers[rank][f"{world} errors"]
        assert nan.startswith("maps[0] contains NaN") if rank == 1 else "failed on rank 1" in nan
        assert "failed on rank 1" in lengths if rank == 0 else "2 maps for 1 masks" in lengths
        assert "image index 0 was given twice" in twice


@pytest.mark.parametrize("world", [2, 3, 4])
def test_streams_of_several_ranks_merge(answers: list[dict], world: int) -> None:
    maps, masks, scores, _ = make_case(1)
    whole = StreamingEvaluation()
    for m, k, s in zip(maps, masks, scores):
        whole.add([m], [k], [s])
    one = json.loads(to_json(whole.result()))
    for rank in range(world):
        found = json.loads(answers[rank][f"{world} stream"])
        assert found.keys() == one.keys()
        for name, value in {**one, **one["bounds"]}.items():
            if name != "bounds":
                assert {**found, **found["bounds"]}[name] == pytest.approx(value, abs=1e-12), name
