"""The fused kernels against the formula: on a GPU, or under TRITON_INTERPRET=1 (test_interpreter.py starts that)."""

import pytest
import torch
from bikd_kernels import bidirectional_loss, cosine_discrepancy, region_counts, tiles
from fused_cases import check_objective, check_pair, maps, objective_inputs, one_sign
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from map_cases import nearly_parallel
from triton_tests import DEVICE, NEEDS_TRITON, poisoned  # noqa: F401

pytestmark = NEEDS_TRITON
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
ODD = ((20, 7, 7), (5, 3, 3))
EVEN = ((64, 4, 8), (128, 4, 4))
LOOPED = ((160, 4, 4), (300, 3, 3))  # NCHW: more channels than a tile keeps


def both(levels, dtype=torch.float32, last=True, batch=2, dead=0.0, second=None):
    return (maps(levels, batch, dtype, last, 0, DEVICE, dead),
            maps(levels, batch, second or dtype, last, 1, DEVICE, dead))


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_pair(dtype: torch.dtype, last: bool) -> None:
    check_pair(*both(ODD, dtype, last), "triton", upstream=2.5)
    check_pair(*both(EVEN, dtype, last), "triton")


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("levels", [LOOPED, ((4100, 2, 1), (8, 1, 1))], ids=["looped", "very_deep"])
def test_deep_levels(levels, last: bool) -> None:
    check_pair(*both(levels, last=last), "triton")
    check_pair(*both(levels, last=last), "triton", reduction="none")


@pytest.mark.parametrize("options", [
    dict(reduction="sum"), dict(reduction="none"), dict(reduction="per_scale"), dict(over="map"), dict(dead="zero"),
    dict(over="map", reduction="none"), dict(scale_weights=[0.5, 2.0])], ids=str)
@pytest.mark.parametrize("last", [True, False])
def test_options(options: dict, last: bool) -> None:
    check_pair(*both(ODD, last=last, dead=0.3), "triton", **options)
    check_pair(*both(ODD, torch.bfloat16, last=last), "triton", **options)


@pytest.mark.parametrize("options", [dict(reduction="none"), dict(reduction="per_scale"), dict(over="map"),
                                     dict(over="map", reduction="none")], ids=str)
@pytest.mark.parametrize("last", [True, False])
def test_float16_with_saved_statistics(options: dict, last: bool) -> None:
    """Two passes, whose gradients float16 holds without a factor; zero vectors, and a partner of another type."""
    check_pair(*both(ODD, torch.float16, last, dead=0.3), "triton", dead="zero", **options)
    check_pair(*both(ODD, torch.float16, last, second=torch.bfloat16), "triton", upstream=4.0, **options)


@pytest.mark.parametrize("last", [True, False])
def test_nearly_parallel_vectors(last: bool) -> None:
    teacher, noise = both(((64, 4, 4), (160, 3, 3)), last=last)
    student = [(t + 0.03 * n).detach().requires_grad_() for t, n in zip(teacher, noise)]
    for options in (dict(), dict(reduction="none"), dict(over="map"), dict(over="map", reduction="none")):
        check_pair(teacher, student, "triton", **options)
    t, s = nearly_parallel(3.0, last)  # and of other lengths, over several chunks
    for over in ("position", "map"):
        found, = cosine_discrepancy([t.to(DEVICE)], [s.to(DEVICE)], reduction="none", over=over, impl="triton")
        exact, = cosine_discrepancy([t.double()], [s.double()], reduction="none", over=over)
        torch.testing.assert_close(found.cpu().double(), exact, rtol=2e-5, atol=0)


