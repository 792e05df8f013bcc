"""The bidirectional distillation objective, forward and backward direction, masks and hinge, in one pass.

Six feature tensors are read once and four gradients are written once: 10 feature sets of traffic where eager PyTorch
needs about 200. Kernels are in bidirectional_kernel.py, the formula in reference/naive.py.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import Function
from torch.library import Library

from .bidirectional_kernel import combine_kernel, objective_kernel
from .checks import (
    DEAD,
    as_levels,
    bytes_only,
    number,
    one_of,
    position_maps,
    positive_eps,
    same_shapes,
    scale_list,
    tensor,
)
from .cosine import keep_gradients, take_gradients
from .dispatch import choose, speaks_ptx
from .layout import arranged, gradient_like, is_channels_last
from .partials import by_list, folded, folds_of, ordered_sum, scaled
from .reference import bidirectional as reference
from .reference.bidirectional import TERMS, Options, Task
from .regions import region_counts
from .tiles import entries_of, launches


def launch_objective(task: Task) -> tuple[Tensor, list[Tensor]]:
    """reference.objective as one launch for all levels of a layout and one ordered sum."""
    layouts = [is_channels_last(s) for s in task.student_clean]
    adapt = len(task.adapter_clean) > 0
    targets = ([task.student_clean, task.student_corrupt] if task.grad_student else []) + (
        [task.adapter_clean, task.adapter_corrupt] if task.grad_adapter else [])
    grads = [[gradient_like(x, last) for x, last in zip(maps, layouts)] for maps in targets]
    inputs = [[arranged(x, last) for x, last in zip(maps, layouts)] for maps in task.features]
    held = inputs[:4] + (inputs[4:] if adapt else [inputs[0], inputs[1]])  # stand-ins: pointers that are never read
    outs = (grads[:2] if task.grad_student else held[2:4]) + (grads[-2:] if task.grad_adapter else held[4:6])
    groups = launches("objective", layouts, inputs[:6] if adapt else inputs[:4])
    total = sum(p.ends[-1] for _, p in groups)
    part = torch.empty(len(TERMS), total, dtype=torch.float32, device=task.clean[0].device)
    if not adapt:  # the anchor terms have no program
        part[5:].zero_()
    counts = task.counts.contiguous()
    options, beta = task.options, task.beta
    start = 0
    for levels, p in groups:
        pick = [tuple(maps[k] for k in levels) for maps in (*held, task.regions)]
        store = [tuple(maps[k] for k in levels) for maps in outs]
        objective_kernel[(p.ends[-1],)](
            *pick, entries_of(counts, levels), beta if isinstance(beta, Tensor) else part, *store, part[:, start:], total,
            0.0 if isinstance(beta, Tensor) else beta, tuple(task.scale[k] for k in levels),
            tuple(task.scale[k] / task.regions[k].numel() for k in levels), tuple(task.fold_student[k] for k in levels),
            tuple(task.fold_adapter[k] for k in levels), options.forward_corrupt, options.forward_clean, options.con,
            options.div, options.anc, options.peak, options.bound, options.margin, options.eps * options.eps, p.hw, p.rows,
            p.channels, p.ends, L=len(levels), C=p.channels, BLOCK_C=p.block_c, BLOCK_P=p.block_p, TILES=p.tiles, PARTS=p.parts,
            NHWC=p.channels_last, EVEN_P=p.even, BETA_ON_DEVICE=isinstance(beta, Tensor), ADAPT=adapt, GRAD_S=task.grad_student,
            GRAD_G=task.grad_adapter, DEAD_ZERO=options.dead_zero, PTX=speaks_ptx(part), num_warps=p.warps)
        start += p.ends[-1]
    return ordered_sum(part, torch.float64), [g for group in grads for g in group]


def combine(terms: Tensor, beta: Tensor | float, options: Options, impl: str) -> tuple[Tensor, Tensor]:
    """The loss, and (9,): the seven terms, forward, backward; float32 from the kernels, else float64."""
    if impl == "triton":
        loss = torch.empty((), dtype=torch.float32, device=terms.device)
        out = torch.empty(9, dtype=torch.float32, device=terms.device)
        combine_kernel[(1,)](
            terms, loss, out, beta if isinstance(beta, Tensor) else terms, 0.0 if isinstance(beta, Tensor) else beta,
            options.forward_corrupt, options.forward_clean, options.con, options.div, options.anc, options.peak,
            BETA_ON_DEVICE=isinstance(beta, Tensor), num_warps=1)
        return loss, out
    forward = options.forward_corrupt * terms[0] + options.forward_clean * terms[1]
    backward = (options.con * (terms[2] + terms[3]) + options.div * terms[4] + options.anc * (terms[5] + terms[6]))
    ahead, back = reference.balance(beta, options.peak)
    return ahead * forward + back * backward, torch.cat([terms, forward.reshape(1), backward.reshape(1)])


library = Library("bikd_kernels", "FRAGMENT")
library.define(
    "objective(Tensor[] clean, Tensor[] corrupt, Tensor[] student_clean, Tensor[] student_corrupt, Tensor[] adapter_clean, "
    "Tensor[] adapter_corrupt, Tensor[] regions, Tensor counts, Tensor? beta_tensor, float beta, float[] scale, "
    "float[] options, bool dead_zero, bool grad_student, bool grad_adapter, str impl) -> (Tensor, Tensor, Tensor[])")


def _objective(clean, corrupt, student_clean, student_corrupt, adapter_clean, adapter_corrupt, regions, counts,
               beta_tensor, beta, scale, options, dead_zero, grad_student, grad_adapter, impl):
    run = launch_objective if impl == "triton" else reference.objective
    numbers = Options._make([*options, dead_zero])
    balance = beta if beta_tensor is None else beta_tensor
    if isinstance(balance, Tensor) and not balance.is_cuda and impl != "triton":
        balance = float(balance)
    fold_student, fold_adapter = (folds_of(sides, len(clean)) for sides in (
        (student_clean, student_corrupt), (adapter_clean, adapter_corrupt)))
    dtype = torch.float64 if clean[0].dtype == torch.float64 else torch.float32
    with torch.cuda.device_of(clean[0]):
        terms, grads = run(Task(clean, corrupt, student_clean, student_corrupt, adapter_clean, adapter_corrupt, regions, counts,
                                balance, scale, fold_student, fold_adapter, numbers, grad_student, grad_adapter))
        loss, values = combine(terms, balance, numbers, impl)
    return loss.to(dtype), values.to(dtype), grads


library.impl("objective", _objective, "CompositeExplicitAutograd")


@torch.library.register_fake("bikd_kernels::objective", lib=library)
def _(clean, corrupt, student_clean, student_corrupt, adapter_clean, adapter_corrupt, regions, counts, beta_tensor, beta,
      scale, options, dead_zero, grad_student, grad_adapter, impl):
    layouts = [is_channels_last(s) for s in student_clean]
    dtype = torch.float64 if clean[0].dtype == torch.float64 else torch.float32
    targets = ((student_clean, grad_student), (student_corrupt, grad_student), (adapter_clean, grad_adapter),
               (adapter_corrupt, grad_adapter))
    grads = [gradient_like(x, last) for maps, wanted in targets if wanted for x, last in zip(maps, layouts)]
    return clean[0].new_empty((), dtype=dtype), clean[0].new_empty(9, dtype=dtype), grads


class Objective(Function):
    """(loss, the nine terms) from (settings, counts, beta, *maps); the gradients wait in the context."""

    @staticmethod
    def forward(ctx, settings, counts, beta_tensor, *tensors):
        levels, adapt, beta, scale, options, dead_zero, grad_student, grad_adapter, impl = settings
        *features, regions = by_list(tensors, levels)
        adapters = features[4:] if adapt else [[], []]
        loss, terms, grads = torch.ops.bikd_kernels.objective(
            *features[:4], *adapters, regions, counts, beta_tensor, beta, list(scale), list(options), dead_zero, grad_student,
            grad_adapter, impl)
        ctx.settings = settings
        keep_gradients(ctx, grads)
        ctx.mark_non_differentiable(terms)
        ctx.set_materialize_grads(False)  # zeros for the terms' gradient would be a launch
        return loss, terms

    @staticmethod
    def backward(ctx, upstream, _):
        levels, adapt, *_, grad_student, grad_adapter, impl = ctx.settings
        if upstream is None:  # what was made of the loss gave it no gradient
            return (None,) * (3 + (7 if adapt else 5) * levels)
        grads = take_gradients(ctx)
        lists = by_list(grads, levels)  # a clean and a corrupted one each
        positions = [n for start in range(0, len(lists), 2) for n in folded(lists[start:start + 2]) * 2]
        grads = scaled(grads, upstream, positions, impl == "triton")
        none = (None,) * (2 * levels)
        to_student = tuple(grads[:2 * levels]) if grad_student else none
        to_adapter = () if not adapt else tuple(grads[-2 * levels:]) if grad_adapter else none
        return (None, None, None, *none, *to_student, *to_adapter, *(None,) * levels)


def bidirectional_loss(
    clean: Sequence[Tensor], corrupt: Sequence[Tensor], student_clean: Sequence[Tensor],
    student_corrupt: Sequence[Tensor], regions: Sequence[Tensor], *, adapter_clean: Sequence[Tensor] | None = None,
    adapter_corrupt: Sequence[Tensor] | None = None, bound: float = 0.5, beta: float | Tensor = 0.5,
    margin: float = 0.5, forward_weights: tuple[float, float] = (0.5, 0.5), use_con: bool = True, use_div: bool = True,
    use_anc: bool = True, peak: bool = False, scale_weights: Sequence[float] | None = None, counts: Tensor | None = None,
    eps: float = 1e-8, dead: str = "zero", impl: str = "auto",
) -> tuple[Tensor, dict[str, Tensor]]:
    """(1 - beta) L_F + beta L_B of bidirectional knowledge distillation, and every term of it.

    With d = 1 - cos over channels, D its mean over positions summed over the levels, T(x) = E(x) (1 + bound tanh G):
        L_F = w0 D(S(x~), T(x)) + w1 D(S(n(x)), T(x))                                 gradient to S only
        L_B = D(T(x), S(n(x))) + D(T(x~), S(x~); N)                       use_con     gradient to G only
            + mean over P of max(0, margin - d(T(x~), S(x~)))             use_div
            + D(T(x), E(x)) + D(T(x~), E(x~); N)                          use_anc

    clean, corrupt: lists of frozen (B, C, H, W) features E(x), E(x~); no gradient flows to them.
    student_clean, student_corrupt: S(n(x)), S(x~). float32, bfloat16, float16 in any mixture (float64 by the reference).
    regions: uint8 (B, H, W) a level from region_maps: 0 = N, 1 = ignored, 2 = P.
    adapter_clean, adapter_corrupt: raw adapter outputs G(E(x)), G(E(x~)); None: T = E, whose terms have no gradient.
    beta: float in 0..1 or 0-dim tensor on the features' device: on a GPU it is never read by the host.
    forward_weights: (w0, w1), of the corrupted and of the clean branch.
    peak: divide the loss by the larger of beta and 1 - beta, so that the direction that weighs more weighs 1.
    counts: (L, 2) divisors of the N and the P means, region_counts(regions) by default; data-parallel training passes the
        global counts / world size. A count of 0 contributes 0.
    eps, dead, impl, scale_weights: as in cosine_discrepancy.

    Returns (loss, terms): a float32 scalar (float64 for float64 input) that carries its gradient with it, so that a second
    backward pass (except under torch.compile) and double backward raise RuntimeError; and detached 0-dim values
    forward_corrupt, forward_clean, con_clean, con_corrupt, div, anc_clean, anc_corrupt (each as measured, whether its use_
    flag is set or not), forward, backward (what enters the loss). ValueError for arguments that do not fit together.
    """
    one_of("dead", dead, DEAD)
    eps = positive_eps(eps)
    named = {"clean": clean, "corrupt": corrupt, "student_clean": student_clean, "student_corrupt": student_corrupt}
    if (adapter_clean is None) != (adapter_corrupt is None):
        raise ValueError("give both adapter_clean and adapter_corrupt, or neither")
    if adapter_clean is not None and adapter_corrupt is not None:
        named |= {"adapter_clean": adapter_clean, "adapter_corrupt": adapter_corrupt}
    maps = {name: as_levels(name, value) for name, value in named.items()}
    for name, value in maps.items():
        same_shapes(name, value, "clean", maps["clean"])
    position_maps("regions", regions, maps["clean"])
    bytes_only("regions", regions)
    if isinstance(beta, Tensor) and (beta.dim() or beta.device != maps["clean"][0].device):
        where = f"shape {tuple(beta.shape)} on {beta.device}"
        raise ValueError(f"beta must be a float or a 0-dim tensor on {maps['clean'][0].device}, got {where}")
    balance = 0.0 if isinstance(beta, Tensor) else number("beta", beta, 0, 1)
    if not isinstance(forward_weights, list | tuple) or len(forward_weights) != 2:
        raise ValueError(f"forward_weights must be two numbers, of the corrupted and of the clean branch, got {forward_weights!r}")
    ahead = [number(f"forward_weights[{k}]", w) for k, w in enumerate(forward_weights)]
    levels = len(maps["clean"])
    scale = tuple(scale_list(scale_weights, levels))
    regions = [r.contiguous() for r in regions]
    frozen = [x.detach() for name in ("clean", "corrupt") for x in maps[name]]
    moving = [x for name in list(maps)[2:] for x in maps[name]]
    given = [] if counts is None else [tensor("counts", counts, f"a ({levels}, 2)")]
    impl = choose(impl, [*frozen, *moving, *regions, *given])
    counts = region_counts(regions, impl) if counts is None else counts.detach()
    if tuple(counts.shape) != (levels, 2):
        raise ValueError(f"counts must have shape ({levels}, 2), got {tuple(counts.shape)}")
    recorded = torch.is_grad_enabled()
    grad_student = recorded and any(x.requires_grad for x in moving[:2 * levels])
    grad_adapter = recorded and any(x.requires_grad for x in moving[2 * levels:])

    options = (number("bound", bound), number("margin", margin), *ahead, float(use_con), float(use_div), float(use_anc),
               float(peak), eps)
    beta_tensor = beta.detach() if isinstance(beta, Tensor) else None
    settings = (levels, "adapter_clean" in maps, balance, scale, options, dead == "zero", grad_student, grad_adapter, impl)
    loss, values = Objective.apply(settings, counts, beta_tensor, *frozen, *moving, *regions)
    return loss, dict(zip((*TERMS, "forward", "backward"), values.unbind()))
