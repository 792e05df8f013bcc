"""simulate: blend a defect into pictures, label where they visibly changed, undo what is not labelled."""

import torch
from torch import Tensor

from .dispatch import choose
from .reference.simulate import clean_label, ramp, simulate_reference

VISIBLE = 2 / 255
SPECK_RADIUS = 3
SPECK_PIXELS = 8


def _check(images: Tensor, content: Tensor, depth: Tensor, opacity: Tensor, feather: Tensor) -> None:
    if images.dim() != 4 or not images.is_floating_point():
        raise ValueError(f"images must be a floating-point (B, C, H, W) tensor, got {images.dtype} {tuple(images.shape)}")
    b, _, h, w = images.shape
    for name, x, want in (
        ("content", content, tuple(images.shape)),
        ("depth", depth, (b, h, w)),
        ("opacity", opacity, (b,)),
        ("feather", feather, (b,)),
    ):
        if tuple(x.shape) != want:
            raise ValueError(f"{name} must have shape {want}, got {tuple(x.shape)}")


def simulate(
    images: Tensor,
    content: Tensor,
    depth: Tensor,
    opacity: Tensor,
    feather: Tensor,
    *,
    visible: float = VISIBLE,
    speck_radius: int = SPECK_RADIUS,
    speck_pixels: int = SPECK_PIXELS,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Corrupted pictures and the label of what visibly changed in them.

    images, content: (B, C, H, W) in [0, 1]; content is read only where depth > 0 and may hold anything elsewhere.
    depth: (B, H, W) distance in pixels from the defect's outline, positive inside. opacity: (B,) in 0..1.
    feather: (B,) pixels > 0 over which the blend rises from 0 at the outline to the opacity.
    blend = images + opacity * smoothstep(depth / feather) * (content - images)
    changed = max over C of |blend - images| > visible; label = 3x3 median of changed without its specks (pixels that
    have fewer than speck_pixels labelled pixels in the (2 speck_radius + 1)^2 window around them).
    Returns (corrupted (B, C, H, W), label (B, H, W) bool); corrupted is blend where label, else images exactly.
    On the CPU only the pixels inside the outline are computed. Raises ValueError for shapes that do not fit.
    """
    _check(images, content, depth, opacity, feather)
    if choose(impl, (images, content, depth, opacity, feather)) == "triton":
        from .simulate_triton import simulate_triton

        return simulate_triton(images, content, depth, opacity, feather, visible, speck_radius, speck_pixels)
    if impl == "auto" and not images.is_cuda and not torch.compiler.is_compiling():
        return _simulate_inside(images, content, depth, opacity, feather, visible, speck_radius, speck_pixels)
    return simulate_reference(images, content, depth, opacity, feather, visible, speck_radius, speck_pixels)


def _simulate_inside(
    images: Tensor,
    content: Tensor,
    depth: Tensor,
    opacity: Tensor,
    feather: Tensor,
    visible: float,
    speck_radius: int,
    speck_pixels: int,
) -> tuple[Tensor, Tensor]:
    """The reference on the pixels inside the outline only (their number is data: CPU, where that costs no wait)."""
    b, c, h, w = images.shape
    inside = (depth.reshape(-1) > 0).nonzero().squeeze(1)
    sample = inside // (h * w)
    alpha = opacity[sample] * ramp(depth.reshape(-1)[inside], feather[sample])
    channels = torch.arange(c, device=images.device).view(c, 1) * (h * w)
    where = (inside + sample * ((c - 1) * h * w)) + channels
    x = images.reshape(-1)[where]
    step = (content.reshape(-1)[where] - x) * alpha
    changed = torch.zeros(b * h * w, dtype=torch.bool, device=images.device)
    changed[inside] = step.abs().amax(0) > visible
    label = clean_label(changed.view(b, h, w), speck_radius, speck_pixels)
    kept = label.view(-1)[inside]
    corrupted = images.clone(memory_format=torch.contiguous_format)
    corrupted.view(-1)[where] = torch.where(kept, x + step, x)
    return corrupted, label
