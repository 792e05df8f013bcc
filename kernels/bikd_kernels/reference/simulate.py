"""Blend, visible-change label and clean-up in plain PyTorch: the specification of bikd_kernels.simulate."""

import torch
from torch import Tensor


def ramp(depth: Tensor, feather: Tensor) -> Tensor:
    """Smoothstep of depth / feather, clamped to 0..1: 0 at the outline, 1 from `feather` pixels inside it."""
    t = (depth / feather).clamp(0, 1)
    return t * t * (3 - 2 * t)


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


def clean_label(visible: Tensor, speck_radius: int, speck_pixels: int) -> Tensor:
    """The label (B, H, W) bool of a visible-change map (B, H, W) bool: 3x3 median, then specks dropped.

    The median of a binary map is the majority, at least 5 of 9 (outside the picture counts as unchanged). A pixel is
    part of a speck if fewer than speck_pixels pixels of the (2 speck_radius + 1)^2 window around it are set; a line
    two pixels wide passes with radius 3 and 8 pixels, a 2 x 2 dot does not.
    """
    median = window_sum(visible.to(torch.uint8), 1) >= 5
    if speck_pixels > 1:
        median &= window_sum(median.to(torch.uint8), speck_radius) >= speck_pixels
    return median


def simulate_reference(
    images: Tensor,
    content: Tensor,
    depth: Tensor,
    opacity: Tensor,
    feather: Tensor,
    visible: float,
    speck_radius: int,
    speck_pixels: int,
) -> tuple[Tensor, Tensor]:
    """See bikd_kernels.simulate, with clean=True."""
    alpha = (opacity.view(-1, 1, 1) * ramp(depth, feather.view(-1, 1, 1))).unsqueeze(1)
    step = torch.where(alpha > 0, (content - images) * alpha, 0)
    label = clean_label(step.abs().amax(1) > visible, speck_radius, speck_pixels)
    return torch.where(label.unsqueeze(1), images + step, images), label
