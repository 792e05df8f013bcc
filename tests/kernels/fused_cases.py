"""Inputs and comparisons for the fused operators: the frozen formula in float64 is the judge of every storage type."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from bikd_kernels import bidirectional_loss, cosine_discrepancy, region_maps
from bikd_kernels.reference.naive import bidirectional_loss_naive, cosine_discrepancy_naive
from torch import Tensor

LEVELS = ((8, 6, 6), (20, 5, 3), (40, 7, 7), (3, 2, 2))
# Relative error of a whole gradient, and what storage adds to that of one position (beside 1e-6 of arithmetic), where numbers are
# rounded to nearest, once.
GRADIENT = {torch.float32: 1e-6, torch.bfloat16: 2e-3, torch.float16: 1e-3, torch.float64: 1e-14}
STORED = {torch.float32: 0.0, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-10, torch.float64: 0.0}
ARITHMETIC = {torch.float64: 1e-14}
TINY = {torch.float16: 2.0**-24}  # spacing of its subnormals


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


def sliced(x: Tensor, dim: int) -> Tensor:
    """The numbers of x as every second one along dim of a larger map, which holds NaN between them."""
    larger = torch.full_like(x.detach().repeat_interleave(2, dim), torch.nan)
    view = larger[(slice(None),) * dim + (slice(None, None, 2),)]
    view.copy_(x.detach())
    return view.requires_grad_(x.requires_grad)


def one_sign(maps_of: Sequence[Tensor]) -> list[Tensor]:
    """Maps of one channel without their signs, others as they are. Opposite vectors, which one channel has everywhere, have a
    gradient of 0 that is the difference of two of twice the length that assert_gradients measures against."""
    return [x if x.shape[1] > 1 else x.detach().abs().requires_grad_(x.requires_grad) for x in maps_of]


def doubles(levels: Sequence[Tensor]) -> list[Tensor]:
    """The stored numbers in float64, leaves of their own."""
    return [x.detach().double().requires_grad_() for x in levels]


def assert_gradients(found: Sequence[Tensor], expected: Sequence[Tensor], lengths: Sequence[Tensor],
                     over: tuple[int, ...] = (1,), coarser: float = 1.0) -> None:
    """Errors of gradients against float64, map by map: of the whole map relative to its length, and of every vector.

    lengths: (B, 1, H, W) or (B, 1, 1, 1), the length weight / |x| of the two vectors whose difference the gradient of one
    cosine is. Where they are nearly parallel they cancel, and no arithmetic on rounded numbers keeps the relative error of what
    is left; there the error is measured against a quarter of that length (the whole map) or all of it (a vector).
    over: the dimensions of one cosine. coarser: see coarser_storage.
    """
    for k, (g, e, length) in enumerate(zip(found, expected, lengths, strict=True)):
        assert g is not None and g.shape == e.shape
        assert torch.isfinite(g).all(), f"gradient {k} is not finite"
        if not e.numel():
            continue
        error = g.double() - e
        whole = error.norm() / torch.maximum(e.norm(), 0.25 * length.norm()).clamp_min(1e-300)
        limit = GRADIENT[g.dtype] + TINY.get(g.dtype, 0) * e.numel() ** 0.5 / e.norm().clamp_min(1e-300)
        if STORED[g.dtype]:  # rounding is random: a few numbers may be off by more than many are
            limit = limit * coarser * (1 + 2 / e.numel() ** 0.5)
        assert whole <= limit, f"gradient {k}: relative error {whole:.2e}"
        each, size = (torch.linalg.vector_norm(x, dim=over, keepdim=True) for x in (error, e))
        allowed = coarser * STORED[g.dtype] * size + ARITHMETIC.get(g.dtype, 1e-6) * torch.maximum(size, length)
        worst = (each - TINY.get(g.dtype, 0) * (e[0].numel() if len(over) > 1 else e.shape[1]) ** 0.5) / allowed.clamp_min(1e-300)
        assert worst.max() <= 1, f"gradient {k}: {worst.max():.2f} times the error allowed at a position"


def coarser_storage(impl: str, device: str, upstream: float) -> float:
    """What storage in 16 bits errs more than rounding to nearest once: the interpreter truncates bfloat16, and an upstream gradient
    that is no power of two rounds what the forward pass has stored a second time."""
    return (2.0 if impl == "triton" and device == "cpu" else 1.0) * (1.0 if math.frexp(upstream)[0] == 0.5 else 2.0)


def cosine_lengths(maps_of: Sequence[Tensor], weights: Sequence[Tensor], over: tuple[int, ...] = (1,),
                   eps: float = 1e-8) -> list[Tensor]:
    """weight / max(|x|, eps) of every cosine."""
    norms = [torch.linalg.vector_norm(x.detach().double(), dim=over, keepdim=True) for x in maps_of]
    return [w / n.clamp_min(eps) for n, w in zip(norms, weights, strict=True)]


def _cosine_weights(k: int, x: Tensor, upstream: Sequence[Tensor], options: dict[str, Any]) -> Tensor:
    """What the cosines of level k weigh in the loss: (B, 1, H, W), or (B, 1, 1, 1) with over="map", or a broadcast of it."""
    per_map, reduction = options.get("over") == "map", options.get("reduction", "mean")
    given = upstream[k] if reduction == "none" else upstream[0][k] if reduction == "per_scale" else upstream[0]
    own = options["weights"][k].double() if options.get("weights") is not None else torch.ones((), device=x.device)
    count = own.sum() if own.dim() else torch.tensor(float(len(x) if per_map else x[:, 0].numel()))
    if reduction in ("mean", "per_scale"):
        given = given / torch.where(count != 0, count, 1).to(given.device)
    weight = given * own * (options["scale_weights"][k] if options.get("scale_weights") else 1.0)
    return weight.reshape(-1, 1, 1, 1) if per_map else weight.unsqueeze(1) if weight.dim() else weight


def check_pair(teacher: list[Tensor], student: list[Tensor], impl: str, upstream: float = 1.0, **options: Any) -> None:
    """cosine_discrepancy against the formula: values, and gradients to both sides for a random upstream gradient."""
    before = [x.detach().clone() for x in teacher + student]
    values = cosine_discrepancy(teacher, student, impl=impl, **options)
    t, s = doubles(teacher), doubles(student)
    if options.get("weights") is not None:
        options = options | {"weights": [w.double() for w in options["weights"]]}
    expected = cosine_discrepancy_naive(t, s, **options)
    many = isinstance(values, list)
    loss, target = 0.0, 0.0
    each: list[float | Tensor] = []  # upstream gradient of each value
    generator = torch.Generator().manual_seed(1)
    for v, e in zip(values if many else [values], expected if many else [expected]):
        assert v.dtype == (torch.float64 if teacher[0].dtype == torch.float64 else torch.float32)
        torch.testing.assert_close(v.double(), e, rtol=1e-6, atol=1e-7 * max(1, v.numel()) if v.dim() else 1e-9)
        u = torch.rand(v.shape, generator=generator).to(v) * upstream if v.dim() else torch.tensor(upstream).to(v)
        loss, target = loss + (v * u).sum(), target + (e * u.double()).sum()
        each.append(u.double())
    ask = [(x, d) for x, d in zip(teacher + student, t + s) if x.requires_grad]
    found = torch.autograd.grad(loss, [x for x, _ in ask])
    wanted = torch.autograd.grad(target, [d for _, d in ask])
    over = (1, 2, 3) if options.get("over") == "map" else (1,)  # one cosine a map, or one a position
    parts = [_cosine_weights(k, x, each, options) for side in (teacher, student) for k, x in enumerate(side) if x.requires_grad]
    assert_gradients(found, wanted, cosine_lengths([x for x, _ in ask], parts, over, options.get("eps", 1e-8)), over,
                     coarser_storage(impl, teacher[0].device.type, upstream))
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


def check_objective(inputs: dict[str, Any], impl: str, upstream: float = 1.0, **options: Any) -> None:
    """bidirectional_loss against the formula: loss, every term, and the gradients of all that require one."""
    before = {name: [x.detach().clone() for x in value] for name, value in inputs.items() if value is not None}
    loss, terms = bidirectional_loss(**inputs, impl=impl, **options)
    exact = {name: value if name == "regions" or value is None else doubles(value) for name, value in inputs.items()}
    judged = options | ({"beta": options["beta"].double()} if isinstance(options.get("beta"), Tensor) else {})
    beta = float(judged.get("beta", 0.5))
    larger = max(beta, 1 - beta) if judged.pop("peak", False) else 1.0
    expected, judge = bidirectional_loss_naive(**exact, **judged)
    expected = expected / larger
    assert terms.keys() == judge.keys()
    for name, value in terms.items():
        assert not value.requires_grad and value.dim() == 0
        torch.testing.assert_close(value.double(), judge[name], rtol=1e-6, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-9)
    names = [n for n in ("student_clean", "student_corrupt", "adapter_clean", "adapter_corrupt")
             if inputs[n] is not None and inputs[n][0].requires_grad]
    assert loss.requires_grad == bool(names)
    if names:
        found = torch.autograd.grad(loss * upstream, [x for n in names for x in inputs[n]])
        wanted = torch.autograd.grad(expected * upstream, [x for n in names for x in exact[n]], materialize_grads=True)
        assert_gradients(found, wanted, [x for n in names for x in objective_lengths(n, exact, upstream / larger, options)],
                         coarser=coarser_storage(impl, loss.device.type, upstream))
    assert all(torch.equal(x, b) for n, held in before.items() for x, b in zip(inputs[n], held)), "an input was written over"


def objective_lengths(name: str, exact: dict[str, Any], upstream: float, options: dict[str, Any]) -> list[Tensor]:
    """(B, 1, H, W) a level: length of the two vectors whose difference the gradient to one input is, behind the adapter's slope."""
    beta, bound = float(options.get("beta", 0.5)), options.get("bound", 0.5)
    use = [float(options.get(f"use_{term}", True)) for term in ("con", "div", "anc")]
    result = []
    for k, region in enumerate(exact["regions"]):
        scale = upstream * (options.get("scale_weights") or [1.0] * (k + 1))[k]
        everywhere = torch.full_like(region, scale / max(region.numel(), 1), dtype=torch.float64)
        if name.startswith("student"):
            weight = (1 - beta) * options.get("forward_weights", (0.5, 0.5))[name == "student_clean"] * everywhere
            result += cosine_lengths([exact[name][k]], [weight[:, None]])
            continue
        weight = beta * (use[0] + use[2]) * everywhere
        if name == "adapter_corrupt":
            inside = [(region == 0).double(), (region == 2).double()]
            counts = options["counts"][k].double() if options.get("counts") is not None else [x.sum() for x in inside]
            n, p = (x * scale / c if c > 0 else 0 * x for x, c in zip(inside, counts))
            weight = beta * ((use[0] + use[2]) * n + use[1] * p)
        e, tanh = exact["clean" if name == "adapter_clean" else "corrupt"][k].detach(), exact[name][k].detach().tanh()
        t = e * (1 + bound * tanh)
        norm = t.norm(dim=1, keepdim=True).clamp_min(1e-8)
        slope = bound * (1 - tanh * tanh) * e
        result.append(weight[:, None] * (slope * t).norm(dim=1, keepdim=True) / norm**2)
    return result
