"""Training through graphs: which parts, and that nothing which a replay overwrites is used afterwards.

Without a GPU a graph is played by a stand-in that computes its part again into the same tensors, and spoils what the other parts of
its memory pool had returned, as a replay may. tests/gpu/test_training_graphs_gpu.py has real ones.
"""

import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from deepspeed.runtime.engine import DeepSpeedEngine
from safetensors.torch import load_file
from tiny import TINY, interrupted, one_category

from bikd_fast.config import TrainingConfig
from bikd_fast.training import capture, distributed, graphs, trainer
from bikd_fast.training.distillation import Inputs
from bikd_fast.training.graphs import INPUTS, NETWORKS, tensors, wanted
from bikd_fast.training.inputs import InputMaker
from bikd_fast.training.run import train

CONFIGS = Path(__file__).parents[2] / "configs"
GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
# numbers that are float32 exactly, so that a balance on the device is the host's to the bit
EXACT = ("--training.steps", "12", "--objective.beta", "0.25", "--training.ramp", "0.08", "--training.log_every", "1")


@pytest.fixture(scope="module")
def ranks():
    yield distributed.start()
    distributed.stop()


def leaves(value):
    if isinstance(value, torch.Tensor):
        return [value]
    if is_dataclass(value):
        value = [getattr(value, f.name) for f in fields(value)]
    return [x for part in value for x in leaves(part)] if isinstance(value, list | tuple) else []


def said(run):
    """What was logged of each step but times and memory: the phase, the loss and its terms."""
    other = ("seconds", "share", "pictures", "peak")
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith(other)} for row in rows]


class Again:
    """Stands for a CUDA graph."""

    def __init__(self, part, result, others):
        self.part, self.result, self.others = part, result, others

    def replay(self):
        for other in self.others:
            for x in leaves(other):
                x.detach().copy_(torch.full_like(x, torch.nan) if x.is_floating_point() else x)
        with torch.enable_grad():
            new = self.part()
        for to, x in zip(leaves(self.result), leaves(new), strict=True):
            if to is not x:  # what a graph was given, and hands on
                to.detach().copy_(x.detach())


def stand_in(monkeypatch):
    """Steps of a CPU go through graphs that are none; returns what was captured, in turn."""
    captured = []

    def record(*parts):
        for _ in range(capture.WARM):
            for part in parts:
                part()
        results = [part() for part in parts]
        captured.append(NETWORKS if len(parts) == 2 else INPUTS)
        return [(Again(part, own, [r for r in results if r is not own]), own) for part, own in zip(parts, results)]

    monkeypatch.setattr(graphs, "record", record)
    monkeypatch.setattr(trainer, "wanted", lambda training, device, *more: wanted(training, GPU, *more))
    return captured


def same(a, b):
    if said(a) != said(b):
        return False
    one, two = load_file(a / "detector.safetensors"), load_file(b / "detector.safetensors")
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) or (one[k].isnan() & two[k].isnan()).all() for k in one)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({}, {INPUTS, NETWORKS}),
        ({"training": TrainingConfig(cuda_graphs=False)}, set()),
        ({"device": CPU}, set()),
        ({"stage": 1}, {INPUTS}),
        ({"stage": 3}, {INPUTS}),
        ({"low": torch.float16}, {INPUTS}),
        ({"training": TrainingConfig(compile=True)}, {INPUTS}),
        ({"streamed": True}, {NETWORKS}),
        ({"streamed": True, "stage": 2}, set()),
    ],
)
def test_what_runs_through_graphs(change, parts):
    usual = dict(training=TrainingConfig(), device=GPU, stage=0, low=None, streamed=False)
    assert wanted(**{**usual, **change}) == parts


def test_the_first_of_a_kind_runs_without_and_the_second_is_captured():
    module, built = torch.nn.Linear(1, 1), []
    held = graphs.Graphs({INPUTS}, None, SimpleNamespace(module=module), lambda text: pytest.fail(text))
    one, other = SimpleNamespace(backward=False, head=False), SimpleNamespace(backward=True, head=True)
    found = [held._of(INPUTS, now, lambda: built.append(0) or len(built)) for now in (one, one, one, other, other, one, one)]
    assert found == [None, 1, 1, None, 2, None, 3]


def test_a_failed_capture_is_told_by_what_came_first():
    try:
        try:
            raise RuntimeError("a wait in the middle")
        finally:
            raise RuntimeError("failed due to a previous error")
    except RuntimeError as error:
        assert str(capture.origin(error)) == "a wait in the middle"
    lonely = RuntimeError("alone")
    assert capture.origin(lonely) is lonely


def test_every_tensor_of_the_inputs_is_brought_in_a_fixed_order():
    count = iter(range(99))
    values = {f.name: torch.tensor(next(count)) for f in fields(Inputs)}
    for name in ("clean", "corrupt", "regions"):
        values[name] = [torch.tensor(next(count)), torch.tensor(next(count))]
    whole = Inputs(**values)
    assert [int(x) for x in tensors(whole)] == [9, 10, 11, 12, 2, 3, 13, 14, 5, 6, 7, 8]
    whole.corrupt = whole.counts = None
    assert [int(x) for x in tensors(whole)] == [9, 10, 2, 3, 13, 14, 6, 7, 8]


@pytest.mark.parametrize("fails", [False, True])
def test_a_capture_leaves_the_modules_buffers_as_they_were(fails):
    module = torch.nn.BatchNorm1d(3)
    module(torch.rand(5, 3))
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    with pytest.raises(RuntimeError) if fails else capture.unchanged(module):
        with capture.unchanged(module):
            module(torch.rand(5, 3))
            assert not torch.equal(module.running_mean, before["running_mean"])
            if fails:
                raise RuntimeError
    assert all(torch.equal(buffer, before[name]) for name, buffer in module.named_buffers())


