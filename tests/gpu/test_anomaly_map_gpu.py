"""The anomaly map kernels on a GPU at real shapes; tests/kernels/test_anomaly_map_triton.py runs there too."""

from __future__ import annotations

import pytest
import torch
from bikd_kernels import anomaly_map
from map_cases import features, oracle, worst

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU: the kernels are NOT tested on one here"),
]
RESNET18 = ((64, 64, 64), (128, 32, 32), (256, 16, 16))
WIDE_RESNET50 = ((256, 64, 64), (512, 32, 32), (1024, 16, 16))


@pytest.mark.parametrize("shapes", [RESNET18, WIDE_RESNET50], ids=["resnet18", "wide_resnet50"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("combine", ["sum", "product"])
def test_real_shapes(shapes, dtype: torch.dtype, last: bool, combine: str) -> None:
    teacher, student = features(shapes, 3, dtype, teacher_last=last, student_last=last, device="cuda")
    maps, scores = anomaly_map(teacher, student, 256, combine=combine)
    expected, top = oracle(teacher, student, 256, combine=combine)
    assert worst(maps, expected) < 3e-6
    assert worst(scores, top) < 3e-6


@pytest.mark.parametrize("size", [(1024, 768), (50, 33)])
def test_sizes_far_from_the_features(size: tuple[int, int]) -> None:
    teacher, student = features(RESNET18, 2, device="cuda")
    maps, _ = anomaly_map(teacher, student, size, padding="symmetric")
    assert worst(maps, oracle(teacher, student, size, padding="symmetric")[0]) < 3e-6


@pytest.mark.parametrize("score", ["max", "topk"])
def test_same_bits_from_run_to_run_and_batch_to_batch(score: str) -> None:
    teacher, student = features(RESNET18, 32, torch.bfloat16, device="cuda")
    first = anomaly_map(teacher, student, 256, score=score)
    for _ in range(10):
        again = anomaly_map(teacher, student, 256, score=score)
        assert torch.equal(first[0], again[0])
        assert torch.equal(first[1], again[1])
    part = anomaly_map([t[5:9] for t in teacher], [s[5:9] for s in student], 256, score=score)
    assert torch.equal(part[0], first[0][5:9])
    assert torch.equal(part[1], first[1][5:9])


def test_score_alone_equals_the_score_of_the_map_and_needs_no_memory_for_one() -> None:
    teacher, student = features(RESNET18, 32, torch.bfloat16, device="cuda")
    _, expected = anomaly_map(teacher, student, 256)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    nothing, scores = anomaly_map(teacher, student, 256, return_map=False)
    torch.cuda.synchronize()
    assert nothing is None
    assert torch.equal(scores, expected)
    assert torch.cuda.max_memory_allocated() - before < 2 * 4 * 32 * (64 * 64 + 32 * 32 + 16 * 16)


@pytest.mark.parametrize("score", ["max", "topk"])
def test_captured_in_a_cuda_graph(score: str) -> None:
    teacher, student = features(RESNET18, 4, device="cuda")
    anomaly_map(teacher, student, 256, score=score)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        maps, scores = anomaly_map(teacher, student, 256, score=score)
    for level, fresh in zip(student, features(RESNET18, 4, seed=9, device="cuda")[1]):
        level.copy_(fresh)
    graph.replay()
    torch.cuda.synchronize()
    expected = anomaly_map(teacher, student, 256, score=score)
    assert torch.equal(maps, expected[0])
    assert torch.equal(scores, expected[1])


def test_two_launches_for_map_and_score() -> None:
    teacher, student = features(RESNET18, 4, device="cuda")
    anomaly_map(teacher, student, 256)
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        anomaly_map(teacher, student, 256)
        torch.cuda.synchronize()
    names = [e.name for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    assert len(names) == 2, names


def test_inductor_compiles_around_the_operator() -> None:
    teacher, student = features(RESNET18, 2, device="cuda")

    @torch.compile(fullgraph=True)
    def head(t, s):
        maps, scores = anomaly_map([x * 2 for x in t], s, 256)
        return maps + 1, scores

    maps, scores = head(teacher, student)
    expected, top = anomaly_map(teacher, student, 256)
    torch.testing.assert_close(maps, expected + 1, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scores, top, rtol=1e-5, atol=1e-5)
