"""Inputs and comparisons for the fused operators: the frozen formula in float64 is the judge of every storage type."""

from collections.abc import Sequence
from typing import Any

import torch
from bikd_kernels import bidirectional_loss, cosine_discrepancy, region_maps
from bikd_kernels.reference.naive import bidirectional_loss_naive, cosine_discrepancy_naive
from torch import Tensor

LEVELS = ((8, 6, 6), (20, 5, 3), (40, 7, 7), (3, 2, 2))
# relative gradient error a position; the interpreter truncates to bfloat16 where a GPU rounds
GRADIENT = {torch.float32: 2e-5, torch.bfloat16: 2.0**-7, torch.float16: 2e-3, torch.float64: 1e-10}


def maps(levels: Sequence[tuple[int, int, int]] = LEVELS, batch: int = 2, dtype: torch.dtype = torch.float32,
         last: bool = True, seed: int = 0, device: str = "cpu", dead: float = 0.0) -> list[Tensor]:
    """Random (batch, C, H, W) leaves that require gradients; a share `dead` of the positions is exactly zero."""
    generator = torch.Generator().manual_seed(seed)
    result = []
    for c, h, w in levels:
        x = torch.randn(batch, c, h, w, generator=generator)
        x = x * (torch.rand(batch, 1, h, w, generator=generator) >= dead)
        x = x.to(device, dtype).contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
        result.append(x.requires_grad_())
    return result


def doubles(levels: Sequence[Tensor]) -> list[Tensor]:
    """The stored numbers in float64, leaves of their own."""
    return [x.detach().double().requires_grad_() for x in levels]


def assert_gradients(found: Sequence[Tensor], expected: Sequence[Tensor], limit: float | None = None,
                     weights: Sequence[float] = (), at: Sequence[Tensor] = (), over: tuple[int, ...] = (1,)) -> None:
    """Relative error of the gradient vector at every position, small vectors measured against the typical one.

    weights: upstream gradient of one cosine of each map; at: the maps x that the gradients belong to; over: the dimensions
    of one cosine. Where teacher and student are parallel the gradient is a difference of vectors of length weight / |x|
    which cancels, so its error is measured against a twentieth of them.
    """
    for k, (g, e) in enumerate(zip(found, expected, strict=True)):
        assert g is not None and g.shape == e.shape
        assert torch.isfinite(g).all(), f"gradient {k} is not finite"
        if not e.numel():
            continue
        norms = e.norm(dim=1, keepdim=True)
        typical = norms.median() if norms.median() > 0 else norms.max()
        cancels = torch.zeros_like(norms)
        if at:
            length = torch.linalg.vector_norm(at[k].detach().double(), dim=over, keepdim=True)
            cancels = torch.where(length > 0, weights[k] / length, 0.0) / (norms[0].numel() if len(over) > 1 else 1) ** 0.5
        error = ((g.double() - e).norm(dim=1, keepdim=True) / (norms + 0.1 * typical + 0.05 * cancels + 1e-300)).max()
        assert error <= (limit or GRADIENT[g.dtype]), f"gradient {k}: relative error {error:.2e}"


