"""The fused operators on a GPU at real shapes; tests/kernels/test_fused_triton.py runs there too, at small ones."""

from __future__ import annotations

import pytest
import torch
from bikd_kernels import bidirectional_loss, cosine_discrepancy
from fused_cases import check_objective, check_pair, maps, objective_inputs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU: the kernels are NOT tested on one here"),
]
RESNET18 = ((64, 64, 64), (128, 32, 32), (256, 16, 16))
WIDE_RESNET50 = ((256, 64, 64), (512, 32, 32), (1024, 16, 16))
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("shapes", [RESNET18, WIDE_RESNET50], ids=["resnet18", "wide_resnet50"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("last", [True, False])
def test_real_shapes(shapes, dtype: torch.dtype, last: bool) -> None:
    teacher, student = (maps(shapes, 4, dtype, last, seed, "cuda") for seed in (0, 1))
    for options in (dict(), dict(reduction="none"), dict(over="map")):
        check_pair(teacher, student, "triton", **options)
    check_objective(objective_inputs(shapes, 2, (dtype,) * 3, last, device="cuda"), "triton",
                    beta=torch.tensor(0.4, device="cuda"))


@pytest.mark.parametrize("last", [True, False])
def test_the_same_bits_every_time(last: bool) -> None:
    def once():
        student = maps(RESNET18, 16, torch.bfloat16, last, 1, "cuda")
        loss = cosine_discrepancy(maps(RESNET18, 16, torch.bfloat16, last, 0, "cuda"), student)
        return loss, *torch.autograd.grad(loss, student)

    first = once()
    for _ in range(5):
        assert all(torch.equal(a, b) for a, b in zip(first, once()))


def test_memory_is_the_gradient_and_no_more() -> None:
    teacher = [x.detach() for x in maps(RESNET18, 16, torch.bfloat16, device="cuda")]
    student = maps(RESNET18, 16, torch.bfloat16, seed=1, device="cuda")
    size = sum(s.numel() * s.element_size() for s in student)
    cosine_discrepancy(teacher, student).backward()
    for s in student:
        s.grad = None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    cosine_discrepancy(teacher, student).backward()
    assert torch.cuda.max_memory_allocated() - before < 1.02 * size + (1 << 20)


def test_no_host_sync() -> None:
    inputs = objective_inputs(RESNET18, 2, device="cuda")
    beta = torch.tensor(0.4, device="cuda")
    bidirectional_loss(**inputs, beta=beta)[0].backward()  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        (bidirectional_loss(**inputs, beta=beta)[0] * 2).backward()
        cosine_discrepancy(inputs["clean"], inputs["student_clean"]).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_cuda_graph_and_compile() -> None:
    teacher = [x.detach() for x in maps(RESNET18, 2, torch.bfloat16, device="cuda")]
    student = maps(RESNET18, 2, torch.bfloat16, seed=1, device="cuda")

    def step():
        loss = cosine_discrepancy(teacher, student)
        return loss.detach(), *torch.autograd.grad(loss, student)  # a graph kept alive would tie the leaves to this stream

    expected = step()
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        captured = step()
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(captured, expected))
    compiled = torch.compile(lambda t, s: cosine_discrepancy(t, s), fullgraph=True)(teacher, student)
    assert torch.equal(compiled, expected[0])


def test_autocast_leaves_the_stored_types_alone() -> None:
    teacher, student = (maps(RESNET18, 2, torch.float16, seed=k, device="cuda") for k in (0, 1))
    with torch.autocast("cuda", dtype=torch.bfloat16):
        loss = cosine_discrepancy(teacher, student)
    assert loss.dtype == torch.float32 and torch.equal(loss, cosine_discrepancy(teacher, student))
