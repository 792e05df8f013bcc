"""The anomaly map on the CPU against the definition, and through every way of tracing it."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from bikd_kernels import anomaly_map
from hypothesis import given, settings
from hypothesis import strategies as st
from map_cases import features, nearly_parallel, oracle, worst
from torch import Tensor

reference = importlib.import_module("bikd_kernels.reference.anomaly_map")
COMBINES = ("sum", "mean", "product")
PADDINGS = ("zeros", "replicate", "reflect", "symmetric", "circular")


class Head(torch.nn.Module):
    """What a detector does with its features."""

    def __init__(self, **options) -> None:
        super().__init__()
        self.options = options

    def forward(self, teacher: list[Tensor], student: list[Tensor]):
        maps, scores = anomaly_map(teacher, student, 32, **self.options)
        return scores if maps is None else (maps, scores)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("combine", COMBINES)
@pytest.mark.parametrize("align_corners", [False, True])
def test_equals_the_definition(padding: str, combine: str, align_corners: bool) -> None:
    teacher, student = features(dtype=torch.float64)
    options = dict(combine=combine, padding=padding, align_corners=align_corners, sigma=2.5)
    maps, scores = anomaly_map(teacher, student, (47, 52), **options)
    expected, top = oracle(teacher, student, (47, 52), **options)
    assert maps.shape == (2, 47, 52)
    assert maps.dtype == scores.dtype == torch.float64
    assert worst(maps, expected) < 1e-14
    assert worst(scores, top) < 1e-14


@settings(max_examples=40, deadline=None)
@given(
    levels=st.lists(st.tuples(st.integers(2, 6), st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4),
    batch=st.integers(1, 3), size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    sigma=st.sampled_from([0.0, 0.5, 4.0]), combine=st.sampled_from(COMBINES), padding=st.sampled_from(PADDINGS),
    score=st.sampled_from(["max", "topk"]), topk=st.integers(1, 500), seed=st.integers(0, 9),
    power=st.floats(0.25, 3.0),
)
def test_equals_the_definition_for_any_shape(
    levels, batch, size, sigma, combine, padding, score, topk, seed, power
) -> None:
    teacher, student = features(levels, batch, torch.float64, seed)
    options = dict(combine=combine, padding=padding, sigma=sigma, score=score, topk=topk)
    weights = [power] * len(levels)
    maps, scores = anomaly_map(teacher, student, size, scale_weights=weights, **options)
    expected, top = oracle(teacher, student, size, weights=weights, **options)
    torch.testing.assert_close(maps, expected, rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(scores, top, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("teacher_last", "student_last"), [(False, False), (True, True), (False, True)])
def test_storage_types_and_layouts(dtype: torch.dtype, teacher_last: bool, student_last: bool) -> None:
    teacher, student = features(dtype=dtype, teacher_last=teacher_last, student_last=student_last)
    maps, scores = anomaly_map(teacher, student, 40)
    expected, top = oracle(teacher, student, 40)
    assert maps.dtype == torch.float32
    assert worst(maps, expected) < 1e-6
    assert worst(scores, top) < 1e-6


def test_mixed_types_and_strided_views() -> None:
    teacher, student = features(dtype=torch.float32)
    student = [s.double() for s in student]
    maps, _ = anomaly_map([t[:, ::2, 1:] for t in teacher], [s[:, ::2, 1:] for s in student], 24)
    expected, _ = oracle([t[:, ::2, 1:] for t in teacher], [s[:, ::2, 1:] for s in student], 24)
    assert maps.dtype == torch.float64
    assert worst(maps, expected) < 1e-14


@pytest.mark.parametrize("combine", ["sum", "product"])
def test_a_level_of_weight_zero_is_left_out(combine: str) -> None:
    teacher, student = features()
    with_zero, _ = anomaly_map(teacher, student, 32, scale_weights=(1, 0, 2), combine=combine)
    without, _ = anomaly_map(teacher[::2], student[::2], 32, scale_weights=(1, 2), combine=combine)
    torch.testing.assert_close(with_zero, without)


def test_score_does_not_depend_on_whether_the_map_is_kept() -> None:
    teacher, student = features()
    for score in ("max", "topk"):
        _, kept = anomaly_map(teacher, student, 32, score=score, topk=7)
        nothing, alone = anomaly_map(teacher, student, 32, score=score, topk=7, return_map=False)
        assert nothing is None
        assert torch.equal(kept, alone)


def test_slices_of_the_batch_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, student = features(batch=5)
    options = ({}, {"score": "topk", "topk": 7})
    whole = [anomaly_map(teacher, student, 32, **given) for given in options]
    monkeypatch.setattr(reference, "CHUNK_BYTES", 1)
    sliced = [anomaly_map(teacher, student, 32, **given) for given in options]
    torch.testing.assert_close(sliced, whole, rtol=1e-6, atol=1e-6)
    assert (whole[1][1] < whole[0][1]).all()
    assert anomaly_map([t[:0] for t in teacher], [s[:0] for s in student], 32)[0].shape == (0, 32, 32)


def test_dead_positions_count_one_a_level_and_agreement_counts_nothing() -> None:
    teacher, _ = features()
    nothing = [torch.zeros_like(t) for t in teacher]
    maps, scores = anomaly_map(teacher, nothing, 32)
    torch.testing.assert_close(maps, torch.full_like(maps, 3.0))
    torch.testing.assert_close(scores, torch.full_like(scores, 3.0))
    same, _ = anomaly_map(teacher, teacher, 32)
    assert same.abs().max() < 2e-6


def test_a_feature_that_is_not_a_number_is_not_hidden() -> None:
    teacher, student = features()
    student[1][0, 3, 2, 2] = float("nan")
    for score in ("max", "topk"):
        _, scores = anomaly_map(teacher, student, 32, score=score)
        assert torch.isnan(scores[0])
        assert torch.isfinite(scores[1])


def test_no_gradient_no_autocast_no_trace_of_either() -> None:
    teacher, student = features()
    plain, _ = anomaly_map(teacher, student, 32)
    tracked, score = anomaly_map(teacher, [s.requires_grad_() for s in student], 32)
    assert not tracked.requires_grad
    assert not score.requires_grad
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        cast, _ = anomaly_map(teacher, [s.detach() for s in student], 32)
    assert torch.equal(tracked, plain)
    assert torch.equal(cast, plain)


@pytest.mark.parametrize("traced", [False, True])
def test_small_differences_keep_their_digits(traced: bool) -> None:
    def head(t: Tensor, s: Tensor) -> Tensor:
        return anomaly_map([t], [s], 4, sigma=0.0)[0]

    torch._dynamo.reset()
    for ratio in (1.0, 3.0, 1e5):
        t, s = nearly_parallel(ratio)
        maps = (torch.compile(head, fullgraph=True, backend="aot_eager") if traced else head)(t, s)
        assert worst(maps, oracle([t], [s], 4, sigma=0.0)[0], floor=0.0) < 2e-5


@pytest.mark.parametrize("dynamic", [None, True])
def test_compiles_for_other_shapes_sizes_and_settings(dynamic: bool | None) -> None:
    """Each has a graph of its own: the matrices are made from them."""
    def head(side: tuple[int, int], size: int, sigma: float, weights: list[float]) -> None:
        teacher, student = ([torch.randn(2, 6, *side, generator=torch.Generator().manual_seed(k))] for k in (0, 1))
        given = dict(sigma=sigma, scale_weights=weights)
        torch.testing.assert_close(compiled(teacher, student, size, **given), anomaly_map(teacher, student, size, **given))

    torch._dynamo.reset()
    compiled = torch.compile(anomaly_map, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for case in (((6, 6), 16, 4.0, [1.0]), ((7, 9), 16, 4.0, [1.0]), ((8, 5), 20, 4.0, [1.0]), ((8, 5), 24, 2.5, [1.0]),
                 ((8, 5), 24, 1.5, [0.5]), ((8, 5), 24, 1.5, [0.3])):
        head(*case)


def test_one_level_in_float64_and_tensors_without_numbers() -> None:
    teacher, student = features()
    teacher[1] = teacher[1].double()
    maps, scores = anomaly_map(teacher, student, 32)
    assert maps.dtype == scores.dtype == torch.float64
    assert worst(maps, oracle(teacher, student, 32)[0]) < 1e-6
    there = [[x.to("meta") for x in side] for side in (teacher, student)]
    found = anomaly_map(*there, 32)
    assert [(x.shape, x.dtype, x.device.type) for x in found] == [(x.shape, x.dtype, "meta") for x in (maps, scores)]


@pytest.mark.parametrize("options", [{}, {"combine": "product"}, {"score": "topk", "return_map": False}])
def test_compiles_without_a_graph_break(options: dict) -> None:
    teacher, student = features()
    head = Head(**options)
    compiled = torch.compile(head, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(teacher, student), head(teacher, student), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("strict", [False, True])
def test_exports_with_a_batch_of_any_size(strict: bool) -> None:
    teacher, student = features()
    batch = torch.export.Dim("batch", min=1, max=64)
    shapes = ([{0: batch}] * 3, [{0: batch}] * 3)
    program = torch.export.export(Head(), (teacher, student), dynamic_shapes=shapes, strict=strict)
    more = features(batch=5, seed=3)
    torch.testing.assert_close(program.module()(*more), Head()(*more), rtol=1e-6, atol=1e-6)
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not any("upsample" in target or "conv" in target or "pad" in target for target in targets)


@pytest.mark.parametrize("combine", ["sum", "product"])
def test_onnx_runtime_draws_the_same_map(combine: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    teacher, student = features()
    head, target = Head(combine=combine), tmp_path / "map.onnx"
    program = torch.onnx.export(head, (teacher, student), dynamo=True, verbose=False)
    assert program is not None
    program.save(target)
    session = onnxruntime.InferenceSession(target)
    names = [x.name for x in session.get_inputs()]
    got = session.run(None, {name: x.numpy() for name, x in zip(names, [*teacher, *student])})
    for ours, theirs in zip(head(teacher, student), got):
        torch.testing.assert_close(torch.from_numpy(theirs), ours, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(combine="max"), "combine must be one of sum, mean, product, got 'max'"),
        (dict(score="mean"), "score must be one of max, topk, got 'mean'"),
        (dict(padding="mirror"), "padding must be one of zeros, replicate"),
        (dict(sigma=-1.0), "sigma must be a finite number >= 0"),
        (dict(size=0), "size must be at least 1 x 1, got 0 x 0"),
        (dict(topk=0, score="topk"), "topk must be at least 1, got 0"),
        (dict(scale_weights=(1.0,)), "scale_weights has 1 entries for 3 levels"),
        (dict(scale_weights=(1.0, -1.0, 1.0)), "scale_weights must be finite and >= 0"),
        (dict(scale_weights=(0, 0, 0), combine="mean"), "divides by the sum of scale_weights, which is 0"),
        (dict(size=(16, 16, 16)), r"size must be \(height, width\) or one whole number, got \(16, 16, 16\)"),
        (dict(size=(16.5, 16)), "size must be a whole number, got 16.5"),
        (dict(size="16"), "size must be a whole number, got '16'"),
        (dict(sigma=None), "sigma must be a finite number >= 0 .*, got None"),
        (dict(topk=2.5), "topk must be a whole number, got 2.5"),
        (dict(scale_weights=1.0), "scale_weights must be a list of 3 numbers, got float"),
        (dict(scale_weights=(1.0, "a", 1.0)), r"scale_weights\[1\] must be a finite number, got 'a'"),
        (dict(impl="cuda"), "impl must be one of auto, triton, reference"),
    ],
)
def test_errors_say_what_is_wrong(change: dict, message: str) -> None:
    teacher, student = features()
    with pytest.raises(ValueError, match=message):
        anomaly_map(teacher, student, **{"size": 32, **change})


def test_numbers_of_numpy_are_numbers() -> None:
    teacher, student = features()
    maps, _ = anomaly_map(teacher, student, np.int64(16), sigma=np.float32(2), topk=np.int32(3))
    assert torch.equal(maps, anomaly_map(teacher, student, 16, sigma=2.0)[0])


def test_errors_of_the_features_say_which_level() -> None:
    teacher, student = features()
    with pytest.raises(ValueError, match=r"teacher\[1\] has shape .* student\[1\] has"):
        anomaly_map(teacher, [student[0], student[1][:, :2], student[2]], 32)
    with pytest.raises(ValueError, match="level 2 holds 1 images, level 0 holds 2"):
        anomaly_map([*teacher[:2], teacher[2][:1]], [*student[:2], student[2][:1]], 32)
    with pytest.raises(ValueError, match="no feature maps"):
        anomaly_map([], [], 32)
    with pytest.raises(RuntimeError, match="impl='triton' is not possible here"):
        anomaly_map([t.double() for t in teacher], [s.double() for s in student], 32, impl="triton")