def test_weights_mixtures_and_strides() -> None:
    weights = [torch.rand(2, h, w, device=DEVICE) for _, h, w in ODD]
    weights[1].zero_()
    for reduction in ("mean", "sum", "none"):
        check_pair(*both(ODD), "triton", weights=weights, reduction=reduction)
    sparse = [torch.zeros_like(w) for w in weights]
    sparse[0][1, 2, 3] = 1
    check_pair(*both(ODD, torch.float16), "triton", weights=sparse)
    teacher, student = both(ODD, torch.float32, second=torch.float16)
    teacher[1] = teacher[1].detach().contiguous().requires_grad_()  # one level NCHW against channels_last
    check_pair(teacher, student, "triton")
    student[0] = student[0].detach().contiguous().requires_grad_()  # levels of one call in both layouts
    check_pair(teacher, student, "triton", weights=weights)
    wide = maps(((20, 7, 9), (5, 3, 3)), device=DEVICE, last=False)
    check_pair([wide[0].detach()[..., 1:8].requires_grad_(), wide[1]], student, "triton")


def test_one_side_and_empty() -> None:
    for reduction in ("mean", "none"):
        teacher, student = both(ODD)
        for x in teacher:
            x.requires_grad_(False)
        check_pair(teacher, student, "triton", reduction=reduction)
        check_pair(*reversed(both(ODD)), "triton", reduction=reduction)
        check_pair(*both(ODD, batch=0), "triton", reduction=reduction)
    assert cosine_discrepancy(*both(ODD, batch=0), over="map", impl="triton") == 0


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_objective(dtype: torch.dtype, last: bool) -> None:
    check_objective(objective_inputs(ODD, dtypes=(dtype,) * 3, last=last, device=DEVICE), "triton", upstream=0.5)
    check_objective(objective_inputs(EVEN, 1, (dtype,) * 3, last, device=DEVICE), "triton")


@pytest.mark.parametrize("last", [True, False])
def test_objective_options(last: bool) -> None:
    inputs = objective_inputs(ODD, dtypes=(torch.float32, torch.bfloat16, torch.float32), last=last, device=DEVICE)
    check_objective(inputs, "triton", beta=torch.tensor(0.3, device=DEVICE), margin=1.1, use_con=False, bound=0.2, peak=True)
    check_objective(inputs, "triton", use_div=False, use_anc=False, forward_weights=(0.2, 0.7), scale_weights=[2.0, 0.5],
                    counts=torch.tensor([[9.0, 3.0], [0.0, 7.0]], device=DEVICE))
    check_objective(inputs | dict(adapter_clean=None, adapter_corrupt=None), "triton", dead="torch")
    nothing = [torch.zeros_like(r) for r in inputs["regions"]]
    check_objective(inputs | dict(regions=nothing), "triton")
    check_objective(objective_inputs(LOOPED, 1, last=last, device=DEVICE), "triton")


@pytest.mark.parametrize("wanted", ["student", "adapter", "none"])
def test_objective_with_one_side_frozen_and_empty(wanted: str) -> None:
    inputs = objective_inputs(ODD, dtypes=(torch.float32, torch.float16, torch.float32), device=DEVICE)
    for name in ("student_clean", "student_corrupt", "adapter_clean", "adapter_corrupt"):
        for x in inputs[name]:
            x.requires_grad_(name.startswith(wanted))
    check_objective(inputs, "triton")
    check_objective({name: [x.detach()[:0].requires_grad_(x.requires_grad) for x in value] for name, value in inputs.items()},
                    "triton")


@pytest.fixture
def fresh_plans():
    """Nothing that another test has had planned, and nothing of this one's left."""
    for cached in (tiles.plan, tiles.tile):
        cached.cache_clear()
    yield
    for cached in (tiles.plan, tiles.tile):
        cached.cache_clear()


@pytest.mark.parametrize("each", [2, 8])
def test_objective_with_several_tiles_a_program(each: int, monkeypatch: pytest.MonkeyPatch, fresh_plans) -> None:
    monkeypatch.setattr(tiles, "tiles_each", lambda total: each if total % each == 0 else 1)
    check_objective(objective_inputs(((64, 4, 8), (128, 4, 4)), 4, device=DEVICE), "triton")
    check_objective(objective_inputs(((61, 7, 9), (120, 5, 6)), 2, device=DEVICE), "triton")  # the last tile is not full


@pytest.mark.parametrize("dtypes", [(torch.bfloat16,) * 3, (torch.float16,) * 3, (torch.float32, torch.bfloat16, torch.float16)],
                         ids=str)
