"""Triton kernels of simulate: find what visibly changes, take its median, then blend where the label stays.

The pictures are read twice and written once; between the passes travels one byte a pixel. Content is read only inside
the outline the first time, only under the label the second. No sum crosses a program: the same bits from run to run.
"""

import torch
from torch import Tensor

from .dispatch import INTERPRETED
from .lang import tl, triton
from .registration import register

BLOCK = 512  # pixels a program: 16 bytes a thread of a float32 picture


@triton.jit
def _alpha(DEPTH, OPACITY, FEATHER, b, p, on, HW: tl.constexpr):
    """Weight of the content at pixels p of picture b."""
    depth = tl.load(DEPTH + b.to(tl.int64) * HW + p, mask=on, other=-1.0).to(tl.float32)
    t = depth / tl.load(FEATHER + b).to(tl.float32)
    t = tl.minimum(tl.maximum(t, 0.0), 1.0)
    return tl.load(OPACITY + b).to(tl.float32) * (t * t * (3.0 - 2.0 * t))


@triton.jit
def changed_kernel(
    X, CONTENT, DEPTH, OPACITY, FEATHER, FLAGS, sx_b, sx_c, sx_h, sx_w, sc_b, sc_c, sc_h, sc_w, visible,
    C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, BLOCK: tl.constexpr,
):
    """FLAGS (B, H, W) uint8: 1 where the blend changes a channel by more than visible, + 2 inside the outline."""
    HW: tl.constexpr = H * W
    b = tl.program_id(1)
    p = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    on = p < HW
    y = p // W
    x = p % W
    alpha = _alpha(DEPTH, OPACITY, FEATHER, b, p, on, HW)
    inside = on & (alpha > 0)
    at_x = b.to(tl.int64) * sx_b + y * sx_h + x * sx_w
    at_c = b.to(tl.int64) * sc_b + y * sc_h + x * sc_w
    most = tl.zeros([BLOCK], tl.float32)
    for c in tl.static_range(C):
        before = tl.load(X + at_x + c * sx_c, mask=inside, other=0.0).to(tl.float32)
        content = tl.load(CONTENT + at_c + c * sc_c, mask=inside, other=0.0).to(tl.float32)
        most = tl.maximum(most, tl.abs((content - before) * alpha))
    flags = tl.where(most > visible, 1, 0) + tl.where(inside, 2, 0)
    tl.store(FLAGS + b.to(tl.int64) * HW + p, flags.to(tl.uint8), mask=on)


@triton.jit
def _count(FLAGS, b, y, x, on, R: tl.constexpr, H: tl.constexpr, W: tl.constexpr, BLOCK: tl.constexpr):
    """How many of the (2 R + 1)^2 pixels around have flag 1; none beyond the edge."""
    total = tl.zeros([BLOCK], tl.int32)
    for dy in range(-R, R + 1):  # a loop: unrolled, all the window's loads are in flight and registers run out
        v = y + dy
        row = FLAGS + b.to(tl.int64) * (H * W) + v * W
        for i in tl.static_range(2 * R + 1):
            u = x + (i - R)
            there = on & (v >= 0) & (v < H) & (u >= 0) & (u < W)
            total += tl.load(row + u, mask=there, other=0).to(tl.int32) & 1
    return total


