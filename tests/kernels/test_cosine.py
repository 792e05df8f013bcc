"""cosine_discrepancy on the CPU: against the frozen formula, against torch's own operators, and its promises."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from bikd_kernels import cosine_discrepancy
from bikd_kernels.layout import CACHE_ELEMENTS
from bikd_kernels.reference.naive import cosine_discrepancy_naive
from fused_cases import LEVELS, assert_gradients, check_pair, cosine_lengths, maps, one_sign, sliced
from hypothesis import given, settings
from hypothesis import strategies as st
from triton_tests import poisoned  # noqa: F401

CASES = [dict(), dict(reduction="sum"), dict(reduction="per_scale"), dict(reduction="none"), dict(over="map"),
         dict(over="map", reduction="none"), dict(scale_weights=[0.5, 0.0, 2.0, 1.0]), dict(dead="zero")]


@pytest.mark.parametrize("options", CASES, ids=str)
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_matches_the_formula(dtype: torch.dtype, last: bool, options: dict) -> None:
    check_pair(maps(dtype=dtype, last=last), maps(dtype=dtype, last=last, seed=1), "reference", **options)


def test_agrees_with_torch() -> None:
    teacher, student = (maps(dtype=torch.float64, seed=k) for k in (0, 1))
    theirs = sum((1 - F.cosine_similarity(t, s, dim=1)).mean() for t, s in zip(teacher, student))
    ours = cosine_discrepancy(teacher, student)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(torch.autograd.grad(ours, student), torch.autograd.grad(theirs, student)):
        torch.testing.assert_close(a, b)
    stpm = [0.5 * (F.normalize(t, dim=1) - F.normalize(s, dim=1)).square().sum(1) for t, s in zip(teacher, student)]
    for a, b in zip(cosine_discrepancy(teacher, student, reduction="none"), stpm):
        torch.testing.assert_close(a, b)
    flat = sum((1 - F.cosine_similarity(t.flatten(1), s.flatten(1))).mean() for t, s in zip(teacher, student))
    torch.testing.assert_close(cosine_discrepancy(teacher, student, over="map"), flat)


@pytest.mark.parametrize("options", [o for o in CASES if o.get("reduction") in ("none", "per_scale")], ids=str)
def test_gradcheck(options: dict) -> None:
    levels = ((3, 2, 2), (2, 1, 3))
    inputs = [*maps(levels, dtype=torch.float64), *maps(levels, dtype=torch.float64, seed=1)]

    def run(*x):
        out = cosine_discrepancy(x[:2], x[2:], **options)
        return tuple(out) if isinstance(out, list) else out

    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
    assert torch.autograd.gradcheck(lambda *x: cosine_discrepancy_naive(x[:2], x[2:]), inputs)
    assert torch.autograd.gradgradcheck(lambda *x: cosine_discrepancy_naive(x[:2], x[2:]), inputs, fast_mode=True)


@pytest.mark.parametrize("last", [True, False])
def test_levels_larger_than_one_piece(last: bool) -> None:
    levels = ((24, 64, 64), (112, 50, 50))
    assert CACHE_ELEMENTS < 4 * 24 * 64 * 64
    for reduction in ("mean", "none"):
        check_pair(maps(levels, 4, last=last), maps(levels, 4, last=last, seed=1), "reference", reduction=reduction)


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("apart", [0.3, 0.03, 0.0])
def test_nearly_parallel_vectors(apart: float, last: bool) -> None:
    """Late in training: the gradient is a small difference of long vectors."""
    teacher, noise = maps(last=last), maps(last=last, seed=1)
    student = [(t + apart * n).detach().requires_grad_() for t, n in zip(teacher, noise)]
    for reduction in ("mean", "none"):
        check_pair(teacher, student, "reference", reduction=reduction)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("sides", [(True, False), (False, True), (True, True)])
def test_gradient_only_where_it_is_required(sides: tuple[bool, bool], reduction: str) -> None:
    teacher, student = maps(), maps(seed=1)
    for side, required in zip((teacher, student), sides):
        for x in side:
            x.requires_grad_(required)
    check_pair(teacher, student, "reference", reduction=reduction)
    with torch.no_grad():
        assert not cosine_discrepancy(teacher, student).requires_grad


@pytest.mark.parametrize("reduction", ["mean", "sum", "per_scale", "none"])
def test_weights(reduction: str) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = [torch.rand(2, h, w, generator=generator) * (k != 1) for k, (_, h, w) in enumerate(LEVELS)]
    weights[0][0] = 0
    check_pair(maps(), maps(seed=1), "reference", weights=weights, reduction=reduction)
    binary = [w > 0.5 for w in weights]
    loss = cosine_discrepancy(maps(), maps(seed=1), weights=binary)
    torch.testing.assert_close(loss, cosine_discrepancy(maps(), maps(seed=1), weights=[w.float() for w in binary]))


@pytest.mark.parametrize("reduction", ["mean", "per_scale"])
def test_a_negative_sum_of_weights_divides_as_well(reduction: str) -> None:
    teacher, student = (maps(LEVELS[:2], seed=k) for k in (0, 1))
    weights = [-torch.rand(2, h, w, generator=torch.Generator().manual_seed(0)) for _, h, w in LEVELS[:2]]
    check_pair(teacher, student, "reference", weights=weights, reduction=reduction)
    mirrored = cosine_discrepancy(teacher, student, weights=[-w for w in weights], reduction=reduction)
    torch.testing.assert_close(cosine_discrepancy(teacher, student, weights=weights, reduction=reduction), mirrored)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_few_weights_do_not_saturate_float16(reduction: str) -> None:
    """A mean over one position of thousands has a gradient that no factor chosen by their number may be laid on."""
    levels = ((32, 40, 40), (8, 3, 3))
    weights = [torch.zeros(2, h, w) for _, h, w in levels]
    weights[0][1, 3, 4], weights[1][0, 0, 0] = 1, 1
    teacher, student = (maps(levels, dtype=torch.float16, seed=k) for k in (0, 1))
    student = [(0.03 * s).detach().requires_grad_() for s in student]  # short vectors, large gradients
    check_pair(teacher, student, "reference", weights=weights, reduction=reduction)


def test_small_discrepancies_keep_their_digits() -> None:
    teacher = [torch.randn(1, 1024, 4, 4, generator=torch.Generator().manual_seed(0))]
    student = [teacher[0] + 1e-3 * torch.randn(1, 1024, 4, 4, generator=torch.Generator().manual_seed(1))]
    exact = cosine_discrepancy_naive([teacher[0].double()], [student[0].double()])
    assert abs(float(cosine_discrepancy(teacher, student)) / float(exact) - 1) < 2e-6
    crude = (1 - F.cosine_similarity(teacher[0], student[0], dim=1)).mean()
    assert abs(float(crude) / float(exact) - 1) > 2e-3  # the cancellation that the difference form avoids


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dead", ["torch", "zero"])
def test_dead_positions_are_finite(dtype: torch.dtype, dead: str) -> None:
    teacher, student = maps(dtype=dtype, dead=0.3), maps(dtype=dtype, dead=0.3, seed=1)
    for reduction in ("mean", "none"):
        values = cosine_discrepancy(teacher, student, dead=dead, reduction=reduction)
        loss = values if reduction == "mean" else sum(v.sum() for v in values)
        for s, g in zip(student, torch.autograd.grad(loss, student)):
            assert torch.isfinite(g).all()
            nothing = (s == 0).all(1, keepdim=True)
            assert nothing.any() and bool((g * nothing != 0).any()) == (dead == "torch")
    if dtype == torch.float32:
        check_pair(teacher, student, "reference", dead=dead)


def test_half_precision_gradients_do_not_underflow() -> None:
    levels = ((64, 64, 64),)
    teacher, student = (maps(levels, 4, torch.float16, seed=k) for k in (0, 1))
    loss = cosine_discrepancy(teacher, student)
    (grad,) = torch.autograd.grad(loss * 65536, student)
    (plain,) = torch.autograd.grad(cosine_discrepancy(teacher, student), student)
    assert (grad == 0).double().mean() < 1e-3 and (plain == 0).double().mean() > 0.02
    check_pair(teacher, student, "reference", upstream=65536.0)


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradients_against_torch_in_float32(dtype: torch.dtype, last: bool) -> None:
    """Both sides' gradients are those of torch's own operator on the stored numbers in float32, rounded once."""
    ours = [maps(dtype=dtype, last=last, seed=k) for k in (0, 1)]
    theirs = [[x.detach().float().requires_grad_() for x in side] for side in ours]
    loss = cosine_discrepancy(*ours)
    expected = sum((1 - F.cosine_similarity(t, s, dim=1)).mean() for t, s in zip(*theirs))
    torch.testing.assert_close(loss, expected)
    found = torch.autograd.grad(loss, [x for side in ours for x in side])
    wanted = torch.autograd.grad(expected, [x for side in theirs for x in side])
    assert all(g.dtype == dtype for g in found)
    shares = [torch.full_like(x[:, :1], 1 / x[:, 0].numel(), dtype=torch.float64) for side in ours for x in side]
    assert_gradients(found, [g.double() for g in wanted], cosine_lengths([x for side in ours for x in side], shares))


def test_autocast_changes_nothing() -> None:
    teacher, student = (maps(dtype=torch.bfloat16, seed=k) for k in (0, 1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = cosine_discrepancy(teacher, student)
        maps_of = cosine_discrepancy(teacher, student, reduction="none")
    assert loss.dtype == torch.float32 and maps_of[0].dtype == torch.float32
    torch.testing.assert_close(loss, cosine_discrepancy(teacher, student), rtol=0, atol=0)


@pytest.mark.parametrize("over", ["position", "map"])
def test_strides_and_types_may_differ(over: str) -> None:
    teacher = [x.detach()[:, :, ::2].requires_grad_() for x in maps(((8, 12, 6), (6, 10, 5)), last=False)]
    student = [x.detach()[..., :-1].requires_grad_() for x in maps(((8, 6, 7), (6, 5, 6)), dtype=torch.bfloat16, seed=1)]
    check_pair(teacher, student, "reference", over=over)
    check_pair(maps(last=False), maps(last=True, seed=1), "reference", over=over)


@pytest.mark.parametrize("options", CASES[:6], ids=str)
def test_empty_batch(options: dict) -> None:
    check_pair(maps(batch=0), maps(batch=0, seed=1), "reference", **options)


def drawn_weights(levels, batch: int, over: str, kind: str, seed: int) -> list[torch.Tensor] | None:
    """kind: none, any numbers, 0 and 1, or the first level without any weight."""
    if kind == "none":
        return None
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.rand((batch,) if over == "map" else (batch, h, w), generator=generator) for _, h, w in levels]
    if kind == "binary":
        return [(w > 0.5).float() for w in weights]
    return [w * (k > 0 or kind == "any") for k, w in enumerate(weights)]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=3),
       st.integers(1, 3), st.tuples(st.booleans(), st.booleans()), st.sampled_from(["position", "map"]),
       st.sampled_from(["mean", "sum", "per_scale", "none"]), st.sampled_from([0.0, 0.4]), st.integers(0, 99),
       st.sampled_from(["none", "any", "binary", "first_empty"]), st.tuples(*[st.sampled_from([None, 0, 1, 2, 3])] * 2))
def test_any_shape(levels, batch, last, over, reduction, dead, seed, weighted, cuts) -> None:
    teacher, student = (one_sign(maps(levels, batch, last=last[k], seed=seed + k, dead=dead)) for k in (0, 1))
    teacher, student = (side if cut is None else [sliced(x, cut) for x in side] for side, cut in zip((teacher, student), cuts))
    check_pair(teacher, student, "reference", over=over, reduction=reduction, dead="zero", eps=1e-6,
               weights=drawn_weights(levels, batch, over, weighted, seed))


def test_backward_happens_once() -> None:
    student = maps(seed=1)
    loss = cosine_discrepancy(maps(), student)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="second backward"):
        loss.backward()
    for reduction in ("mean", "none"):
        out = cosine_discrepancy(maps(), student, reduction=reduction)
        with pytest.raises(RuntimeError, match="double backward"):
            torch.autograd.grad(out if reduction == "mean" else out[0].sum(), student, create_graph=True,
                                allow_unused=True)
    kept = cosine_discrepancy(maps(), student, reduction="per_scale").sum()
    first = torch.autograd.grad(kept, student, retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(first, torch.autograd.grad(kept, student)))


def test_the_same_bits_every_time() -> None:
    def once():
        student = maps(seed=1)
        loss = cosine_discrepancy(maps(), student)
        return loss, *torch.autograd.grad(loss, student)

    assert all(torch.equal(a, b) for a, b in zip(once(), once()))


@pytest.mark.parametrize(("change", "message"), [
    (dict(reduction="max"), "reduction must be one of"), (dict(over="image"), "over must be one of"),
    (dict(dead="nan"), "dead must be one of"), (dict(eps=0.0), "eps must be"), (dict(impl="cuda"), "impl must be one of"),
    (dict(scale_weights=[1.0]), "scale_weights has 1 entries for 4 levels"), (dict(weights=[]), "weights has 0 levels"),
], ids=str)
def test_wrong_options(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cosine_discrepancy(maps(), maps(seed=1), **change)


@pytest.mark.parametrize(("change", "message"), [
    (dict(eps="a"), "eps must be a finite number in .* got 'a'"), (dict(eps=None), "eps must be .* got None"),
    (dict(eps=1e30), "eps must be .* in 1e-18..1e.18 .* got 1e.30"), (dict(eps=float("inf")), "eps must be .* got inf"),
    (dict(scale_weights=1.0), "scale_weights must be a list of 4 numbers, got float"),
    (dict(scale_weights=["a"] * 4), r"scale_weights\[0\] must be a finite number, got 'a'"),
    (dict(scale_weights=[1.0, None, 1.0, 1.0]), r"scale_weights\[1\] must be a finite number, got None"),
    (dict(scale_weights=[1.0, 1.0, 1.0, float("nan")]), r"scale_weights\[3\] must be a finite number, got nan"),
    (dict(weights=None, scale_weights="abcd"), "scale_weights must be a list of 4 numbers, got str"),
    (dict(weights=1.0), r"weights must be a list of \(B, H, W\) maps, got float"),
    (dict(weights=[None] * 4), r"weights\[0\] must be a \(B, H, W\) tensor, got NoneType"),
    (dict(weights=[np.ones((2, 6, 6))] * 4), r"weights\[0\] must be a \(B, H, W\) tensor, got ndarray"),
    (dict(weights=[torch.ones(2, h, w, dtype=torch.complex64) for _, h, w in LEVELS]), r"weights\[0\] must hold real numbers"),
], ids=str)
def test_options_of_the_wrong_kind(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cosine_discrepancy(maps(), maps(seed=1), **change)


def test_numbers_of_numpy_are_numbers() -> None:
    expected = cosine_discrepancy(maps(), maps(seed=1), eps=0.5, scale_weights=[0.5, 0.25, 1.0, 2.0])
    found = cosine_discrepancy(maps(), maps(seed=1), eps=np.float32(0.5), scale_weights=np.array([0.5, 0.25, 1.0, 2.0], np.float32))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_forward_mode_is_refused(reduction: str) -> None:
    """Its tangent would be 0, without a word."""
    (teacher,), (student,) = maps(LEVELS[:1]), maps(LEVELS[:1], seed=1)

    def run(x: torch.Tensor) -> torch.Tensor:
        found = cosine_discrepancy([teacher.detach()], [x], reduction=reduction)
        return found if reduction == "mean" else found[0].sum()

    x = student.detach()
    for call in (lambda: torch.func.jvp(run, (x,), (x,)), lambda: torch.func.jacfwd(run)(x),
                 torch.compile(lambda: torch.func.jvp(run, (x,), (x,)), backend="eager")):
        with pytest.raises(RuntimeError, match=r"forward-mode differentiation .* is not supported"):
            call()


def test_wrong_maps() -> None:
    with pytest.raises(ValueError, match=r"teacher\[0\] has shape"):
        cosine_discrepancy(maps(batch=1), maps())
    with pytest.raises(ValueError, match="teacher has 3 levels, student has 4"):
        cosine_discrepancy(maps()[:3], maps())
    with pytest.raises(ValueError, match="holds no feature maps"):
        cosine_discrepancy([], [])
    with pytest.raises(ValueError, match=r"teacher\[0\] has no channels, .* \(2, 0, 1, 1\)"):
        cosine_discrepancy(maps(((0, 1, 1),)), maps(((0, 1, 1),)))
    with pytest.raises(ValueError, match=r"weights\[0\] must have shape \(2, 6, 6\)"):
        cosine_discrepancy(maps(), maps(), weights=[torch.ones(2, 1, 6)] * 4)
