"""bidirectional_loss on the CPU: against the frozen formula, against operator 1, and its promises."""

import math

import pytest
import torch
from bikd_kernels import bidirectional_loss, cosine_discrepancy, region_counts, region_maps
from bikd_kernels.reference import bidirectional as reference
from bikd_kernels.reference.naive import bidirectional_loss_naive
from fused_cases import check_objective, doubles, objective_inputs, one_sign, sliced
from hypothesis import given, settings
from hypothesis import strategies as st
from triton_tests import poisoned  # noqa: F401

F32, BF16, F16, F64 = torch.float32, torch.bfloat16, torch.float16, torch.float64
FEATURES = ("clean", "corrupt", "student_clean", "student_corrupt", "adapter_clean", "adapter_corrupt")
SMALL = ((8, 4, 4), (5, 3, 2))
OPTIONS = [
    dict(), dict(beta=0.0), dict(beta=1.0), dict(use_con=False), dict(use_div=False), dict(use_anc=False),
    dict(margin=1.2, bound=0.3), dict(forward_weights=(1.0, 0.25)), dict(scale_weights=[1.0, 0.0, 2.0, 0.5]),
    dict(counts=torch.tensor([[50.0, 9.0], [0.0, 3.0], [8.0, 0.0], [2.0, 2.0]])), dict(beta=torch.tensor(0.2)),
]


@pytest.mark.parametrize("dtypes", [(F32,) * 3, (BF16,) * 3, (F16,) * 3, (F64,) * 3, (F32, BF16, F32)], ids=str)
@pytest.mark.parametrize("last", [True, False])
def test_matches_the_formula(dtypes, last: bool) -> None:
    check_objective(objective_inputs(dtypes=dtypes, last=last), "reference", upstream=3.0)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options(options: dict) -> None:
    inputs = objective_inputs()
    check_objective(inputs, "reference", **options)
    check_objective(inputs | dict(adapter_clean=None, adapter_corrupt=None), "reference", **options)


@pytest.mark.parametrize("beta", [0.2, 0.5, 0.8, torch.tensor(0.3)], ids=str)
def test_the_larger_direction_weighs_one(beta: float | torch.Tensor) -> None:
    check_objective(objective_inputs(), "reference", beta=beta, peak=True)


def test_larger_than_one_piece() -> None:
    for last in (True, False):
        check_objective(objective_inputs(((24, 64, 64), (112, 30, 30)), 4, last=last), "reference")


def test_the_formula_by_hand() -> None:
    """One position a region, one level, numbers from the definition."""
    e = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=F64).T.reshape(1, 2, 1, 2)
    s = torch.tensor([[1.0, 1.0], [1.0, 1.0]], dtype=F64).T.reshape(1, 2, 1, 2)
    d = 1 - 2**-0.5
    regions = [torch.tensor([[[0, 2]]], dtype=torch.uint8)]
    loss, terms = bidirectional_loss([e], [e], [s], [s], regions, beta=0.25)
    expected = dict(forward_corrupt=d, forward_clean=d, con_clean=d, con_corrupt=d, div=0.5 - d, anc_clean=0, anc_corrupt=0,
                    forward=d, backward=2 * d + 0.5 - d)
    assert {k: float(v) for k, v in terms.items()} == pytest.approx(expected)
    assert float(loss) == pytest.approx(0.75 * d + 0.25 * (d + 0.5))


def test_gradcheck_of_the_formula_and_frozen_inputs() -> None:
    inputs = objective_inputs(((3, 2, 2), (2, 3, 1)), dtypes=(F64,) * 3, covered=0.9)
    names = ("student_clean", "student_corrupt", "adapter_clean", "adapter_corrupt")
    leaves = [x for n in names for x in inputs[n]]

    def partial(part: str, chosen: int):
        """One direction as a function of the tensors that it moves, everything else held: targets are detached."""
        def run(*x):
            given = list(leaves)
            given[4 * chosen:4 * chosen + 4] = x
            lists = {n: given[2 * i:2 * i + 2] for i, n in enumerate(names)}
            return bidirectional_loss_naive(**(inputs | lists), beta=float(part == "backward"), margin=1.5)[0]
        return run

    assert torch.autograd.gradcheck(partial("forward", 0), leaves[:4])
    assert torch.autograd.gradcheck(partial("backward", 1), leaves[4:])
    loss, _ = bidirectional_loss(**(inputs | {"clean": doubles(inputs["clean"])}))
    grads = torch.autograd.grad(loss, leaves)
    assert all(g.abs().sum() > 0 for g in grads)


