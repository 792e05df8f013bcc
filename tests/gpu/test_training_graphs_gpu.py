"""Training through CUDA graphs on a GPU: the same inputs to the bit, the same losses and gradients to rounding."""

import json
from pathlib import Path

import pytest
import torch
from tiny import TINY, interrupted, one_category

from bikd_fast.training import distributed, graphs
from bikd_fast.training.graphs import INPUTS, NETWORKS, tensors
from bikd_fast.training.run import train
from bikd_fast.training.schedule import Phase
from bikd_fast.training.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU: training through CUDA graphs is NOT tested here"),
]
pytest.importorskip("deepspeed")

CONFIGS = Path(__file__).parents[2] / "configs"
STEPS = ("--training.steps", "12", "--training.log_every", "1")
FORWARD = Phase("forward", 0.0, 1.0, 0.0, head=False)
RAMP, BOTH = Phase("ramp", 0.1, 1.0, 1.0), Phase("both", 0.3, 1.0, 1.0)
FROZEN = Phase("frozen", 0.0, 0.1, 0.0)


@pytest.fixture(scope="module")
def ranks():
    yield distributed.start()
    distributed.stop()


@pytest.fixture
def captured(monkeypatch):
    """What was captured, in turn."""
    found, record = [], graphs.record

    def noted(*parts):
        result = record(*parts)
        found.append(NETWORKS if len(parts) == 2 else INPUTS)
        return result

    monkeypatch.setattr(graphs, "record", noted)
    return found


@pytest.fixture
def make(ranks, tmp_path):
    """A trainer of the tiny settings on random pictures."""
    made = []

    def build(*words):
        words = ("--data.copies", "false", "--resume", "never", *words)
        config = one_category("unused", tmp_path / str(len(made)), *STEPS, *words)
        (tmp_path / str(len(made))).mkdir()
        pictures = torch.randint(0, 256, (16, 3, 64, 64), generator=torch.Generator().manual_seed(0)).byte()
        made.append(Trainer(config, pictures, [str(i) for i in range(16)], ranks, tmp_path / str(len(made))))
        made[-1].engine.train()
        return made[-1]

    yield build
    for trainer in made:
        trainer.graphs.clear()
        trainer.engine.destroy()


def laid_out_alike(gradient, parameter):
    """As autograd asks of a .grad; the stride of a dimension of one is anybody's."""
    pairs = zip(parameter.shape, gradient.stride(), parameter.stride())
    return all(size == 1 or a == b for size, a, b in pairs)


def losses(run):
    return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]


def gradients(module):
    found = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("now", [FORWARD, BOTH, FROZEN], ids=lambda now: now.name)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_inputs_are_the_same_to_the_bit(make, captured, now, precision):
    trainer = make("--training.precision", precision)
    for step in range(4):
        [batch] = trainer.sampler.batches(step)
        plain = trainer._inputs(batch, now)
        through = trainer.graphs.inputs(batch, now, None, None)
        assert len(tensors(plain)) == len(tensors(through))
        for a, b in zip(tensors(plain), tensors(through)):
            assert torch.equal(a.to(b.device), b)
    assert captured == [INPUTS] and trainer.graphs.parts == {INPUTS, NETWORKS}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("student", ["image", "reverse"])
def test_losses_and_gradients_are_the_same_to_rounding(make, captured, precision, student):
    trainer = make("--training.precision", precision, "--model.student", student)
    module = trainer.engine.module
    for p in module.parameters():  # zero-initialised layers would pass no gradient on
        if not p.any():
            torch.nn.init.normal_(p, std=0.05)
    for step, now in enumerate((FORWARD, FORWARD, RAMP, BOTH, BOTH, FROZEN, FROZEN)):
        [batch] = trainer.sampler.batches(step)
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=precision == "bf16"):
            plain, terms = module(trainer._inputs(batch, now), now.weight)
        plain.backward()
        expected = gradients(module)
        inputs = trainer.graphs.inputs(batch, now, None, None)
        loss, found = trainer.graphs.forward(inputs, now)
        trainer.engine.backward(loss)
        given = gradients(module)
        torch.testing.assert_close(loss.detach(), plain.detach(), rtol=1e-4, atol=1e-6)
        assert found.keys() == terms.keys()
        for name in terms:
            torch.testing.assert_close(found[name], terms[name].float(), rtol=1e-3, atol=1e-5)
        assert given.keys() == expected.keys() and len(given) > 10
        bound = 1e-3 if precision == "fp32" else 2e-2
        largest = max(float(g.norm()) for g in expected.values())
        for name, g in expected.items():
            assert float((given[name] - g).norm()) <= bound * max(float(g.norm()), 1e-2 * largest), name
        assert all(laid_out_alike(given[name], p) for name, p in module.named_parameters() if name in given)
    assert captured == [INPUTS, NETWORKS] * 3


