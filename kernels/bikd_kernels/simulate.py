"""simulate: blend a defect into pictures, label where they visibly changed, undo what is not labelled."""

import torch
from torch import Tensor

from . import simulate_kernel  # noqa: F401  registers torch.ops.bikd_kernels.simulate
from .checks import has_values, number, tensor, whole
from .dispatch import choose
from .reference.simulate import clean_label, laid_out_like, ramp, simulate_reference, widened

VISIBLE = 2 / 255
RADIUS, SPECK, FULL = 3, 8, 20


def _check(images: Tensor, content: Tensor, depth: Tensor, opacity: Tensor, feather: Tensor) -> None:
    tensor("images", images)
    if images.dim() != 4 or not images.is_floating_point() or not images.shape[1]:
        raise ValueError(f"images must be a floating-point (B, C, H, W) with C > 0, got {images.dtype} {tuple(images.shape)}")
    b, _, h, w = images.shape
    for name, x, want in (
        ("content", content, tuple(images.shape)),
        ("depth", depth, (b, h, w)),
        ("opacity", opacity, (b,)),
        ("feather", feather, (b,)),
    ):
        if tuple(tensor(name, x).shape) != want:
            raise ValueError(f"{name} must have shape {want}, got {tuple(x.shape)}")


def simulate(
    images: Tensor,
    content: Tensor,
    depth: Tensor,
    opacity: Tensor,
    feather: Tensor,
    *,
    visible: float = VISIBLE,
    radius: int = RADIUS,
    speck: int = SPECK,
    full: int = FULL,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Corrupted pictures and the label of what visibly changed in them.

    images, content: (B, C, H, W) in [0, 1], any float dtype and layout; content is read only where depth > 0 and may
    hold anything elsewhere.
    depth: (B, H, W) distance in pixels from the defect's outline, positive inside. opacity: (B,) in 0..1.
    feather: (B,) pixels > 0 over which the blend rises from 0 at the outline to the opacity.
    blend = images + opacity * smoothstep(depth / feather) * (content - images)
    changed = max over C of |blend - images| > visible; median = 3x3 median of changed (the majority, with unchanged
    pixels beyond the picture's edge); count = median pixels in the (2 radius + 1)^2 window, radius <= 7.
    label = median where count >= speck, so that specks go, and whatever lies inside the outline where count >= full,
    so that the label of a half-visible change is whole and not a sieve.
    Returns (corrupted (B, C, H, W) of images' dtype and layout, label (B, H, W) bool); corrupted is blend where label, else
    images exactly. Computed in float32 (float64 for float64 images); no gradient flows back.
    On the CPU only the pixels inside the outline are computed. Raises ValueError for shapes that do not fit, for visible < 0.
    """
    _check(images, content, depth, opacity, feather)
    visible, radius = number("visible", visible, 0), whole("radius", radius, 1, 7)
    speck, full = whole("speck", speck), whole("full", full)
    images, content, depth, opacity, feather = (x.detach() for x in (images, content, depth, opacity, feather))
    if choose(impl, (images, content, depth, opacity, feather)) == "triton":
        options = (visible, radius, speck, full)
        return torch.ops.bikd_kernels.simulate(images, content, depth, opacity, feather, *options)
    if impl == "auto" and has_values(depth):
        return _simulate_inside(images, content, depth, opacity, feather, visible, radius, speck, full)
    return simulate_reference(images, content, depth, opacity, feather, visible, radius, speck, full)


def _simulate_inside(
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
    """The reference on the pixels inside the outline only (their number is data: CPU, where that costs no wait)."""
    _, c, h, w = images.shape
    inside = (depth.reshape(-1) > 0).nonzero().squeeze(1)
    sample = inside // (h * w)
    alpha = opacity[sample] * ramp(depth.reshape(-1)[inside], feather[sample])
    where = inside + sample * ((c - 1) * h * w) + torch.arange(c, device=images.device).view(c, 1) * (h * w)
    x, y = images.reshape(-1)[where], content.reshape(-1)[where]
    return simulate_at(images, where, inside, x, y, alpha, visible=visible, radius=radius, speck=speck, full=full)


def simulate_at(
    images: Tensor,
    where: Tensor,
    plane: Tensor,
    pixels: Tensor,
    content: Tensor,
    alpha: Tensor,
    *,
    visible: float = VISIBLE,
    radius: int = RADIUS,
    speck: int = SPECK,
    full: int = FULL,
) -> tuple[Tensor, Tensor]:
    """:func:`simulate` where only some pixels can change and the caller knows which; plain PyTorch.

    images: (B, C, H, W). where: (C, ...) int64, flat positions in images of the pixels that may change; plane: (...) int64,
    their flat positions in (B, H, W), each at most once. pixels, content: (C, ...) what images hold there, and what the
    defect does. alpha: (...) weight of the blend, 0 outside the defect. Returns what simulate returns.
    """
    b, _, h, w = images.shape
    x = widened(pixels)
    step = (widened(content) - x).mul_(alpha)
    kept = torch.zeros(2, b * h * w, dtype=torch.bool, device=images.device)
    kept[0, plane] = step.abs().amax(0) > visible
    kept[1, plane] = alpha > 0
    label = clean_label(kept[0].view(b, h, w), kept[1].view(b, h, w), radius, speck, full)
    corrupted = images.clone(memory_format=torch.contiguous_format)
    corrupted.view(-1)[where] = torch.where(label.view(-1)[plane], x + step, x).to(images.dtype)
    return laid_out_like(corrupted, images), label
