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
                     weight: float = 0.0) -> None:
    """Relative error of the gradient vector at every position, small vectors measured against the typical one.

    weight: upstream gradient of one position for vectors of length 1. Where teacher and student are parallel the gradient
    is a difference of vectors of that length which cancels, so its error is measured against a twentieth of them.
    """
    for k, (g, e) in enumerate(zip(found, expected, strict=True)):
        assert g is not None and g.shape == e.shape
        assert torch.isfinite(g).all(), f"gradient {k} is not finite"
        if not e.numel():
            continue
        norms = e.norm(dim=1, keepdim=True)
        typical = norms.median() if norms.median() > 0 else norms.max()
        error = ((g.double() - e).norm(dim=1, keepdim=True) / (norms + 0.1 * typical + 0.05 * weight + 1e-300)).max()
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
    size = 1.0
    if options.get("reduction", "mean") in ("mean", "per_scale"):
        size = max(max(v.shape[0] * v.shape[2] * v.shape[3] for v in teacher), 1)
    if options.get("over") == "map":
        size *= max(v[0].numel() if len(v) else 1 for v in teacher) ** 0.5
    assert_gradients(found, torch.autograd.grad(target, [d for _, d in ask]), limit, upstream / size)
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
    assert_gradients(found, wanted, limit, upstream * 0.25 / max(r.numel() for r in inputs["regions"]))