def test_equals_operator_one_pair_by_pair() -> None:
    inputs = objective_inputs() | dict(adapter_clean=None, adapter_corrupt=None)
    _, terms = bidirectional_loss(**inputs)
    normal = [(r == 0).float() for r in inputs["regions"]]
    torch.testing.assert_close(terms["forward_clean"], cosine_discrepancy(inputs["clean"], inputs["student_clean"]).detach())
    pair = cosine_discrepancy(inputs["corrupt"], inputs["student_corrupt"], weights=normal)
    torch.testing.assert_close(terms["con_corrupt"], pair.detach())


def test_teacher_starts_as_the_backbone() -> None:
    inputs = objective_inputs()
    zero = {n: [torch.zeros_like(x).requires_grad_() for x in inputs[n]] for n in ("adapter_clean", "adapter_corrupt")}
    loss, terms = bidirectional_loss(**(inputs | zero))
    assert float(terms["anc_clean"]) == float(terms["anc_corrupt"]) == 0.0
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(loss, zero["adapter_clean"]))


@pytest.mark.parametrize("dtype", [F32, BF16, F16])
def test_dead_positions_are_finite(dtype: torch.dtype) -> None:
    inputs = objective_inputs(dtypes=(dtype,) * 3, dead=0.4)
    for dead in ("zero", "torch"):
        loss, _ = bidirectional_loss(**inputs, dead=dead)
        grads = torch.autograd.grad(loss, inputs["student_corrupt"] + inputs["adapter_corrupt"])
        assert torch.isfinite(loss) and all(torch.isfinite(g).all() for g in grads)
    check_objective(inputs, "reference", dead="zero")


def test_backward_happens_once_and_terms_are_detached() -> None:
    inputs = objective_inputs()
    loss, terms = bidirectional_loss(**inputs)
    assert not any(v.requires_grad for v in terms.values())
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="second backward"):
        loss.backward()
    with torch.no_grad():
        again, _ = bidirectional_loss(**inputs)
    assert torch.equal(again, loss) and not again.requires_grad


def test_double_backward_is_refused() -> None:
    inputs = objective_inputs(SMALL)
    for leaves in (inputs["student_clean"], inputs["adapter_corrupt"]):
        loss, _ = bidirectional_loss(**inputs)
        with pytest.raises(RuntimeError, match="double backward"):
            torch.autograd.grad(loss, leaves, create_graph=True)


def test_the_first_backward_takes_the_gradients_of_both_networks() -> None:
    inputs = objective_inputs(SMALL)
    loss, _ = bidirectional_loss(**inputs)
    torch.autograd.grad(loss, inputs["student_clean"], retain_graph=True)
    with pytest.raises(RuntimeError, match="second backward"):
        torch.autograd.grad(loss, inputs["adapter_clean"])


@pytest.mark.parametrize("wanted", [("student_clean", "student_corrupt"), ("adapter_clean", "adapter_corrupt"),
                                    ("student_corrupt", "adapter_clean"), ("adapter_corrupt",), ()], ids=str)
@pytest.mark.parametrize("dtype", [F32, F16])
def test_gradients_only_where_they_are_required(wanted: tuple[str, ...], dtype: torch.dtype) -> None:
    """With a parameter set frozen the other's gradients are what they are together: each network learns from its own direction."""
    inputs = objective_inputs(SMALL, dtypes=(F32, dtype, dtype))
    together, _ = bidirectional_loss(**inputs)
    grads = torch.autograd.grad(together, [x for n in FEATURES[2:] for x in inputs[n]])
    full = {name: grads[2 * k:2 * k + 2] for k, name in enumerate(FEATURES[2:])}
    for name in FEATURES[2:]:
        for x in inputs[name]:
            x.requires_grad_(name in wanted)
    check_objective(inputs, "reference", beta=0.3)
    loss, _ = bidirectional_loss(**inputs)
    assert torch.equal(loss, together)
    if wanted:
        loss.backward()
    for name in FEATURES[2:]:
        for k, x in enumerate(inputs[name]):
            assert torch.equal(x.grad, full[name][k]) if name in wanted else x.grad is None


