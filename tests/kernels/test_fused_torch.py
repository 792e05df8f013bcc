"""The fused operators inside the rest of PyTorch: torch.compile, torch.export, DDP, schema checks, dispatch."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from bikd_kernels import bidirectional_loss, cosine_discrepancy, dispatch
from fused_cases import maps, objective_inputs
from torch import Tensor, nn

LEVELS = ((8, 5, 5), (20, 3, 3))


def total(out: Tensor | list[Tensor]) -> Tensor:
    return sum(x.sum() for x in out) if isinstance(out, list) else out.sum()


@pytest.mark.parametrize("options", [dict(), dict(reduction="none"), dict(over="map"), dict(reduction="per_scale")], ids=str)
def test_compile_without_a_graph_break(options: dict) -> None:
    def run(teacher: list[Tensor], student: list[Tensor]) -> Tensor:
        return 3 * total(cosine_discrepancy(teacher, [2 * s for s in student], **options))

    torch._dynamo.reset()
    teacher, student = maps(LEVELS), maps(LEVELS, seed=1)
    eager = run(teacher, student)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")(teacher, student)
    assert torch.equal(eager, compiled)
    for a, b in zip(torch.autograd.grad(eager, student), torch.autograd.grad(compiled, student)):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=0)


def test_compile_the_objective() -> None:
    inputs = objective_inputs(LEVELS)

    def run(beta: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return bidirectional_loss(**inputs, beta=beta)

    torch._dynamo.reset()
    beta = torch.tensor(0.3)
    eager, terms = run(beta)
    compiled, same = torch.compile(run, fullgraph=True, backend="aot_eager")(beta)
    assert torch.equal(eager, compiled) and all(torch.equal(terms[n], same[n]) for n in terms)
    leaves = inputs["student_clean"] + inputs["adapter_corrupt"]
    for a, b in zip(torch.autograd.grad(eager, leaves), torch.autograd.grad(compiled, leaves)):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=0)


def test_export() -> None:
    class Loss(nn.Module):
        def forward(self, teacher: list[Tensor], student: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
            return cosine_discrepancy(teacher, student), cosine_discrepancy(teacher, student, reduction="none")

    teacher, student = ([x.detach() for x in maps(LEVELS, seed=k)] for k in (0, 1))
    exported = torch.export.export(Loss(), (teacher, student)).module()
    for a, b in zip(exported(teacher, student), Loss()(teacher, student)):
        assert torch.equal(torch.as_tensor(total(a)), torch.as_tensor(total(b)))


def schema_calls() -> list[tuple[Callable, tuple]]:
    teacher, student = ([x.detach() for x in maps(LEVELS, seed=k)] for k in (0, 1))
    inputs = {n: [x.detach() for x in v] for n, v in objective_inputs(LEVELS).items()}
    features = [inputs[n] for n in ("clean", "corrupt", "student_clean", "student_corrupt", "adapter_clean",
                                    "adapter_corrupt", "regions")]
    ops, two = torch.ops.bikd_kernels, [1.0, 1.0]
    positions = [torch.ones(4, t.shape[0], *t.shape[2:]) for t in teacher]
    return [
        (ops.pair, (teacher, student, [], two, None, True, 1e-8, False, True, True, "reference")),
        (ops.statistics, (teacher, student, False, 1e-8, "reference")),
        (ops.statistics, (teacher, student, True, 1e-8, "reference")),
        (ops.blend, (teacher, student, positions, True, True, "reference")),
        (ops.objective, (*features, torch.ones(2, 2), None, 0.5, two, [0.5, 0.5, 0.5, 0.5, 1, 1, 1, 0, 1e-8],
                         True, True, True, "reference")),
    ]


@pytest.mark.parametrize("case", range(5))
def test_registration(case: int) -> None:
    op, arguments = schema_calls()[case]
    torch.library.opcheck(op.default, arguments, test_utils=("test_schema", "test_faketensor"))


def test_distributed_data_parallel(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    try:
        torch.manual_seed(0)
        net = nn.Conv2d(8, 8, 1)
        parallel = nn.parallel.DistributedDataParallel(net)
        (x,) = maps(((8, 5, 5),))
        for model in (net, parallel):
            net.zero_grad()
            cosine_discrepancy([x.detach()], [model(x)]).backward()
            grads = [p.grad.clone() for p in net.parameters()]
            assert all(g.abs().sum() > 0 for g in grads)
            if model is net:
                plain = grads
        assert all(torch.equal(a, b) for a, b in zip(plain, grads))
    finally:
        dist.destroy_process_group()


class Device:
    """As much of a tensor on a GPU as choosing an implementation looks at."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype, self.device, self.is_cuda = dtype, torch.device("cuda", 0), True

    def is_floating_point(self) -> bool:
        return self.dtype.is_floating_point


def test_who_runs(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(dispatch, "HAS_TRITON", True)
    monkeypatch.setattr(dispatch, "INTERPRETED", False)
    dispatch.say_once.cache_clear()
    gpu, cpu = [Device(torch.bfloat16)], [torch.ones(1)]
    assert dispatch.choose("auto", gpu) == dispatch.choose("triton", gpu) == "triton"
    assert dispatch.choose("reference", gpu) == dispatch.choose("auto", cpu) == "reference"
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET=1"):
        dispatch.choose("triton", cpu)
    with pytest.raises(ValueError, match="one device"):
        dispatch.choose("auto", gpu + cpu)
    monkeypatch.setattr(dispatch, "HAS_TRITON", False)
    with caplog.at_level(logging.WARNING, "bikd_kernels"):
        assert {dispatch.choose("auto", gpu) for _ in range(3)} == {"reference"}
    assert [r.message for r in caplog.records] == ["falling back to the plain PyTorch operators: Triton is not installed"]
    dispatch.say_once.cache_clear()


def peak_bytes(run: Callable[[], object]) -> int:
    """Most bytes allocated at once while run() works, over what there was before."""
    run()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = top = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        top = max(top, live)
    assert top > 0
    return top


def test_cpu_memory_is_the_gradient_and_a_few_pieces() -> None:
    levels = ((24, 96, 96), (40, 48, 48))
    teacher = [x.detach() for x in maps(levels, 8)]
    student = maps(levels, 8, seed=1)
    size = sum(s.numel() * s.element_size() for s in student)
    ours = peak_bytes(lambda: torch.autograd.grad(cosine_discrepancy(teacher, student), student))
    eager = peak_bytes(lambda: torch.autograd.grad(
        sum((1 - nn.functional.cosine_similarity(t, s, dim=1)).mean() for t, s in zip(teacher, student)), student))
    assert ours < 1.6 * size < 2.5 * size < eager