def test_objective_with_the_tiles_of_an_h200(dtypes, monkeypatch: pytest.MonkeyPatch, fresh_plans) -> None:
    """Of the committed tiles these alone give a thread two runs of channels of a 16-bit type, and the interpreter takes "any"'s."""
    committed = tiles.table()
    monkeypatch.setattr(tiles, "table", lambda: {"any": committed["any"] | committed["sm_90"]})
    shapes = ((64, 4, 4), (61, 3, 3), (33, 2, 3))
    check_objective(objective_inputs(shapes, dtypes=dtypes, device=DEVICE), "triton")
    size = max(dtype.itemsize for dtype in dtypes)
    assert 2 in tiles.plan("objective", tuple((2, *s) for s in shapes), (True,) * 3, (size,) * 3, "any").parts


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.8, torch.tensor(0.8)], ids=str)
def test_the_larger_direction_weighs_one(beta: float | torch.Tensor) -> None:
    inputs = objective_inputs(((20, 4, 4),), device=DEVICE)
    check_objective(inputs, "triton", upstream=0.5, beta=beta.to(DEVICE) if torch.is_tensor(beta) else beta, peak=True)


def test_programs_take_several_tiles_where_there_are_many() -> None:
    assert [tiles.tiles_each(n) for n in (1, 4095, 4096, 8192, 16384, 16386, 1 << 20)] == [1, 1, 2, 4, 8, 2, 8]


def test_regions_are_counted_on_the_device() -> None:
    draw = torch.Generator().manual_seed(0)
    regions = [torch.randint(0, 3, shape, generator=draw, dtype=torch.uint8).to(DEVICE)
               for shape in ((3, 150, 150), (2, 7, 5), (1, 1, 1), (2, 370, 370))]  # the last: more than all programs take at once
    counts = region_counts(regions, impl="triton")
    assert counts.dtype == torch.int64 and torch.equal(counts, region_counts(regions, impl="reference"))
    assert torch.equal(region_counts([r.transpose(1, 2) for r in regions], impl="triton"), counts)


@pytest.mark.parametrize("dead", ["torch", "zero"])
def test_objective_with_dead_positions(dead: str) -> None:
    for last in (True, False):
        inputs = objective_inputs(ODD, last=last, device=DEVICE, dead=0.3)
        if dead == "torch":  # where E = 0 the slope of T is 0 times 1e8: compared as finite only
            loss, _ = bidirectional_loss(**inputs, dead=dead, impl="triton")
            grads = torch.autograd.grad(loss, inputs["student_clean"] + inputs["adapter_clean"])
            assert all(torch.isfinite(g).all() for g in grads)
        else:
            check_objective(inputs, "triton", dead=dead)


@settings(max_examples=6, deadline=None, phases=[Phase.explicit, Phase.generate])  # no shrinking: minutes
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=2),
       st.integers(1, 3), st.booleans(), st.integers(0, 99), st.tuples(*[st.sampled_from(DTYPES)] * 3),
       st.sampled_from([0.0, 0.4]), st.sampled_from(["mean", "none", "per_scale"]))
def test_any_shape(levels, batch, last, seed, dtypes, dead, reduction) -> None:
    teacher, student = (one_sign(maps(levels, batch, dtypes[k], last, seed + k, DEVICE, dead)) for k in (0, 1))
    check_pair(teacher, student, "triton", dead="zero", reduction=reduction)
    inputs = objective_inputs(levels, batch, dtypes, last, seed, DEVICE, dead)
    check_objective({n: x if n == "regions" else one_sign(x) for n, x in inputs.items()}, "triton")


def test_upstream_of_one_changes_no_bit() -> None:
    def once(scale):
        teacher, student = both(ODD, torch.bfloat16)
        return torch.autograd.grad(cosine_discrepancy(teacher, student, impl="triton") * scale, student)

    assert all(torch.equal(a, b) for a, b in zip(once(1.0), once(1.0)))
    assert all(torch.equal(2 * a, b) for a, b in zip(once(1.0), once(2.0)))
