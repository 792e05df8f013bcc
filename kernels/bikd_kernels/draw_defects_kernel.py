"""Triton kernels of draw_defects: depth and content of a tile in one go, then a plain shift where hardly anything would change.

Most tiles hold no defect: they cost their depth and nothing more. Three whole numbers a sample travel between the launches.
"""

import torch
from torch import Tensor

from .defects import SHUFFLE_GRID
from .depth_tile import base_depth, cosine, sine, upsampled
from .dispatch import INTERPRETED
from .lang import tl, triton
from .reference.draw_defects import PLAIN_SHIFT, SEEN, SEEN_PIXELS, SEEN_SHARE, SMALL_SHARE
from .registration import register

TILE = 16  # pixels a side of the square that a program draws; divides S
WARPS = 8  # a pixel a thread: two of them take 128 registers
# Columns of the parameters, as bikd_kernels.defects.packed lays them out:
#  0 center_y   1 center_x   2 cos       3 sin        4 length   5 width    6 sag      7 wave    8 cycles   9 phase
# 10 box       11 noisy     12 fall     13 amplitude 14 level   15 peak    16 foreign 17 textured 18 which 19 shuffled
# 20 from_y    21 from_x    22 angle    23 zoom      24 mirror  25 drag_y  26 drag_x  27 warp   28 low     29 fill
# 30-32 color  33-35 gain   36 bias     37 light     38 shade   39 opacity 40 feather
COLUMNS = 41
LIGHTS = 64  # steps of brightness that are counted


@triton.jit
def _bilinear(PLANE, y, x, on, S: tl.constexpr):
    """Values at y, x within 0..S - 1 of one channel of a picture."""
    top = tl.floor(y)
    left = tl.floor(x)
    at = PLANE + top.to(tl.int32) * S + left.to(tl.int32)
    right = tl.where(left < S - 1, 1, 0)
    down = tl.where(top < S - 1, S, 0)
    a = tl.load(at, mask=on, other=0).to(tl.float32)
    b = tl.load(at + right, mask=on, other=0).to(tl.float32)
    c = tl.load(at + down, mask=on, other=0).to(tl.float32)
    d = tl.load(at + down + right, mask=on, other=0).to(tl.float32)
    a += (b - a) * (x - left)
    c += (d - c) * (x - left)
    return a + (c - a) * (y - top)