@pytest.mark.parametrize("dtypes", [(F32,) * 3, (BF16,) * 3, (F16, F32, BF16)], ids=str)
def test_autocast_changes_nothing(dtypes) -> None:
    def once(enabled: bool) -> list[torch.Tensor]:
        inputs = objective_inputs(SMALL, dtypes=dtypes)
        with torch.autocast("cpu", dtype=BF16, enabled=enabled):
            loss, terms = bidirectional_loss(**inputs)
        grads = torch.autograd.grad(loss, [x for n in FEATURES[2:] for x in inputs[n]])
        return [loss, *terms.values(), *grads]

    for inside, outside in zip(once(True), once(False)):
        assert inside.dtype == outside.dtype and torch.equal(inside, outside)


@pytest.mark.parametrize("last", [True, False])
def test_the_same_bits_every_time(last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "PIECE", 64)  # several pieces, whose buffers are used again

    def once() -> list[torch.Tensor]:
        inputs = objective_inputs(SMALL, batch=3, dtypes=(F32, F16, BF16), last=last)
        loss, terms = bidirectional_loss(**inputs)
        return [loss, *terms.values(), *torch.autograd.grad(loss, [x for n in FEATURES[2:] for x in inputs[n]])]

    first = once()
    bidirectional_loss(**objective_inputs(last=last, seed=1))
    assert all(torch.equal(a, b) for a, b in zip(first, once()))


@pytest.mark.parametrize("options", [dict(), dict(beta=0.2, peak=True), dict(counts=torch.ones(2, 2))], ids=str)
@pytest.mark.parametrize("dtype", [F32, F16])
def test_the_loss_of_an_empty_batch_is_zero(options: dict, dtype: torch.dtype) -> None:
    for adapters in ({}, dict(adapter_clean=None, adapter_corrupt=None)):
        inputs = objective_inputs(SMALL, batch=0, dtypes=(dtype,) * 3) | adapters
        check_objective(inputs, "reference", **options)
        loss, terms = bidirectional_loss(**inputs, **options)
        assert [float(x) for x in (loss.detach(), *terms.values())] == [0.0] * 10


def even(x: torch.Tensor) -> torch.Tensor:
    """x with vectors of lengths between 0.5 and 1.5, or 0: the gradient to a shorter one would be the whole map's, and the few
    roundings of its 16-bit numbers the whole map's error."""
    size = x.detach().norm(dim=1, keepdim=True)
    return (x.detach() * torch.where(size > 0, 0.5 / size + 1 / (1 + size), 0)).requires_grad_(x.requires_grad)


@st.composite
def calls(draw) -> tuple[dict, dict]:
    """(inputs, options): every list of a type, a layout and strides of its own; zero vectors; any regions, weights and counts."""
    levels = draw(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=3))
    batch, seed = draw(st.integers(1, 3)), draw(st.integers(0, 99))
    dtypes = draw(st.one_of(st.just((F64,) * 6), st.tuples(*[st.sampled_from([F32, BF16, F16])] * 6)))
    inputs = objective_inputs(levels, batch, seed=seed, dead=draw(st.sampled_from([0.0, 0.4])),
                              covered=draw(st.sampled_from([0.0, 0.2, 0.9])))
    for name, dtype in zip(FEATURES, dtypes):
        if not name.startswith("adapter"):
            inputs[name] = [even(x) for x in one_sign(inputs[name])]
        form = draw(st.sampled_from([torch.contiguous_format, torch.channels_last]))
        cut = draw(st.sampled_from([None, 0, 1, 2, 3]))
        made = [x.detach().to(dtype).contiguous(memory_format=form).requires_grad_(x.requires_grad) for x in inputs[name]]
        inputs[name] = made if cut is None else [sliced(x, cut) for x in made]
    if draw(st.booleans()):
        inputs["regions"] = [r.repeat_interleave(2, 2)[..., ::2] for r in inputs["regions"]]
    if draw(st.sampled_from([False, False, True])):
        inputs |= dict(adapter_clean=None, adapter_corrupt=None)
    weight = st.sampled_from([0.0, 0.3, 1.0, 2.5])
    options = dict(
        beta=draw(st.sampled_from([0.0, 0.3, 0.5, 1.0])), peak=draw(st.booleans()), margin=draw(st.sampled_from([0.0, 0.5, 1.3])),
        bound=draw(st.sampled_from([0.2, 0.5])), forward_weights=(draw(weight), draw(weight)),
        scale_weights=draw(st.lists(weight, min_size=len(levels), max_size=len(levels))),
        counts=draw(st.one_of(st.none(), st.just(region_counts(inputs["regions"]) / 2), st.just(torch.zeros(len(levels), 2)))))
    return inputs, options | {f"use_{part}": draw(st.booleans()) for part in ("con", "div", "anc")}


