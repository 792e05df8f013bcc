"""The bidirectional objective in plain PyTorch with its gradients worked out by hand: the CPU path.

One walk through each level in cache-sized pieces; every feature tensor is read once, every gradient written once. The
adapted teacher T = E (1 + bound tanh G) exists only piece by piece.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..layout import arranged, feature_view, gradient_like, is_channels_last, pieces, position_view
from .cosine import Difference, Scratch, Vectors, difference, pull, pull_back, store, vectors, write
from .naive import wide

PIECE = 1 << 18  # elements of one tensor in one CPU piece: more than stays in a cache, but seventy calls have to be worth it
TERMS = ("forward_corrupt", "forward_clean", "con_clean", "con_corrupt", "div", "anc_clean", "anc_corrupt")


class Options(NamedTuple):
    """The numbers of one call; con, div, anc and peak are 0 or 1."""

    bound: float
    margin: float
    forward_corrupt: float
    forward_clean: float
    con: float
    div: float
    anc: float
    peak: float
    eps: float
    dead_zero: bool


def balance(beta: Tensor | float, peak: float) -> tuple[Tensor | float, Tensor | float]:
    """What the forward and the backward direction weigh: 1 - beta and beta, with `peak` over the larger of them."""
    if not peak:
        return 1 - beta, beta
    larger = torch.maximum(beta, 1 - beta) if isinstance(beta, Tensor) else max(beta, 1 - beta)
    return (1 - beta) / larger, beta / larger


class Task(NamedTuple):
    """One call of the objective, arguments checked: lists of levels, and what holds for all of them.

    The adapter lists are empty where T = E. counts: (L, 2). scale, fold_*: one number a level.
    """

    clean: Sequence[Tensor]
    corrupt: Sequence[Tensor]
    student_clean: Sequence[Tensor]
    student_corrupt: Sequence[Tensor]
    adapter_clean: Sequence[Tensor]
    adapter_corrupt: Sequence[Tensor]
    regions: Sequence[Tensor]
    counts: Tensor
    beta: Tensor | float
    scale: Sequence[float]
    fold_student: Sequence[float]
    fold_adapter: Sequence[float]
    options: Options
    grad_student: bool
    grad_adapter: bool

    @property
    def features(self) -> tuple[Sequence[Tensor], ...]:
        """The six lists, clean to adapter_corrupt."""
        return self[:6]


def level(
    maps: Sequence[Tensor], region: Tensor, counts: Tensor, beta: Tensor | float, scale: float, fold: tuple[float, float],
    options: Options, grads: Sequence[Tensor | None], terms: Tensor, scratch: Scratch,
) -> None:
    """Add one level to terms (7, float64) and fill grads, all maps dense in one layout.

    maps: E, F, S, R and, with an adapter, G, H (see bidirectional_kernel.py); grads: for S, R, G, H, or None.
    """
    last = is_channels_last(maps[2])
    views = [feature_view(x, last) for x in maps]
    outs = [None if g is None else feature_view(g, last) for g in grads]
    regions = position_view(region, last)
    exact = torch.Tensor.double if torch.float64 in {v.dtype for v in views} else torch.Tensor.float  # of wide ones: no copy
    everywhere = scale / max(1, region.numel())
    share = torch.where(counts > 0, scale / torch.where(counts > 0, counts, 1), 0)
    ahead, back = balance(beta, options.peak)
    ahead, back = ahead * fold[0], back * fold[1]
    for at, where in pieces(views[2], PIECE):
        e, f, s_raw, r_raw = (exact(scratch.wide(slot, v[at])) for slot, v in enumerate(views[:4]))
        first, second, third, spare = (scratch(slot, s_raw) for slot in (6, 7, 8, 9))

        def short(x: Tensor, spare: Tensor = spare) -> Vectors:
            return vectors(x, options.eps, spare)

        s, r = short(s_raw), short(r_raw)
        g = h = None
        if len(views) == 6:
            g, h = (torch.tanh(exact(scratch.wide(slot, views[slot][at])), out=scratch(slot, s_raw)) for slot in (4, 5))
            t = short(torch.addcmul(e, e, g, value=options.bound, out=scratch(10, s_raw)))
            u = short(torch.addcmul(f, f, h, value=options.bound, out=scratch(11, s_raw)))
        else:
            t, u = short(e), short(f)
        normal = (regions[where] == 0) * share[0]
        defect = (regions[where] == 2) * share[1]
        with_r = difference(t, r, first, spare)  # written over by what comes next in the same buffer
        terms[0] += with_r.d.sum(dtype=torch.float64) * everywhere
        _student(outs[1], at, ahead * options.forward_corrupt * everywhere, t, r, with_r, options, spare)
        with_s, bad = difference(t, s, first, spare), difference(u, r, second, spare)
        terms[1] += with_s.d.sum(dtype=torch.float64) * everywhere
        terms[3] += (bad.d * normal).sum(dtype=torch.float64)
        terms[4] += ((options.margin - bad.d).clamp_min_(0) * defect).sum(dtype=torch.float64)
        _student(outs[0], at, ahead * options.forward_clean * everywhere, t, s, with_s, options, spare)
        if g is None or h is None:
            continue
        same = torch.full_like(with_s.d, everywhere) * back
        anchor = difference(t, short(e), third, spare)
        terms[5] += anchor.d.sum(dtype=torch.float64) * everywhere
        if outs[2] is not None:
            pairs = ((with_s, same * options.con), (anchor, same * options.anc))
            _adapter(outs[2][at], t, e, g, pairs, options)
        anchor = difference(u, short(f), third, spare)
        terms[6] += (anchor.d * normal).sum(dtype=torch.float64)
        if outs[3] is not None:
            push = torch.where(bad.d <= options.margin, defect * options.div, 0)
            pairs = ((bad, (normal * options.con - push) * back), (anchor, normal * options.anc * back))
            _adapter(outs[3][at], u, f, h, pairs, options)


def _student(out: Tensor | None, at: tuple[slice, ...], weight: Tensor | float, t: Vectors, s: Vectors, found: Difference,
             options: Options, spare: Tensor) -> None:
    """out[at] = gradient of weight * d(t, s) to s, if it is wanted."""
    if out is not None:
        a, b = pull(weight, t, s, found, options.eps, options.dead_zero)
        write(out[at], found.e, a, s.x, b, spare)


def _adapter(out: Tensor, t: Vectors, e: Tensor, tanh: Tensor, pairs: Sequence[tuple[Difference, Tensor]],
             options: Options) -> None:
    """out = gradient to the adapter output of the sum of weight * d(T, other) over (difference, weight); writes over both."""
    total: Tensor | None = None
    own: Tensor | float = 0.0
    for found, weight in pairs:
        a, b = pull_back(weight * options.bound, t, found, options.eps, options.dead_zero)
        a = a.unsqueeze(1)
        total = found.e.mul_(a) if total is None else total.addcmul_(found.e, a)
        own = own + b
    assert total is not None and isinstance(own, Tensor)
    slope = torch.addcmul(torch.ones((), dtype=e.dtype, device=e.device), tanh, tanh, value=-1, out=tanh)
    store(out, total.addcmul_(t.x, own.unsqueeze(1)).mul_(slope).mul_(e))


def objective(task: Task) -> tuple[Tensor, list[Tensor]]:
    """(7,) float64 terms in the order of TERMS, and the gradients of the whole loss times their folds.

    The adapter lists are empty where T = E. Gradients: student_clean, student_corrupt, adapter_clean, adapter_corrupt.
    """
    terms = torch.zeros(len(TERMS), dtype=torch.float64, device=task.clean[0].device)
    held: list[list[Tensor]] = [[], [], [], []]
    scratch = Scratch()
    for k in range(len(task.clean)):
        last = is_channels_last(task.student_clean[k])
        sources = [task.student_clean, task.student_corrupt] if task.grad_student else []
        grads: list[Tensor | None] = [gradient_like(m[k], last) for m in sources] or [None, None]
        grads += [gradient_like(m[k], last) for m in task.features[4:]] if task.grad_adapter else [None, None]
        maps = [arranged(m[k], last) for m in task.features if m]
        counts, folds = task.counts[k].to(wide(task.clean[k][:0]).dtype), (task.fold_student[k], task.fold_adapter[k])
        level(maps, task.regions[k], counts, task.beta, task.scale[k], folds, task.options, grads, terms, scratch)
        for group, g in zip(held, grads):
            group += [] if g is None else [g]
    terms[2] = terms[1]
    return terms, [g for group in held for g in group]
