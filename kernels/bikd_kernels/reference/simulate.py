"""Blend, visible-change label and clean-up in plain PyTorch: the specification of bikd_kernels.simulate."""

import torch
from torch import Tensor


def widened(x: Tensor) -> Tensor:
    """x in float32, float64 as it is."""
    return x if x.dtype == torch.float64 else x.float()


def ramp(depth: Tensor, feather: Tensor) -> Tensor:
    """Smoothstep of depth / feather, clamped to 0..1: 0 at the outline, 1 from `feather` pixels inside it."""
    t = (widened(depth) / widened(feather)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def laid_out_like(x: Tensor, images: Tensor) -> Tensor:
    """x in the strides of torch.empty_like(images), which the kernel writes."""
    return x.contiguous() if images.is_contiguous() else torch.empty_like(images).copy_(x)


def window_sum(x: Tensor, radius: int) -> Tensor:
    """Sum of a (B, H, W) uint8 map over (2 radius + 1)^2 windows, zeros outside; at most 255, so radius <= 7."""
    for dim in (1, 2):
        total = x.clone()
        size = x.shape[dim]
        for shift in range(1, min(radius, size - 1) + 1):
            total.narrow(dim, 0, size - shift).add_(x.narrow(dim, shift, size - shift))
            total.narrow(dim, shift, size - shift).add_(x.narrow(dim, 0, size - shift))
        x = total
    return x


def clean_label(changed: Tensor, inside: Tensor, radius: int, speck: int, full: int) -> Tensor:
    """The label of a visible-change map; (B, H, W) bool all three. See bikd_kernels.simulate for the rule.

    A line two pixels wide passes with radius 3 and speck 8, a 2 x 2 dot does not.
    """
    median = window_sum(changed.to(torch.uint8), 1) >= 5
    count = window_sum(median.to(torch.uint8), radius)
    return (median & (count >= speck)) | (inside & (count >= full))


def simulate_reference(
    images: Tensor,
    content: Tensor,
    depth: Tensor,
    opacity: Tensor,
    feather: Tensor,
    visible: float,
    radius: int,
    speck: int,
    full: int,
) -> tuple[Tensor, Tensor]:
    """See bikd_kernels.simulate."""
    alpha = (opacity.view(-1, 1, 1) * ramp(depth, feather.view(-1, 1, 1))).unsqueeze(1)
    x = widened(images)
    step = torch.where(alpha > 0, (widened(content) - x) * alpha, 0)
    label = clean_label(step.abs().amax(1) > visible, alpha.squeeze(1) > 0, radius, speck, full)
    return laid_out_like(torch.where(label.unsqueeze(1), x + step, x).to(images.dtype), images), label
