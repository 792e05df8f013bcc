"""The bidirectional objective in plain PyTorch with its gradients worked out by hand: the CPU path.

One walk through each level in cache-sized pieces; every feature tensor is read once, every gradient written once. The
adapted teacher T = E (1 + bound tanh G) exists only piece by piece.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..layout import arranged, feature_view, gradient_like, is_channels_last, pieces, position_view
from .cosine import missing_norm, normalised, pull, unit_discrepancy, write
from .naive import wide

TERMS = ("forward_corrupt", "forward_clean", "con_clean", "con_corrupt", "div", "anc_clean", "anc_corrupt")


class Options(NamedTuple):
    """The numbers of one call; con, div and anc are 0 or 1."""

    bound: float
    margin: float
    forward_corrupt: float
    forward_clean: float
    con: float
    div: float
    anc: float
    eps: float
    dead_zero: bool


class Unit(NamedTuple):
    """A piece of normalised vectors with their 1 / max(norm, eps), squared norms and deviation from length 1."""

    x: Tensor
    r: Tensor
    squared: Tensor
    missing: Tensor | float


def unit(x: Tensor, eps: float) -> Unit:
    """Normalise a wide piece over its channels."""
    hat, r, squared = normalised(x, 1, eps)
    return Unit(hat, r, squared, missing_norm(squared, r, eps))


def distance(a: Unit, b: Unit) -> Tensor:
    """1 - cos of two pieces."""
    return unit_discrepancy(a.x, b.x, 1) + a.missing + b.missing


def teacher_gradient(out: Tensor, teacher: Unit, e: Tensor, th: Tensor, pairs: Sequence[tuple[Unit, Tensor, Tensor]],
                     options: Options) -> None:
    """out = gradient to the adapter output of sum weight d(T, other) over (other, weight, d)."""
    total: Tensor | None = None
    own: Tensor | float = 0.0
    for other, weight, d in pairs:
        a, b = pull(weight, 1 - d, teacher.r, teacher.squared, options.eps, options.dead_zero)
        part = other.x * a.unsqueeze(1)
        total = part if total is None else total.add_(part)
        own = own + b
    assert total is not None and isinstance(own, Tensor)
    slope = (1 - th * th).mul_(e)
    value = total.addcmul_(teacher.x, own.unsqueeze(1)).mul_(slope).mul_(options.bound)
    out.copy_(value.clamp_(-65504, 65504) if out.dtype == torch.float16 else value)


def level(
    maps: Sequence[Tensor], region: Tensor, counts: Tensor, beta: Tensor | float, scale: float, fold: tuple[float, float],
    options: Options, grads: Sequence[Tensor | None], terms: Tensor,
) -> None:
    """Add one level to terms (7, float64) and fill grads, all maps dense in one layout.

    maps: E, F, S, R and, with an adapter, G, H (see bidirectional_kernel.py); grads: for S, R, G, H, or None.
    """
    last = is_channels_last(maps[2])
    eps = options.eps
    views = [feature_view(x, last) for x in maps]
    outs = [None if g is None else feature_view(g, last) for g in grads]
    regions = position_view(region, last)
    everywhere = scale / max(1, region.numel())
    share = torch.where(counts > 0, scale / torch.where(counts > 0, counts, 1), 0)
    ahead = (1 - beta) * fold[0]
    back = beta * fold[1]
    for at, where in pieces(views[2]):
        e, f, s_raw, r_raw = (wide(v[at]) for v in views[:4])
        s, r = unit(s_raw, eps), unit(r_raw, eps)
        g = h = None
        if len(views) == 6:
            g, h = torch.tanh(wide(views[4][at])), torch.tanh(wide(views[5][at]))
            t, u = unit((g * options.bound).add_(1).mul_(e), eps), unit((h * options.bound).add_(1).mul_(f), eps)
        else:
            t, u = unit(e, eps), unit(f, eps)
        normal = (regions[where] == 0) * share[0]
        defect = (regions[where] == 2) * share[1]
        d_tr, d_ts, d_ur = distance(t, r), distance(t, s), distance(u, r)
        terms[0] += d_tr.sum(dtype=torch.float64) * everywhere
        terms[1] += d_ts.sum(dtype=torch.float64) * everywhere
        terms[3] += (d_ur * normal).sum(dtype=torch.float64)
        terms[4] += ((options.margin - d_ur).clamp_min_(0) * defect).sum(dtype=torch.float64)
        for k, (student, d, weight) in enumerate(((s, d_ts, options.forward_clean), (r, d_tr, options.forward_corrupt))):
            out = outs[k]
            if out is not None:
                a, b = pull(ahead * weight * everywhere, 1 - d, student.r, student.squared, eps, options.dead_zero)
                write(out[at], t.x, a, student.x, b, 1)
        if g is None or h is None:
            continue
        e_hat, f_hat = unit(e, eps), unit(f, eps)
        d_te, d_uf = distance(t, e_hat), distance(u, f_hat)
        terms[5] += d_te.sum(dtype=torch.float64) * everywhere
        terms[6] += (d_uf * normal).sum(dtype=torch.float64)
        if outs[2] is not None:
            same = torch.full_like(d_ts, everywhere) * back
            teacher_gradient(outs[2][at], t, e, g, ((s, same * options.con, d_ts), (e_hat, same * options.anc, d_te)),
                             options)
        if outs[3] is not None:
            push = torch.where(d_ur <= options.margin, defect * options.div, 0)
            teacher_gradient(outs[3][at], u, f, h, ((r, (normal * options.con - push) * back, d_ur),
                                                    (f_hat, normal * options.anc * back, d_uf)), options)


def objective(
    clean: Sequence[Tensor], corrupt: Sequence[Tensor], student_clean: Sequence[Tensor],
    student_corrupt: Sequence[Tensor], adapter_clean: Sequence[Tensor], adapter_corrupt: Sequence[Tensor],
    regions: Sequence[Tensor], counts: Tensor, beta: Tensor | float, scale: Sequence[float],
    fold_student: Sequence[float], fold_adapter: Sequence[float], options: Options, grad_student: bool,
    grad_adapter: bool,
) -> tuple[Tensor, list[Tensor]]:
    """(7,) float64 terms in the order of TERMS, and the gradients of the whole loss times their folds.

    The adapter lists are empty where T = E. Gradients: student_clean, student_corrupt, adapter_clean, adapter_corrupt.
    """
    terms = torch.zeros(len(TERMS), dtype=torch.float64, device=clean[0].device)
    held: list[list[Tensor]] = [[], [], [], []]
    for k in range(len(clean)):
        last = is_channels_last(student_clean[k])
        sources = [student_clean, student_corrupt] if grad_student else []
        grads: list[Tensor | None] = [gradient_like(m[k], last) for m in sources] or [None, None]
        grads += [gradient_like(m[k], last) for m in (adapter_clean, adapter_corrupt)] if grad_adapter else [None, None]
        maps = [arranged(m[k], last) for m in (clean, corrupt, student_clean, student_corrupt, adapter_clean,
                                               adapter_corrupt) if m]
        level(maps, regions[k], counts[k].to(wide(clean[k][:0]).dtype), beta, scale[k], (fold_student[k], fold_adapter[k]),
              options, grads, terms)
        for group, g in zip(held, grads):
            group += [] if g is None else [g]
    terms[2] = terms[1]
    return terms, [g for group in held for g in group]
