"""The Triton kernels against the definition: on a GPU, or under TRITON_INTERPRET=1 (test_interpreter.py starts that)."""

import itertools

import pytest
import torch
from bikd_kernels import anomaly_map, map_launch
from bikd_kernels.reference.anomaly_map import MapSpec
from hypothesis import given, settings
from hypothesis import strategies as st
from map_cases import features, nearly_parallel, oracle, worst
from triton_tests import DEVICE, NEEDS_TRITON, poisoned  # noqa: F401

pytestmark = NEEDS_TRITON
SMALL = ((8, 12, 16), (20, 8, 7), (5, 4, 3))


def check(levels, size, batch=2, dtype=torch.float32, last=(False, False), weights=None, limit=1e-6, **options) -> None:
    teacher, student = features(levels, batch, dtype, teacher_last=last[0], student_last=last[1], device=DEVICE)
    maps, scores = anomaly_map(teacher, student, size, scale_weights=weights, impl="triton", **options)
    expected, top = oracle(teacher, student, size, weights=weights, **options)
    assert maps.dtype == scores.dtype == torch.float32
    assert maps.shape == expected.shape
    assert worst(maps, expected) < limit
    assert worst(scores, top) < limit
    options |= dict(scale_weights=weights, impl="triton", return_map=False)
    nothing, alone = anomaly_map(teacher, student, size, **options)
    assert nothing is None
    assert torch.equal(alone, scores)


@pytest.mark.parametrize("last", list(itertools.product((False, True), repeat=2)))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_storage_types_and_layouts(dtype: torch.dtype, last: tuple[bool, bool]) -> None:
    check(SMALL, 32, dtype=dtype, last=last)


@pytest.mark.parametrize("last", [False, True])
def test_even_shapes_take_the_path_without_masks(last: bool) -> None:
    check(((64, 16, 16), (256, 8, 8)), 32, last=(last, last))


def test_maps_of_whole_tiles_ask_for_their_windows_ahead() -> None:
    shapes = ((8, 16, 32), (4, 8, 16))
    levels = tuple(s[1:] for s in shapes)
    [plan] = map_launch.plans(MapSpec(levels, (64, 128), (1.0, 1.0), "sum", 4.0, False, "reflect"), torch.device("cpu"))
    assert map_launch.asks_ahead(plan)
    check(shapes, (64, 128))


@pytest.mark.parametrize("padding", ["zeros", "replicate", "symmetric", "circular"])
def test_paddings_and_sizes_that_fill_no_tile(padding: str) -> None:
    check(SMALL, (66, 33), padding=padding, align_corners=padding == "zeros")


@pytest.mark.parametrize("options", [
    dict(combine="mean", weights=(0.5, 0, 2.0)), dict(combine="product"), dict(combine="product", sigma=0.0),
    dict(combine="product", weights=(0.5, 1.0, 0)), dict(combine="product", weights=(0, 0, 0)),
    dict(weights=(0, 0, 0.1)), dict(sigma=0.0), dict(sigma=11.0), dict(size=5), dict(levels=((3, 1, 1),)),
    dict(levels=((1, 49, 49),), size=16),
])
def test_combinations_blurs_and_extremes(options: dict) -> None:
    check(**{"levels": SMALL, "size": 40, "limit": 3e-6, **options})


@pytest.mark.parametrize("topk", [1, 5, 600])
def test_mean_of_the_highest(topk: int) -> None:
    check(SMALL, (20, 12), batch=1, score="topk", topk=topk)


@settings(max_examples=10, deadline=None)
@given(
    levels=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=3),
    batch=st.integers(1, 2), size=st.tuples(st.integers(1, 33), st.integers(1, 33)), last=st.booleans(),
)
def test_any_shape(levels, batch, size, last) -> None:
    check(levels, size, batch, last=(last, False), limit=2e-6)


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("ratio", [1.0, 3.0, 1e5])
def test_small_differences_keep_their_digits(ratio: float, last: bool) -> None:
    t, s = (x.to(DEVICE) for x in nearly_parallel(ratio, last))
    maps, _ = anomaly_map([t], [s], 4, sigma=0.0, impl="triton")
    expected, _ = oracle([t.cpu()], [s.cpu()], 4, sigma=0.0)
    assert worst(maps, expected, floor=0.0) < 2e-5


def test_dead_and_nearly_dead_positions() -> None:
    teacher, student = features(SMALL, device=DEVICE)
    for s in student:
        s[:, :, 0] = 0
        s[:, :, 1] *= 1e-10
    teacher[0][:, :, :, 2] = 0
    maps, _ = anomaly_map(teacher, student, 32, impl="triton")
    assert worst(maps, oracle(teacher, student, 32)[0]) < 1e-6


@pytest.mark.parametrize("score", ["max", "topk"])
def test_a_feature_that_is_not_a_number_is_not_hidden(score: str) -> None:
    teacher, student = features(((8, 4, 4),), device=DEVICE)
    student[0][0, 3, 2, 2] = float("nan")
    _, scores = anomaly_map(teacher, student, 16, score=score, topk=3, impl="triton")
    assert torch.isnan(scores[0])
    assert torch.isfinite(scores[1])


def test_negative_scores_come_through_the_atomic_maximum() -> None:
    teacher, _ = features(((8, 4, 4),), batch=3, device=DEVICE)
    maps, scores = anomaly_map(teacher, [t * 1.7 for t in teacher], 40, impl="triton")
    assert torch.equal(scores, maps.flatten(1).amax(1))


def test_same_bits_every_time_and_strided_inputs_are_copied() -> None:
    teacher, student = features(((8, 12, 16), (20, 8, 8)), device=DEVICE)
    first = anomaly_map(teacher, student, 40, impl="triton")
    again = anomaly_map([torch.cat([t, t], 3)[..., : t.shape[3]] for t in teacher], student, 40, impl="triton")
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])


def test_empty_batch() -> None:
    teacher, student = features(SMALL, device=DEVICE)
    maps, scores = anomaly_map([t[:0] for t in teacher], [s[:0] for s in student], 16, impl="triton")
    assert maps.shape == (0, 16, 16)
    assert scores.shape == (0,)


def test_operator_is_registered_as_torch_wants_it() -> None:
    teacher, student = features(((4, 4, 4),), batch=1, device=DEVICE)
    arguments = (teacher, student, [16, 16], [1.0], "sum", 1.0, False, "reflect", "max", 1, True)
    checks = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(torch.ops.bikd_kernels.anomaly_map.default, arguments, test_utils=checks)


def test_compiles_and_exports_as_one_operator() -> None:
    teacher, student = features(((4, 4, 4),), device=DEVICE)

    class Head(torch.nn.Module):
        def forward(self, t, s):
            return anomaly_map(t, s, 16, impl="triton")

    expected = Head()(teacher, student)
    compiled = torch.compile(Head(), fullgraph=True, backend="aot_eager")(teacher, student)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(Head(), (teacher, student), dynamic_shapes=([{0: batch}], [{0: batch}]))
    exported = program.module()(teacher, student)
    for got in (compiled, exported):
        assert torch.equal(got[0], expected[0])
        assert torch.equal(got[1], expected[1])
