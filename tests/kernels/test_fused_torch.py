"""The fused operators inside the rest of PyTorch: torch.compile, torch.export, DDP, schema checks, dispatch."""

import logging
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from bikd_kernels import bidirectional_loss, cosine_discrepancy, dispatch, region_counts
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


def test_compile_with_numbers_that_change() -> None:
    inputs = objective_inputs(LEVELS)
    torch._dynamo.reset()

    def run(beta: float, eps: float) -> Tensor:
        return bidirectional_loss(**inputs, beta=beta, eps=eps)[0]

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for numbers in ((0.25, 1e-8), (0.5, 1e-7), (0.75, 1e-6)):
        assert torch.equal(compiled(*numbers), run(*numbers))


@pytest.mark.parametrize("operator", ["pair", "objective"])
def test_compiled_autograd_behind_an_eager_forward_pass(operator: str) -> None:
    for seed in (0, 1):
        inputs = objective_inputs(LEVELS, seed=seed)
        leaves = inputs["student_clean"]

        def loss(given: dict = inputs) -> Tensor:
            if operator == "pair":
                return cosine_discrepancy(given["clean"], given["student_clean"])
            return bidirectional_loss(**given)[0]

        expected = torch.autograd.grad(3 * loss(), leaves)
        value = 3 * loss()
        with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
            value.backward()
        for x, g in zip(leaves, expected):
            torch.testing.assert_close(x.grad, g, rtol=1e-6, atol=0)


def test_export() -> None:
    class Loss(nn.Module):
        def forward(self, teacher: list[Tensor], student: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
            return cosine_discrepancy(teacher, student), cosine_discrepancy(teacher, student, reduction="none")

    teacher, student = ([x.detach() for x in maps(LEVELS, seed=k)] for k in (0, 1))
    exported = torch.export.export(Loss(), (teacher, student)).module()
    for a, b in zip(exported(teacher, student), Loss()(teacher, student)):
        assert torch.equal(torch.as_tensor(total(a)), torch.as_tensor(total(b)))


def test_export_the_objective() -> None:
    class Loss(nn.Module):
        def forward(self, lists: dict[str, list[Tensor]], beta: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            return bidirectional_loss(**lists, beta=beta)

    lists, beta = {n: [x.detach() for x in v] for n, v in objective_inputs(LEVELS).items()}, torch.tensor(0.3)
    program = torch.export.export(Loss(), (lists, beta))
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert {"bikd_kernels.objective.default", "bikd_kernels.region_counts.default"} <= called
    other = {n: [x.detach() for x in v] for n, v in objective_inputs(LEVELS, seed=1).items()}
    for given in (lists, other):  # nothing of the first call is a constant of the program
        (loss, terms), (found, named) = Loss()(given, beta), program.module()(given, beta)
        assert torch.equal(found, loss) and named.keys() == terms.keys()
        assert all(torch.equal(named[n], terms[n]) for n in terms)


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


def test_registration_of_region_counts() -> None:
    regions = objective_inputs(LEVELS)["regions"]
    torch.library.opcheck(torch.ops.bikd_kernels.region_counts.default, (regions, "reference"),
                          test_utils=("test_schema", "test_faketensor"))


class Pupil(nn.Module):
    """A student and an adapter of one level each, from numbers to the lists of bidirectional_loss."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.student, self.adapter = (nn.Conv2d(8, 8, 1, dtype=torch.float64) for _ in range(2))

    def forward(self, clean: Tensor, corrupt: Tensor) -> dict[str, list[Tensor]]:
        return dict(student_clean=[self.student(clean)], student_corrupt=[self.student(corrupt)],
                    adapter_clean=[self.adapter(clean)], adapter_corrupt=[self.adapter(corrupt)])


def learned(model: nn.Module, pictures: list[Tensor], regions: Tensor | None, counts: Tensor | None) -> list[Tensor]:
    """Gradients of the parameters: of bidirectional_loss, or of the pair where there are no regions."""
    model.zero_grad()
    made = model(*pictures)
    if regions is None:
        cosine_discrepancy(pictures, made["student_clean"] + made["adapter_corrupt"]).backward()
    else:
        clean, corrupt = ([x] for x in pictures)
        bidirectional_loss(clean, corrupt, **made, regions=[regions], counts=counts, beta=0.6)[0].backward()
    return [p.grad.clone() for p in model.parameters()]


def one_rank_of_two(rank: int, folder: str) -> None:
    """Half of a batch a rank, and all defects on the second: gradients of the ranks' mean are those of the whole batch."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=120))
    regions = torch.zeros(4, 5, 5, dtype=torch.uint8)
    regions[2, :2], regions[3, 2], regions[3, 4, :2] = 2, 1, 2
    pictures = [x.detach() for k in (0, 1) for x in maps(((8, 5, 5),), batch=4, dtype=torch.float64, seed=k)]
    mine = slice(2 * rank, 2 * rank + 2)
    half, own = [x[mine] for x in pictures], regions[mine]
    counts = region_counts([own]).float()  # from here on as the trainer does
    assert (counts[0, 1] == 0) == (rank == 0)
    dist.all_reduce(counts)
    counts /= 2
    net = Pupil()
    whole = learned(net, pictures, regions, None)
    whole_pair = learned(net, pictures, None, None)
    parallel = nn.parallel.DistributedDataParallel(net)
    for a, b in ((whole, learned(parallel, half, own, counts)), (whole_pair, learned(parallel, half, None, None))):
        for x, y in zip(a, b, strict=True):
            assert x.abs().sum() > 0
            torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-15)
    for k, (x, y) in enumerate(zip(whole, learned(parallel, half, own, None))):  # each rank by its own counts: the adapter's differ
        assert torch.allclose(x, y, rtol=1e-3) == (k < 2)
    dist.barrier()
    dist.destroy_process_group()


def test_distributed_data_parallel(tmp_path: Path) -> None:
    mp.spawn(one_rank_of_two, (str(tmp_path),), nprocs=2)


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