@settings(max_examples=60, deadline=None)
@given(calls())
def test_any_call(call: tuple[dict, dict]) -> None:
    inputs, options = call
    check_objective(inputs, "reference", **options)


def test_a_loss_that_nobody_asks_a_gradient_of_gives_none() -> None:
    class Ignored(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, upstream):
            return None

    for change in ({}, dict(adapter_clean=None, adapter_corrupt=None)):
        inputs = objective_inputs() | change
        Ignored.apply(bidirectional_loss(**inputs)[0]).backward()
        assert all(x.grad is None for x in inputs["student_clean"] + inputs["student_corrupt"])


def test_data_parallel_counts_add_up() -> None:
    """Two ranks with global counts / 2 average to the loss of the whole batch."""
    whole = objective_inputs(batch=4)
    counts = region_counts(whole["regions"]).double() / 2
    halves = [{n: [x[k::2] for x in v] for n, v in whole.items()} for k in (0, 1)]
    losses = [bidirectional_loss(**h, counts=counts)[0] for h in halves]
    torch.testing.assert_close(sum(losses) / 2, bidirectional_loss(**whole)[0])


def test_regions() -> None:
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[0, :4, :4] = True
    mask[0, 4, 0] = True
    (coarse, fine) = region_maps(mask, [(2, 2), (8, 8)])
    assert coarse.dtype == torch.uint8 and coarse[0].tolist() == [[2, 0], [1, 0]] and coarse[1].sum() == 0
    assert torch.equal(fine == 2, mask) and not (fine == 1).any()
    assert region_counts([coarse, fine]).tolist() == [[6, 1], [111, 17]]
    half = torch.zeros(1, 2, 4)
    half[0, :, 0], half[0, 1, 2] = 1, 1
    assert region_maps(half, [(1, 2)])[0].tolist() == [[[2, 1]]]  # exactly half is a defect, a quarter is not


@pytest.mark.parametrize(("change", "message"), [
    (dict(adapter_clean=None), "give both adapter_clean and adapter_corrupt"), (dict(regions=[]), "regions has 0 levels"),
    (dict(counts=torch.ones(2)), r"counts must have shape \(4, 2\)"), (dict(dead="x"), "dead must be one of"),
    (dict(corrupt=[torch.ones(1, 1, 1, 1)] * 4), r"corrupt\[0\] has shape"),
    (dict(beta=torch.ones(2)), r"beta must be a float or a 0-dim tensor on cpu, got shape \(2,\)"),
    (dict(beta=torch.empty((), device="meta")), "beta must be .* on cpu, got .* on meta"),
    (dict(clean=None), "clean must be a list of .* maps, got NoneType"),
    (dict(corrupt=[0.5] * 4), r"corrupt\[0\] must be .* tensor, got float"),
    (dict(beta=None), "beta must be a finite number in 0..1, got None"), (dict(beta="x"), "beta must be .* got 'x'"),
    (dict(beta=2), "beta must be .* got 2"), (dict(beta=-1), "beta must be .* got -1"), (dict(beta=math.nan), "beta .* got nan"),
    (dict(margin=None), "margin must be a finite number, got None"), (dict(margin=math.nan), "margin must be .* got nan"),
    (dict(bound="a"), "bound must be .* got 'a'"), (dict(forward_weights=(1, None)), r"forward_weights\[1\] must be a finite"),
    *[(dict(forward_weights=w), "forward_weights must be two numbers") for w in ((1,), 1.0, (1, 1, 1))],
    (dict(regions=None), "regions must be a list of .* maps, got NoneType"), (dict(regions=[None] * 4), r"regions\[0\] must be a"),
    (dict(counts=[[1, 2]] * 4), r"counts must be a \(4, 2\) tensor, got list"),
    (dict(regions=[r == 1 for r in objective_inputs()["regions"]]), r"regions\[0\] must be uint8, .* got torch.bool"),
], ids=str)
def test_wrong_arguments(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bidirectional_loss(**(objective_inputs() | change))