@pytest.mark.parametrize(
    "options",
    [(), ("--training.accumulation", "2"), ("--training.precision", "bf16"), ("--model.student", "reverse")],
    ids=["plain", "accumulation", "bf16", "reverse"],
)
def test_training_has_the_same_losses(tiny_mvtec, tmp_path, ranks, captured, options):
    through = train(one_category(tiny_mvtec, tmp_path / "through", *STEPS, *options), ranks)
    assert captured == [INPUTS, NETWORKS] * 3  # forward only, both directions, the frozen teacher's part
    off = ("--training.cuda_graphs", "false")
    plain = train(one_category(tiny_mvtec, tmp_path / "plain", *STEPS, *options, *off), ranks)
    assert len(captured) == 6
    assert len(losses(plain)) == 12 and len(set(losses(plain))) == 12
    assert losses(through) == pytest.approx(losses(plain), rel=2e-2 if "bf16" in options else 1e-3)


@pytest.mark.parametrize("name", ["stpm", "rd", "denoising", "dual", "inpainting"])
def test_other_methods_have_the_same_losses(tiny_mvtec, tmp_path, ranks, captured, capsys, name):
    words = ("--config", str(CONFIGS / f"{name}.yaml"), *TINY, "--model.teacher", "test_efficientnet", *STEPS)
    through = train(one_category(tiny_mvtec, tmp_path / "through", *words), ranks)
    assert capsys.readouterr().err.count("warning: no CUDA graph") <= 2
    plain = train(one_category(tiny_mvtec, tmp_path / "plain", *words, "--training.cuda_graphs", "false"), ranks)
    assert captured and losses(through) == pytest.approx(losses(plain), rel=1e-3)


def test_stopped_and_resumed_it_goes_on_the_same(tiny_mvtec, tmp_path, ranks, captured):
    words = (*STEPS, "--training.checkpoint_seconds", "1e-9")
    whole = train(one_category(tiny_mvtec, tmp_path / "whole", *words), ranks)
    with interrupted(before=7):
        train(one_category(tiny_mvtec, tmp_path / "cut", *words), ranks)
    resumed = train(one_category(tiny_mvtec, tmp_path / "cut", *words), ranks)
    assert len(captured) == 6 + 4 + 4
    assert len(losses(resumed)) == 12 and losses(resumed) == pytest.approx(losses(whole), rel=1e-3)


def test_what_asks_the_device_runs_without_a_graph_and_says_so_once(make, captured, capsys, monkeypatch):
    trainer = make()
    simulator = trainer._inputs.simulator

    def asking(*args):
        made = simulator(*args)
        assert made.mask.sum().item() >= 0
        return made

    trainer._inputs.simulator = asking
    for step in range(3):
        trainer.step = step
        trainer._step(BOTH)
    said = capsys.readouterr().err
    assert said.count("warning: no CUDA graph of the inputs") == 1 and "synchronizing" in said
    assert captured == [NETWORKS] and trainer.graphs.parts == {NETWORKS}
    trainer = make()  # nothing of the attempt is left: what can be captured still is
    for step in range(2):
        trainer.step = step
        trainer._step(BOTH)
    assert captured == [NETWORKS, INPUTS, NETWORKS] and torch.rand(3, device="cuda").isfinite().all()
