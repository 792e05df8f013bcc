"""The operators under the benchmark: inputs, eager forms as people write them, ours, exact results, minimal bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from bikd_kernels import anomaly_map, bidirectional_loss, cosine_discrepancy, region_maps, simulate
from bikd_kernels.reference.naive import bidirectional_loss_naive, cosine_discrepancy_naive
from bikd_kernels.reference.simulate import simulate_reference
from bikd_kernels.resample import gaussian_taps
from torch import Tensor

SHAPES = {
    "resnet18": ((64, 64, 64), (128, 32, 32), (256, 16, 16)),
    "wide_resnet50": ((256, 64, 64), (512, 32, 32), (1024, 16, 16)),
}
SIZE = 256


@dataclass
class Case:
    """One operator on one shape. A function takes an input set and returns its results: the value first."""

    inputs: Callable[[int], list[Any]]
    eager: Callable[..., list[Tensor]]
    ours: Callable[..., list[Tensor]]
    exact: Callable[..., list[Tensor]]
    minimal_bytes: int
    training: tuple[Callable[..., Tensor], Callable[..., list[Tensor]]] | None = None  # eager loss, its leaves
    value_and_grad: Callable[..., list[Tensor]] | None = None  # the same as one function without autograd state
    variant: tuple[str, Callable[..., list[Tensor]]] | None = None  # a second, better eager form
    limits: tuple[float, float] = (1e-6, 1e-6)  # of ours: value, other results


def maps(shapes, batch: int, dtype: torch.dtype, last: bool, device: str, seed: int, like=None) -> list[Tensor]:
    """Feature maps with the zeros of a ReLU in them; near `like` if that is given."""
    generator = torch.Generator(device).manual_seed(seed)
    layout = torch.channels_last if last else torch.contiguous_format
    out = []
    for k, shape in enumerate(shapes):
        x = torch.randn(batch, *shape, device=device, generator=generator)
        x = x.relu_() + 0.01 if like is None else like[k].float() + 0.5 * x
        out.append(x.to(dtype).contiguous(memory_format=layout))
    return out


def with_gradient(loss_of: Callable[..., Tensor], leaves: Callable[..., list[Tensor]]) -> Callable[..., list[Tensor]]:
    """Loss and its gradients to the leaves, as a training step computes them."""

    def run(*inputs: Any) -> list[Tensor]:
        for x in leaves(*inputs):
            x.requires_grad_()
        loss = loss_of(*inputs)
        return [loss.detach(), *torch.autograd.grad(loss, leaves(*inputs))]

    return run


def each(change: Callable[[Tensor], Tensor], x: Any) -> Any:
    """A nested list with its tensors changed, everything else as it is."""
    if isinstance(x, list):
        return [each(change, v) for v in x]
    return change(x) if isinstance(x, Tensor) else x


def widened(x: Any) -> Any:
    """A detached float64 copy of every floating-point tensor of a nested list."""
    return each(lambda t: t.detach().double() if t.is_floating_point() else t, x)


def detached(x: Any) -> Any:
    """The same tensors of a nested list, none of which asks for a gradient."""
    return each(Tensor.detach, x)


def feature_bytes(shapes, batch: int, dtype: torch.dtype) -> int:
    """Bytes of one full feature set."""
    return batch * sum(c * h * w for c, h, w in shapes) * dtype.itemsize


def cosine_case(shapes, batch: int, dtype: torch.dtype, last: bool, device: str) -> Case:
    """Loss and student gradient of the multi-scale cosine discrepancy."""

    def inputs(seed: int) -> list[Any]:
        teacher = maps(shapes, batch, dtype, last, device, 2 * seed)
        return [teacher, maps(shapes, batch, dtype, last, device, 2 * seed + 1, teacher)]

    def eager(teacher, student) -> Tensor:
        return torch.stack([(1 - F.cosine_similarity(t, s)).mean() for t, s in zip(teacher, student)]).sum()

    def students(_teacher, student) -> list[Tensor]:
        return student

    def value_and_grad(teacher, student) -> list[Tensor]:
        grads, loss = torch.func.grad_and_value(lambda s: eager(teacher, s))(student)
        return [loss, *grads]

    exact = with_gradient(lambda t, s: cosine_discrepancy_naive(t, s), students)
    return Case(
        inputs, with_gradient(eager, students), with_gradient(lambda t, s: cosine_discrepancy(t, s), students),
        lambda t, s: exact(widened(t), widened(s)), 3 * feature_bytes(shapes, batch, dtype),
        (eager, students), value_and_grad,
        limits=(1e-6, 1e-6 if dtype == torch.float32 else 2e-3 if dtype == torch.float16 else 4e-3),
    )


def bidirectional_case(shapes, batch: int, dtype: torch.dtype, last: bool, device: str) -> Case:
    """The whole objective with the gradients to student and adapter outputs."""
    sizes = [s[1:] for s in shapes]

    def inputs(seed: int) -> list[Any]:
        base = 6 * seed
        clean = maps(shapes, batch, dtype, last, device, base)
        corrupt = maps(shapes, batch, dtype, last, device, base + 1, clean)
        rest = [maps(shapes, batch, dtype, last, device, base + 2 + k, x) for k, x in enumerate((clean, corrupt))]
        adapters = [maps(shapes, batch, dtype, last, device, base + 4 + k) for k in range(2)]
        mask = torch.zeros(batch, SIZE, SIZE, device=device)
        mask[:, 30:100, 60:200] = 1
        return [clean, corrupt, *rest, region_maps(mask, sizes), *adapters]

    def call(operator):
        def loss(clean, corrupt, s, s_bad, regions, a, a_bad) -> Tensor:
            return operator(clean, corrupt, s, s_bad, regions, adapter_clean=a, adapter_corrupt=a_bad)[0]

        return loss

    def leaves(_clean, _corrupt, s, s_bad, _regions, a, a_bad) -> list[Tensor]:
        return [*s, *s_bad, *a, *a_bad]

    naive = call(bidirectional_loss_naive)

    def value_and_grad(clean, corrupt, s, s_bad, regions, a, a_bad) -> list[Tensor]:
        grads, loss = torch.func.grad_and_value(lambda g: naive(clean, corrupt, *g[:2], regions, *g[2:]))(
            [s, s_bad, a, a_bad]
        )
        return [loss, *(x for group in grads for x in group)]

    exact = with_gradient(naive, leaves)
    return Case(
        inputs, with_gradient(naive, leaves), with_gradient(call(bidirectional_loss), leaves),
        lambda *x: exact(*widened(list(x))), 10 * feature_bytes(shapes, batch, dtype),
        (naive, leaves), value_and_grad,
        limits=(1e-6, 2e-6 if dtype == torch.float32 else 4e-3),
    )


def map_case(shapes, batch: int, dtype: torch.dtype, last: bool, device: str) -> Case:
    """Anomaly map at 256 pixels, sigma 4, and its maximum."""
    fine = torch.from_numpy(gaussian_taps(4.0)).double().to(device)
    taps = fine.float()
    radius = len(taps) // 2

    def inputs(seed: int) -> list[Any]:
        teacher = maps(shapes, batch, dtype, last, device, 2 * seed)
        return [teacher, maps(shapes, batch, dtype, last, device, 2 * seed + 1, teacher)]

    def summed(teacher, student, wide: torch.dtype = torch.float32) -> Tensor:
        levels = [
            F.interpolate((1 - F.cosine_similarity(t, s))[:, None].to(wide), size=SIZE, mode="bilinear")
            for t, s in zip(teacher, student)
        ]
        return F.pad(torch.stack(levels).sum(0), [radius] * 4, mode="reflect")

    def eager(teacher, student) -> list[Tensor]:
        blurred = F.conv2d(summed(teacher, student), (taps[:, None] * taps)[None, None])[:, 0]
        return [blurred.flatten(1).amax(1), blurred]

    def separable(teacher, student, taps: Tensor = taps) -> list[Tensor]:
        across = F.conv2d(summed(teacher, student, taps.dtype), taps[None, None, None])
        blurred = F.conv2d(across, taps[None, None, :, None])[:, 0]
        return [blurred.flatten(1).amax(1), blurred]

    def ours(teacher, student) -> list[Tensor]:
        maps_, scores = anomaly_map(teacher, student, SIZE)
        assert maps_ is not None
        return [scores, maps_]

    def exact(teacher, student) -> list[Tensor]:
        return separable(widened(teacher), widened(student), fine)

    moved = 2 * feature_bytes(shapes, batch, dtype) + 4 * batch * SIZE * SIZE
    return Case(inputs, eager, ours, exact, moved, variant=("eager separable", separable), limits=(2e-6, 2e-6))


def simulate_case(_shapes, batch: int, dtype: torch.dtype, last: bool, device: str) -> Case:
    """Blend, visible-change label and clean-up of pictures of 256 pixels, a blob in each."""

    def inputs(seed: int) -> list[Any]:
        generator = torch.Generator(device).manual_seed(seed)
        layout = torch.channels_last if last else torch.contiguous_format
        pair = torch.rand(2, batch, 3, SIZE, SIZE, device=device, generator=generator).to(dtype)
        images, content = (x.contiguous(memory_format=layout) for x in pair)
        axis = torch.arange(SIZE, device=device, dtype=torch.float32)
        centre = 60 + 130 * torch.rand(2, batch, 1, 1, device=device, generator=generator)
        depth = 40 - ((axis[:, None] - centre[0]) ** 2 + (axis - centre[1]) ** 2).sqrt()
        opacity = 0.15 + 0.85 * torch.rand(batch, device=device, generator=generator)
        return [images, content, depth, opacity, torch.full((batch,), 3.0, device=device)]

    def eager(*x: Tensor) -> list[Tensor]:
        return list(simulate_reference(*x, 2 / 255, 3, 8, 20))

    moved = 3 * batch * 3 * SIZE * SIZE * dtype.itemsize + 5 * batch * SIZE * SIZE
    return Case(inputs, eager, lambda *x: list(simulate(*x)), eager, moved, limits=(5e-3, 0.0))


CASES: dict[str, Callable[..., Case]] = {
    "cosine_discrepancy": cosine_case, "bidirectional_loss": bidirectional_case, "anomaly_map": map_case,
    "simulate": simulate_case,
}
