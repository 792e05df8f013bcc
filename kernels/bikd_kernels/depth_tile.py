"""Depth of an outline at a tile of places, and what it is made of."""

from .lang import tl, triton


@triton.jit
def upsampled(LOW, y, x, on, G: tl.constexpr):
    """Bilinear values at pixels of a (G, G) map of block centres, edges repeated."""
    v = tl.minimum(tl.maximum((y - 1.5) * 0.25, 0.0), G - 1.0)
    u = tl.minimum(tl.maximum((x - 1.5) * 0.25, 0.0), G - 1.0)
    top = tl.floor(v)
    left = tl.floor(u)
    at = LOW + top.to(tl.int32) * G + left.to(tl.int32)
    right = tl.where(left < G - 1, 1, 0)
    down = tl.where(top < G - 1, G, 0)
    a = tl.load(at, mask=on, other=0.0)
    b = tl.load(at + right, mask=on, other=0.0)
    c = tl.load(at + down, mask=on, other=0.0)
    d = tl.load(at + down + right, mask=on, other=0.0)
    a += (b - a) * (u - left)
    c += (d - c) * (u - left)
    return a + (c - a) * (v - top)


@triton.jit
def sine(x):
    """sin x to 3e-7 for |x| up to some hundreds: a series, because libraries keep a path for huge x in local memory."""
    k = tl.floor(x * 0.3183098861837907 + 0.5)
    r = x - k * 3.140625  # exact: pi in three parts, the first of few bits
    r = r - k * 9.675025939941406e-04
    r = r - k * 1.5099579909783764e-07
    z = r * r
    s = r + r * z * (-1 / 6 + z * (1 / 120 + z * (-1 / 5040 + z * (1 / 362880 - z * (1 / 39916800)))))
    return tl.where(k - 2.0 * tl.floor(k * 0.5) > 0.5, -s, s)


@triton.jit
def cosine(x):
    return sine(x + 1.5707963267948966)


@triton.jit
def base_depth(P, y, x):
    """reference.draw_defects.base_depth of one sample; P points to its Outline, packed."""
    dy = y - tl.load(P)
    dx = x - tl.load(P + 1)
    cos = tl.load(P + 2)
    sin = tl.load(P + 3)
    length = tl.load(P + 4)
    width = tl.load(P + 5)
    sag = tl.load(P + 6)
    wave = tl.load(P + 7)
    bends = tl.load(P + 8) * 3.141592653589793
    u = cos * dx + sin * dy
    v = cos * dy - sin * dx
    t = u / length
    turn = bends * t + tl.load(P + 9)
    bent = v - sag * (t * t - 0.33) - wave * sine(turn)
    slope = (2 * sag * t + wave * bends * cosine(turn)) / length
    side = tl.abs(bent) * tl.rsqrt(1.0 + slope * slope)
    box = tl.minimum(length - tl.abs(u), width - side)
    flat = side / width
    ellipse = width * (1.0 - tl.sqrt(t * t + flat * flat))
    fall = -tl.load(P + 12) * tl.sqrt(dy * dy + dx * dx)
    return tl.where(tl.load(P + 11) > 0, fall, tl.where(tl.load(P + 10) > 0, box, ellipse))