@triton.jit
def median_kernel(FLAGS, MEDIAN, H: tl.constexpr, W: tl.constexpr, BLOCK: tl.constexpr):
    """MEDIAN (B, H, W) uint8: FLAGS with flag 1 replaced by the majority of its 3 x 3 neighbourhood."""
    b = tl.program_id(1)
    p = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    on = p < H * W
    count = _count(FLAGS, b, p // W, p % W, on, 1, H, W, BLOCK)
    here = b.to(tl.int64) * (H * W) + p
    inside = tl.load(FLAGS + here, mask=on, other=0) & 2
    tl.store(MEDIAN + here, (inside + tl.where(count >= 5, 1, 0)).to(tl.uint8), mask=on)


@triton.jit
def blend_kernel(
    X, CONTENT, DEPTH, OPACITY, FEATHER, MEDIAN, OUT, LABEL, sx_b, sx_c, sx_h, sx_w, sc_b, sc_c, sc_h, sc_w,
    so_b, so_c, so_h, so_w,
    C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, R: tl.constexpr, SPECK: tl.constexpr, FULL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """LABEL (B, H, W) bool and OUT, the blend under the label and X elsewhere."""
    HW: tl.constexpr = H * W
    b = tl.program_id(1)
    p = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    on = p < HW
    y = p // W
    x = p % W
    here = b.to(tl.int64) * HW + p
    flags = tl.load(MEDIAN + here, mask=on, other=0).to(tl.int32)
    count = _count(MEDIAN, b, y, x, on, R, H, W, BLOCK)
    label = (((flags & 1) > 0) & (count >= SPECK)) | ((flags > 1) & (count >= FULL))
    tl.store(LABEL + here, label, mask=on)
    alpha = _alpha(DEPTH, OPACITY, FEATHER, b, p, on, HW)
    blended = on & label & (alpha > 0)
    at_x = b.to(tl.int64) * sx_b + y * sx_h + x * sx_w
    at_c = b.to(tl.int64) * sc_b + y * sc_h + x * sc_w
    at_o = b.to(tl.int64) * so_b + y * so_h + x * so_w
    for c in tl.static_range(C):
        before = tl.load(X + at_x + c * sx_c, mask=on, other=0.0).to(tl.float32)
        content = tl.load(CONTENT + at_c + c * sc_c, mask=blended, other=0.0).to(tl.float32)
        after = tl.where(blended, before + (content - before) * alpha, before)
        tl.store(OUT + at_o + c * so_c, after.to(OUT.dtype.element_ty), mask=on)


def launch(
    images: Tensor, content: Tensor, depth: Tensor, opacity: Tensor, feather: Tensor,
    visible: float, radius: int, speck: int, full: int,
) -> tuple[Tensor, Tensor]:
    """Run the three kernels; arguments are checked already."""
    b, c, h, w = images.shape
    out = torch.empty_like(images)
    label = torch.empty((b, h, w), dtype=torch.bool, device=images.device)
    if images.numel() == 0:
        return out, label
    flags = torch.empty((b, h, w), dtype=torch.uint8, device=images.device)
    median = torch.empty_like(flags)
    depth, opacity, feather = depth.contiguous(), opacity.contiguous(), feather.contiguous()
    block = 2 * BLOCK if INTERPRETED else BLOCK  # the interpreter's time is by the program
    grid = (triton.cdiv(h * w, block), b)
    size = dict(H=h, W=w, BLOCK=block, num_warps=4)
    with torch.cuda.device_of(images):
        changed_kernel[grid](
            images, content, depth, opacity, feather, flags, *images.stride(), *content.stride(), visible, C=c, **size
        )
        median_kernel[grid](flags, median, **size)
        blend_kernel[grid](
            images, content, depth, opacity, feather, median, out, label,
            *images.stride(), *content.stride(), *out.stride(), C=c, R=radius, SPECK=speck, FULL=full, **size,
        )
    return out, label


def _shapes(
    images: Tensor, content: Tensor, depth: Tensor, opacity: Tensor, feather: Tensor,
    visible: float, radius: int, speck: int, full: int,
) -> tuple[Tensor, Tensor]:
    b, _, h, w = images.shape
    return torch.empty_like(images), images.new_empty((b, h, w), dtype=torch.bool)


register(
    "simulate(Tensor images, Tensor content, Tensor depth, Tensor opacity, Tensor feather, float visible, int radius, "
    "int speck, int full) -> (Tensor, Tensor)",
    launch,
    _shapes,
)