def test_a_gradient_has_the_strides_of_its_parameter():
    parameter = torch.rand(4, 3, 2, 2)
    gradient = torch.rand(4, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    found = graphs.laid_out(gradient, parameter)
    assert torch.equal(found, gradient) and found.stride() == parameter.stride()
    assert graphs.laid_out(found, parameter) is found


@pytest.mark.parametrize(
    "options",
    [(), ("--training.accumulation", "2"), ("--model.student", "reverse"), ("--model.adapter", "false")],
    ids=["plain", "accumulation", "reverse", "one way"],
)
def test_the_same_training_to_the_bit(tiny_mvtec, tmp_path, ranks, monkeypatch, options):
    plain = train(one_category(tiny_mvtec, tmp_path / "plain", *EXACT, *options), ranks)
    captured = stand_in(monkeypatch)
    through = train(one_category(tiny_mvtec, tmp_path / "through", *EXACT, *options), ranks)
    kinds = 2 if "--model.adapter" in options else 3
    assert captured == [INPUTS, NETWORKS] * kinds
    assert same(plain, through)
    off = train(one_category(tiny_mvtec, tmp_path / "off", *EXACT, *options, "--training.cuda_graphs", "false"), ranks)
    assert len(captured) == 2 * kinds and same(plain, off)


@pytest.mark.parametrize("name", ["stpm", "rd", "denoising", "dual", "inpainting"])
def test_other_methods_are_the_same_to_the_bit(tiny_mvtec, tmp_path, ranks, monkeypatch, name):
    words = ("--config", str(CONFIGS / f"{name}.yaml"), *TINY, "--model.teacher", "test_efficientnet", "--training.steps", "4")
    plain = train(one_category(tiny_mvtec, tmp_path / "plain", *words), ranks)
    captured = stand_in(monkeypatch)
    assert same(plain, train(one_category(tiny_mvtec, tmp_path / "through", *words), ranks))
    assert set(captured) == {INPUTS, NETWORKS}


def test_the_engines_hooks_are_no_part_of_a_graph(tiny_mvtec, tmp_path, ranks, monkeypatch):
    """They may wait for the device, as DeepSpeed's timer does from its third step on."""
    captured, inside, ran = stand_in(monkeypatch), [], []
    record, prologue = graphs.record, DeepSpeedEngine._forward_prologue

    def recording(*parts):
        inside.append(True)
        found = record(*parts)
        inside.clear()
        return found

    def noted(engine, *given):
        ran.append(bool(inside))
        return prologue(engine, *given)

    monkeypatch.setattr(graphs, "record", recording)
    monkeypatch.setattr(DeepSpeedEngine, "_forward_prologue", noted)
    train(one_category(tiny_mvtec, tmp_path / "run", *EXACT), ranks)
    assert NETWORKS in captured and len(ran) >= 12 and not any(ran)


def test_counts_of_all_ranks_take_the_place_of_a_graphs_own():
    maker = InputMaker.__new__(InputMaker)
    maker.ranks = SimpleNamespace(world=2)
    maker._over_ranks = lambda counts: lambda: [c + 1 for c in counts]
    clean = [torch.rand(2)]
    local = Inputs(clean, None, torch.rand(1), None, share_counts=torch.tensor([3.0, 4.0]))
    whole = maker.over_ranks(local)
    assert whole.share_counts.tolist() == [4, 5] and whole.counts is None and whole.clean is clean
    assert local.share_counts.tolist() == [3, 4]
    maker.ranks.world = 1
    assert maker.over_ranks(local) is local


@pytest.mark.parametrize("part", [INPUTS, NETWORKS])
def test_what_cannot_be_captured_runs_without_after_one_warning(tiny_mvtec, tmp_path, ranks, monkeypatch, capsys, part):
    plain = train(one_category(tiny_mvtec, tmp_path / "plain", *EXACT), ranks)
    captured = stand_in(monkeypatch)
    record = graphs.record

    def failing(*parts):
        found = record(*parts)  # as far as it can go
        if captured[-1] == part:
            raise RuntimeError("operation not permitted when stream is capturing.\nCUDA kernel errors ...")
        return found

    monkeypatch.setattr(graphs, "record", failing)
    capsys.readouterr()
    through = train(one_category(tiny_mvtec, tmp_path / "through", *EXACT), ranks)
    errors = capsys.readouterr().err
    assert same(plain, through)
    assert captured.count(part) == 1 and len(captured) == 4
    assert errors.count("warning: no CUDA graph") == 1
    assert f"graph of the {part} (training.cuda_graphs), steps take longer: operation not permitted when stream" in errors


def test_a_run_goes_on_with_graphs_where_it_stopped_without(tiny_mvtec, tmp_path, ranks, monkeypatch):
    plain = train(one_category(tiny_mvtec, tmp_path / "plain", *EXACT), ranks)
    words = (*EXACT, "--training.checkpoint_seconds", "1e-9")
    with interrupted(before=7):
        train(one_category(tiny_mvtec, tmp_path / "cut", *words, "--training.cuda_graphs", "false"), ranks)
    captured = stand_in(monkeypatch)
    resumed = train(one_category(tiny_mvtec, tmp_path / "cut", *words), ranks)
    assert captured == [INPUTS, NETWORKS] * 2  # both directions, and the frozen teacher's part
    assert same(plain, resumed)