def check_pair(teacher: list[Tensor], student: list[Tensor], impl: str, upstream: float = 1.0, limit: float | None = None,
               **options: Any) -> None:
    """cosine_discrepancy against the formula: values, and gradients to both sides for a random upstream gradient."""
    before = [x.detach().clone() for x in teacher + student]
    values = cosine_discrepancy(teacher, student, impl=impl, **options)
    t, s = doubles(teacher), doubles(student)
    if options.get("weights") is not None:
        options = options | {"weights": [w.double() for w in options["weights"]]}
    expected = cosine_discrepancy_naive(t, s, **options)
    many = isinstance(values, list)
    loss, target = 0.0, 0.0
    generator = torch.Generator().manual_seed(1)
    for v, e in zip(values if many else [values], expected if many else [expected]):
        assert v.dtype == (torch.float64 if teacher[0].dtype == torch.float64 else torch.float32)
        torch.testing.assert_close(v.double(), e, rtol=1e-6, atol=1e-7 * max(1, v.numel()) if v.dim() else 1e-9)
        u = torch.rand(v.shape, generator=generator).to(v) * upstream if v.dim() else torch.tensor(upstream).to(v)
        loss, target = loss + (v * u).sum(), target + (e * u.double()).sum()
    ask = [(x, d) for x, d in zip(teacher + student, t + s) if x.requires_grad]
    found = torch.autograd.grad(loss, [x for x, _ in ask])
    wanted = torch.autograd.grad(target, [d for _, d in ask])
    over = (1, 2, 3) if options.get("over") == "map" else (1,)  # one cosine a map, or one a position
    averaged = options.get("reduction", "mean") in ("mean", "per_scale")
    cosines = [max(len(x) if len(over) > 1 else x[:, 0].numel(), 1) if averaged else 1 for x, _ in ask]
    parts = [upstream / n for n in cosines]
    assert_gradients(found, wanted, limit, parts, [x for x, _ in ask], over)
    assert all(torch.equal(x, b) for x, b in zip(teacher + student, before)), "an input was written over"
    assert not {g.data_ptr() for g in found if g.numel()} & {x.data_ptr() for x in teacher + student}


def objective_inputs(levels: Sequence[tuple[int, int, int]] = LEVELS, batch: int = 2,
                     dtypes: Sequence[torch.dtype] = (torch.float32,) * 3, last: bool = True, seed: int = 0,
                     device: str = "cpu", dead: float = 0.0, covered: float = 0.2) -> dict[str, Any]:
    """Keyword arguments of bidirectional_loss; dtypes of frozen features, student and adapter."""
    def make(k: int, dtype: torch.dtype) -> list[Tensor]:
        return maps(levels, batch, dtype, last, 10 * seed + k, device, dead if k < 4 else 0.0)
    mask = torch.rand(batch, 32, 32, generator=torch.Generator().manual_seed(seed)) < covered
    mask[:, :16] = False
    frozen, student, adapter = dtypes
    return dict(
        clean=[x.detach() for x in make(0, frozen)], corrupt=[x.detach() for x in make(1, frozen)],
        student_clean=make(2, student), student_corrupt=make(3, student),
        regions=[r.to(device) for r in region_maps(mask, [(h, w) for _, h, w in levels])],
        adapter_clean=make(4, adapter), adapter_corrupt=make(5, adapter))


def check_objective(inputs: dict[str, Any], impl: str, upstream: float = 1.0, limit: float | None = None,
                    **options: Any) -> None:
    """bidirectional_loss against the formula: loss, every term, all gradients."""
    loss, terms = bidirectional_loss(**inputs, impl=impl, **options)
    exact = {name: value if name == "regions" or value is None else doubles(value) for name, value in inputs.items()}
    judged = options | ({"beta": options["beta"].double()} if isinstance(options.get("beta"), Tensor) else {})
    expected, judge = bidirectional_loss_naive(**exact, **judged)
    assert terms.keys() == judge.keys()
    for name, value in terms.items():
        assert not value.requires_grad and value.dim() == 0
        torch.testing.assert_close(value.double(), judge[name], rtol=1e-6, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-9)
    names = [n for n in ("student_clean", "student_corrupt", "adapter_clean", "adapter_corrupt") if inputs[n] is not None]
    found = torch.autograd.grad(loss * upstream, [x for n in names for x in inputs[n]])
    wanted = torch.autograd.grad(expected * upstream, [x for n in names for x in exact[n]])
    positions = [r.numel() for r in inputs["regions"]] * len(names)
    assert_gradients(found, wanted, limit, [upstream * 0.25 / n for n in positions], [x for n in names for x in inputs[n]])