@triton.jit
def _place(P, ORDER, y, x, depth, inside, S: tl.constexpr, GRID: tl.constexpr):
    """reference.draw_defects._source_places of one sample: where every pixel's content comes from."""
    t = tl.minimum(tl.maximum(depth / (0.9 * tl.load(P + 15)), 0.0), 1.0)
    strength = tl.where(tl.load(P + 27) > 0, t * t * (3.0 - 2.0 * t), 1.0)
    dy = y - tl.load(P)
    dx = (x - tl.load(P + 1)) * tl.load(P + 24)
    angle = tl.load(P + 22) * strength
    reach = tl.exp2(tl.load(P + 23) * strength)
    cos = cosine(angle) * reach
    sin = sine(angle) * reach
    v = tl.load(P + 20) + cos * dy + sin * dx + tl.load(P + 25) * strength
    u = tl.load(P + 21) + cos * dx - sin * dy + tl.load(P + 26) * strength
    last = S - 1.0
    v = last - tl.abs(last - tl.abs(v))
    u = last - tl.abs(last - tl.abs(u))
    if tl.load(P + 19) > 0:
        piece = S // GRID
        row = tl.floor(tl.minimum(tl.maximum(v / piece, 0.0), GRID - 1.0))
        col = tl.floor(tl.minimum(tl.maximum(u / piece, 0.0), GRID - 1.0))
        cell = tl.load(ORDER + (row * GRID + col).to(tl.int32), mask=inside, other=0).to(tl.int32)
        v += ((cell // GRID).to(tl.float32) - row) * piece
        u += ((cell % GRID).to(tl.float32) - col) * piece
    return tl.minimum(tl.maximum(v, 0.0), last), tl.minimum(tl.maximum(u, 0.0), last)


@triton.jit
def _alpha(P, depth):
    """Weight of the content: simulate's."""
    t = tl.minimum(tl.maximum(depth / tl.load(P + 40), 0.0), 1.0)
    return tl.load(P + 39) * (t * t * (3.0 - 2.0 * t))


@triton.jit
def _pixels(S: tl.constexpr, TILE: tl.constexpr):
    """Rows and columns of the pixels of this program's tile."""
    i = tl.arange(0, TILE * TILE)
    tile = tl.program_id(0)
    return (tile // (S // TILE)) * TILE + i // TILE, (tile % (S // TILE)) * TILE + i % TILE


@triton.jit
def draw_kernel(
    X, LOW, NOISE, PARAMETERS, ORDER, POOL, TEXTURES, FOREGROUND, ROWS, DEPTH, CONTENT, COUNTS, seen,
    S: tl.constexpr, GRID: tl.constexpr, COLUMNS: tl.constexpr, LIGHTS: tl.constexpr, TEXTURED: tl.constexpr,
    MASKED: tl.constexpr, TILE: tl.constexpr,
):
    """DEPTH (B, S, S); CONTENT (B, 3, S, S) where it is above 0; COUNTS (B, 3) int32, zeros before: pixels of half the opacity or
    more, how many of them are seen to change, and the sum of their brightness in steps."""
    G: tl.constexpr = S // 4
    b = tl.program_id(1)
    row, col = _pixels(S, TILE)
    y = row.to(tl.float32)
    x = col.to(tl.float32)
    flat = row * S + col
    P = PARAMETERS + b * COLUMNS
    own = b.to(tl.int64) * (3 * S * S)
    noise = upsampled(NOISE + b * (G * G), y, x, y >= 0, G)
    depth = base_depth(P, y, x) + tl.load(P + 13) * noise - tl.load(P + 14)
    if MASKED:
        on_object = tl.load(FOREGROUND + tl.load(ROWS + b) * (S * S) + flat)
        depth = tl.where(on_object != 0, depth, -1.0)
    tl.store(DEPTH + b.to(tl.int64) * (S * S) + flat, depth)
    if tl.max(depth, axis=0) > 0:
        inside = depth > 0
        v, u = _place(P, ORDER + b * (GRID * GRID), y, x, depth, inside, S, GRID)
        light = tl.load(P + 37)
        towards = sine(light) * (y - tl.load(P)) + cosine(light) * (x - tl.load(P + 1))
        shade = tl.exp(tl.load(P + 38) * tl.minimum(tl.maximum(towards / tl.load(P + 15), -1.0), 1.0))
        # 0 the picture itself, 1 the pool, 2 the textures; a block, because the interpreter cannot spread a bool
        source = tl.zeros([TILE * TILE], tl.float32) + tl.load(P + 16) + tl.load(P + 17)
        which = tl.load(P + 18).to(tl.int64) * (3 * S * S)
        most = tl.zeros([TILE * TILE], tl.float32)
        total = tl.zeros([TILE * TILE], tl.float32)
        for c in range(3):  # a loop, for the sake of registers
            plane = c * S * S
            # a source that this sample does not take from is not read: its mask is empty
            content = _bilinear(X + own + plane, v, u, inside & (source == 0), S)
            taken = _bilinear(POOL + which + plane, v, u, inside & (source == 1), S)
            if TEXTURED:
                taken += _bilinear(TEXTURES + which + plane, v, u, inside & (source == 2), S)
            content += taken * (1.0 / 255.0)
            content += tl.load(P + 28) * (upsampled(LOW + (b * 3 + c) * (G * G), y, x, inside, G) - content)
            content += tl.load(P + 29) * (tl.load(P + 30 + c) - content)
            content = content * (tl.load(P + 33 + c) * shade) + tl.load(P + 36)
            content = tl.minimum(tl.maximum(content, 0.0), 1.0)
            before = tl.load(X + own + plane + flat, mask=inside, other=0.0)
            tl.store(CONTENT + own + plane + flat, content, mask=inside)
            most = tl.maximum(most, tl.abs(content - before))
            total += before
        alpha = _alpha(P, depth)
        counted = inside & (alpha > 0.5 * tl.load(P + 39))
        changed = counted & (most * alpha > seen)
        lights = tl.floor(total * (LIGHTS / 3.0) + 0.5).to(tl.int32)  # never half-way in pictures of 8 bits
        tl.atomic_add(COUNTS + b * 3, tl.sum(counted.to(tl.int32), axis=0))  # whole numbers: any order gives the same
        tl.atomic_add(COUNTS + b * 3 + 1, tl.sum(changed.to(tl.int32), axis=0))
        tl.atomic_add(COUNTS + b * 3 + 2, tl.sum(tl.where(counted, lights, 0), axis=0))


@triton.jit
def shift_kernel(
    X, DEPTH, COUNTS, CONTENT, small_share, share, pixels, shift,
    S: tl.constexpr, LIGHTS: tl.constexpr, TILE: tl.constexpr,
):
    """CONTENT becomes a plain shift of brightness where too little of a sample's defect is seen."""
    b = tl.program_id(1)
    area = tl.load(COUNTS + b * 3).to(tl.float32)
    changed = tl.load(COUNTS + b * 3 + 1).to(tl.float32)
    if changed < tl.minimum(small_share * area, tl.maximum(share * area, pixels)):
        row, col = _pixels(S, TILE)
        flat = row * S + col
        inside = tl.load(DEPTH + b.to(tl.int64) * (S * S) + flat) > 0
        own = b.to(tl.int64) * (3 * S * S)
        red = tl.load(X + own + flat, mask=inside, other=0.0)
        green = tl.load(X + own + S * S + flat, mask=inside, other=0.0)
        blue = tl.load(X + own + 2 * S * S + flat, mask=inside, other=0.0)
        level = (red + green + blue) / 3.0
        # a pixel that is dark already in a bright place turns bright
        bright = tl.load(COUNTS + b * 3 + 2).to(tl.float32) > (LIGHTS // 2) * area
        to = tl.where(level > tl.where(bright, 0.2, 0.8), 0.0, 1.0)
        tl.store(CONTENT + own + flat, red + (to - red) * shift, mask=inside)
        tl.store(CONTENT + own + S * S + flat, green + (to - green) * shift, mask=inside)
        tl.store(CONTENT + own + 2 * S * S + flat, blue + (to - blue) * shift, mask=inside)


def launch(
    images: Tensor, low: Tensor, noise: Tensor, parameters: Tensor, order: Tensor, pool: Tensor, textures: Tensor | None,
    foreground: Tensor | None, rows: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Run both kernels; arguments are checked already."""
    b, _, _, size = images.shape
    depth = torch.empty((b, size, size), dtype=torch.float32, device=images.device)
    content = torch.empty(images.shape, dtype=torch.float32, device=images.device)
    if b == 0:
        return depth, content
    counts = torch.zeros((b, 3), dtype=torch.int32, device=images.device)
    images, low, noise, parameters, order, pool = (x.contiguous() for x in (images, low, noise, parameters, order, pool))
    textured, masked = textures is not None, foreground is not None
    textures = pool if textures is None else textures.contiguous()  # whatever is not there is not read
    foreground = pool if foreground is None else foreground.contiguous().view(torch.uint8)
    rows = order if rows is None else rows.contiguous()
    tile = size if INTERPRETED and size & (size - 1) == 0 else TILE  # the interpreter's time is by the program
    grid = ((size // tile) ** 2, b)
    with torch.cuda.device_of(images):
        draw_kernel[grid](
            images, low, noise, parameters, order, pool, textures, foreground, rows, depth, content,
            counts, SEEN, S=size, GRID=SHUFFLE_GRID, COLUMNS=COLUMNS, LIGHTS=LIGHTS, TEXTURED=textured, MASKED=masked, TILE=tile,
            num_warps=WARPS,
        )
        shift_kernel[grid](
            images, depth, counts, content, SMALL_SHARE, SEEN_SHARE, float(SEEN_PIXELS), PLAIN_SHIFT,
            S=size, LIGHTS=LIGHTS, TILE=tile, num_warps=WARPS,
        )
    return depth, content


def _shapes(
    images: Tensor, low: Tensor, noise: Tensor, parameters: Tensor, order: Tensor, pool: Tensor, textures: Tensor | None,
    foreground: Tensor | None, rows: Tensor | None,
) -> tuple[Tensor, Tensor]:
    return images.new_empty((len(images), *images.shape[2:])), images.new_empty(images.shape)


register(
    "draw_defects(Tensor images, Tensor low, Tensor noise, Tensor parameters, Tensor order, Tensor pool, Tensor? textures, "
    "Tensor? foreground, Tensor? rows) -> (Tensor, Tensor)",
    launch,
    _shapes,
)
