"""Frozen formulas in plain, differentiable PyTorch: the specification that every other implementation is held against.

Nothing here is fast and nothing here is to be made fast. All arithmetic runs in float32, or float64 for float64 input,
whatever the storage type, so that half-precision inputs are judged against the exact loss of the stored numbers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """x in the arithmetic type: float64 stays, everything else becomes float32."""
    return x if x.dtype == torch.float64 else x.float()


def unit(x: Tensor, dim: int, eps: float, dead: str) -> Tensor:
    """x / max(|x|, eps) along dim; with dead="zero" vectors of norm <= eps receive no gradient.

    The clamp takes part in differentiation (the semantics of torch.nn.functional.normalize): below eps the divisor is
    a constant. The squared norm is clamped, not the norm, because the derivative of a norm is undefined at zero.
    """
    squared = (x * x).sum(dim, keepdim=True)
    if dead == "zero":
        x = torch.where(squared > eps * eps, x, x.detach())
    return x / squared.clamp_min(eps * eps).sqrt()


def discrepancy(t: Tensor, s: Tensor, dim: int = 1, eps: float = 1e-8, dead: str = "torch") -> Tensor:
    """1 - cos(t, s) along dim, dim removed; arithmetic in the wide type."""
    t, s = wide(t), wide(s)
    return 1 - (unit(t, dim, eps, dead) * unit(s, dim, eps, dead)).sum(dim)


def mean(x: Tensor) -> Tensor:
    """The mean of all elements, 0 of none."""
    return x.sum() / max(x.numel(), 1)


def level_discrepancy(t: Tensor, s: Tensor, over: str, eps: float, dead: str) -> Tensor:
    """(B, H, W) discrepancy over channels, or (B,) over the whole flattened map."""
    if over == "map":
        return discrepancy(t.flatten(1), s.flatten(1), 1, eps, dead)
    return discrepancy(t, s, 1, eps, dead)


def cosine_discrepancy_naive(
    teacher: Sequence[Tensor], student: Sequence[Tensor], *, weights: Sequence[Tensor] | None = None,
    scale_weights: Sequence[float] | None = None, reduction: str = "mean", over: str = "position", eps: float = 1e-8,
    dead: str = "torch",
) -> Tensor | list[Tensor]:
    """The specification of bikd_kernels.cosine_discrepancy: same arguments, same results, autograd by PyTorch."""
    levels = []
    for k, (t, s) in enumerate(zip(teacher, student, strict=True)):
        d = level_discrepancy(t, s, over, eps, dead)
        total: Tensor | float = float(max(d.numel(), 1))
        if weights is not None:
            w = wide(weights[k].detach()).to(d.dtype)
            total = w.sum()
            total = torch.where(total != 0, total, torch.ones_like(total))  # no weight at all: the mean is 0
            d = d * w
        d = d * (1.0 if scale_weights is None else scale_weights[k])
        levels.append(d if reduction == "none" else d.sum() if reduction == "sum" else d.sum() / total)
    if reduction == "none":
        return levels
    return torch.stack(levels) if reduction == "per_scale" else torch.stack(levels).sum()


def bidirectional_loss_naive(
    clean: Sequence[Tensor], corrupt: Sequence[Tensor], student_clean: Sequence[Tensor],
    student_corrupt: Sequence[Tensor], regions: Sequence[Tensor], *, adapter_clean: Sequence[Tensor] | None = None,
    adapter_corrupt: Sequence[Tensor] | None = None, bound: float = 0.5, beta: float | Tensor = 0.5,
    margin: float = 0.5, forward_weights: tuple[float, float] = (0.5, 0.5), use_con: bool = True, use_div: bool = True,
    use_anc: bool = True, scale_weights: Sequence[float] | None = None, counts: Tensor | None = None,
    eps: float = 1e-8, dead: str = "zero",
) -> tuple[Tensor, dict[str, Tensor]]:
    """The specification of bikd_kernels.bidirectional_loss: every pair written out, every target detached."""
    names = ("forward_corrupt", "forward_clean", "con_clean", "con_corrupt", "div", "anc_clean", "anc_corrupt")
    terms: dict[str, Tensor | float] = dict.fromkeys(names, 0.0)

    def d(u: Tensor, v: Tensor) -> Tensor:
        return discrepancy(u, v, 1, eps, dead)

    for k in range(len(clean)):
        e, e_bad, s, s_bad = (wide(x[k]) for x in (clean, corrupt, student_clean, student_corrupt))
        t, t_bad = e, e_bad
        if adapter_clean is not None and adapter_corrupt is not None:
            t = e.detach() * (1 + bound * torch.tanh(wide(adapter_clean[k])))
            t_bad = e_bad.detach() * (1 + bound * torch.tanh(wide(adapter_corrupt[k])))
        else:
            t, t_bad = e.detach(), e_bad.detach()
        normal, defect = regions[k] == 0, regions[k] == 2
        divisor = torch.stack([normal.sum(), defect.sum()]).to(e.dtype) if counts is None else counts[k].to(e.dtype)
        share = torch.where(divisor > 0, 1 / torch.where(divisor > 0, divisor, 1), 0)
        w = 1.0 if scale_weights is None else scale_weights[k]
        hinge = (margin - d(t_bad, s_bad.detach())).clamp_min(0)
        level = {
            "forward_corrupt": mean(d(s_bad, t.detach())), "forward_clean": mean(d(s, t.detach())),
            "con_clean": mean(d(t, s.detach())), "con_corrupt": (d(t_bad, s_bad.detach()) * normal).sum() * share[0],
            "div": (hinge * defect).sum() * share[1],
        }
        if adapter_clean is not None:
            level["anc_clean"] = mean(d(t, e.detach()))
            level["anc_corrupt"] = (d(t_bad, e_bad.detach()) * normal).sum() * share[0]
        for name, value in level.items():
            terms[name] = terms[name] + w * value
    zero = torch.zeros((), dtype=wide(clean[0]).dtype, device=clean[0].device)
    full = {name: zero + value for name, value in terms.items()}
    full["forward"] = forward_weights[0] * full["forward_corrupt"] + forward_weights[1] * full["forward_clean"]
    full["backward"] = zero
    for used, parts in ((use_con, ("con_clean", "con_corrupt")), (use_div, ("div",)), (use_anc, ("anc_clean", "anc_corrupt"))):
        if used:
            full["backward"] = full["backward"] + sum(full[p] for p in parts)
    loss = (1 - beta) * full["forward"] + beta * full["backward"]
    return loss, {name: value.detach() for name, value in full.items()}
