"""The whole bidirectional objective of one tile, which stays in registers: six tensors read, four gradients written.

Notation: E = clean backbone features, F = those of the corrupted picture, S and R the student's features of the clean
and the corrupted picture, G and H the adapter outputs; T = E (1 + bound tanh G) and U = F (1 + bound tanh H) are formed
in registers and never stored. N and P are the normal and the defect positions of the region map.
"""

from .cosine_kernel import live, missing_norm, pull, rnorm, store_as
from .lang import tl, triton

# 1 - 2 / (1 + exp(2 x)) in five instructions; a division alone takes ten, for numbers that do not occur here
TANH = tl.constexpr("""{
    .reg .f32 y;
    mul.f32 y, $1, 0f4038AA3B;
    ex2.approx.ftz.f32 y, y;
    add.f32 y, y, 0f3F800000;
    rcp.approx.ftz.f32 y, y;
    fma.rn.f32 $0, y, 0fC0000000, 0f3F800000;
}""")


@triton.jit
def tanh(x, PTX: tl.constexpr):
    """tanh in float32, exactly 0 at 0, no overflow; absolute error 2e-7."""
    if PTX:
        y = tl.inline_asm_elementwise(TANH, "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    else:
        y = 1.0 - 2.0 / (1.0 + tl.exp(2.0 * x))
    return y


# both halves of a word as float32
WIDEN = tl.constexpr("shl.b32 $0, $2, 16; and.b32 $1, $2, 0xffff0000;")


@triton.jit
def widen(x, PTX: tl.constexpr):
    """x in float32. Of bfloat16 in two instructions a pair; the compiler takes three."""
    if PTX and x.dtype == tl.bfloat16:
        y = tl.inline_asm_elementwise(WIDEN, "=f,=f,r", [x], dtype=tl.float32, is_pure=True, pack=2)
    else:
        y = x.to(tl.float32)
    return y


@triton.jit
def load_tile(pointer, mask, second, WIDTH: tl.constexpr, PARTS: tl.constexpr, PTX: tl.constexpr):
    """A tile in float32, (P, C), or with two PARTS (P, C / 2, 2), the halves of its channels side by side: a thread has a run of
    channels in both of them, and so half as many positions to do the sums of. Masked elements are 0."""
    x = widen(tl.load(pointer, mask=mask, other=0.0), PTX)
    if PARTS == 2:
        x = tl.join(x, widen(tl.load(pointer + WIDTH, mask=second, other=0.0), PTX))
    return x


@triton.jit
def five(a, b, c, d, e, v, w, x, y, z):
    """Sums of a reduction over five values at once: what warps exchange through memory they exchange once."""
    return a + v, b + w, c + x, d + y, e + z


@triton.jit
def six(a, b, c, d, e, f, u, v, w, x, y, z):
    """As five, over six."""
    return a + u, b + v, c + w, d + x, e + y, f + z


@triton.jit
def over(v, PARTS: tl.constexpr):
    """A number a position, (P,), beside the channels of a tile."""
    y = v[:, None]
    if PARTS == 2:
        y = y[:, :, None]
    return y


@triton.jit
def square(t, s, k, PARTS: tl.constexpr):
    """(t - k s)^2; with k = |t| / |s| its sum is |t|^2 |t^ - s^|^2."""
    e = t - s * over(k, PARTS)
    return e * e


@triton.jit
def channel_sum(x, PARTS: tl.constexpr):
    """(P,) of a tile."""
    if PARTS == 2:
        x = tl.sum(x, axis=2)
    return tl.sum(x, axis=1)


@triton.jit
def six_sums(v, PARTS: tl.constexpr):
    """channel_sum of six tiles at once."""
    if PARTS == 2:
        v = tl.reduce(v, 2, six)
    return tl.reduce(v, 1, six)


@triton.jit
def five_sums(v, PARTS: tl.constexpr):
    """channel_sum of five tiles at once."""
    if PARTS == 2:
        v = tl.reduce(v, 2, five)
    return tl.reduce(v, 1, five)


@triton.jit
def store_tile(pointer, value, mask, second, WIDTH: tl.constexpr, PARTS: tl.constexpr):
    """Store a tile as load_tile would load it."""
    if PARTS == 2:
        low, high = tl.split(value)
        store_as(pointer, low, mask)
        store_as(pointer + WIDTH, high, second)
    else:
        store_as(pointer, value, mask)


@triton.jit
def objective_tile(e, f, s, r, g, h, w, w_n, w_p, GS, GR, GG, GH, mask, second, forward_bad, forward_good, con, div, anc, bound,
                   margin, eps2, ADAPT: tl.constexpr, GRAD_S: tl.constexpr, GRAD_G: tl.constexpr, DEAD_ZERO: tl.constexpr,
                   WIDTH: tl.constexpr, PARTS: tl.constexpr, PTX: tl.constexpr):
    """Writes the gradients of tiles as load_tile gives them to the pointers GS, GR, GG, GH, and returns each position's share of
    the terms, six times (P,): forward corrupt, forward clean (which is con clean too), con corrupt, div, anc clean, anc corrupt.

    w, w_n, w_p: (P,), a position's weight in a mean over all, over N and over P. con, div, anc: weights in the adapter's gradient.
    """
    if ADAPT:
        g = tanh(g, PTX)
        h = tanh(h, PTX)
        eg = e * g
        fh = f * h
        t = e + bound * eg
        u = f + bound * fh
        tt, uu, ss, rr, ee, ff = six_sums((t * t, u * u, s * s, r * r, e * e, f * f), PARTS)
    else:
        t = e
        u = f
        tt = channel_sum(t * t, PARTS)
        uu = channel_sum(u * u, PARTS)
        ss = channel_sum(s * s, PARTS)
        rr = channel_sum(r * r, PARTS)
        ee = tt
        ff = uu
    rt = rnorm(tt, eps2)
    ru = rnorm(uu, eps2)
    rs = rnorm(ss, eps2)
    rq = rnorm(rr, eps2)
    re = rnorm(ee, eps2)
    rf = rnorm(ff, eps2)
    nt = tl.maximum(tt, eps2) * rt
    nu = tl.maximum(uu, eps2) * ru
    if ADAPT:
        d_ts, d_tr, d_ur, d_te, d_uf = five_sums(
            (square(t, s, nt * rs, PARTS), square(t, r, nt * rq, PARTS), square(u, r, nu * rq, PARTS),
             square(t, e, nt * re, PARTS), square(u, f, nu * rf, PARTS)), PARTS)
    else:
        d_ts = channel_sum(square(t, s, nt * rs, PARTS), PARTS)
        d_tr = channel_sum(square(t, r, nt * rq, PARTS), PARTS)
        d_ur = channel_sum(square(u, r, nu * rq, PARTS), PARTS)
        d_te = tl.zeros_like(tt)
        d_uf = d_te
    miss_t = missing_norm(tt, eps2)
    miss_u = missing_norm(uu, eps2)
    miss_r = missing_norm(rr, eps2)
    half_t = 0.5 * rt * rt
    half_u = 0.5 * ru * ru
    d_ts = half_t * d_ts + (miss_t + missing_norm(ss, eps2))
    d_tr = half_t * d_tr + (miss_t + miss_r)
    d_ur = half_u * d_ur + (miss_u + miss_r)
    d_te = half_t * d_te + (miss_t + missing_norm(ee, eps2))
    d_uf = half_u * d_uf + (miss_u + missing_norm(ff, eps2))
    if GRAD_S:
        a, b = pull(forward_good * w, 1.0 - d_ts, rt, rs, live(rs, ss, eps2), DEAD_ZERO)
        store_tile(GS, t * over(a, PARTS) + s * over(b, PARTS), mask, second, WIDTH, PARTS)
        a, b = pull(forward_bad * w, 1.0 - d_tr, rt, rq, live(rq, rr, eps2), DEAD_ZERO)
        store_tile(GR, t * over(a, PARTS) + r * over(b, PARTS), mask, second, WIDTH, PARTS)
    if ADAPT and GRAD_G:  # of T along G: bound e (1 - g^2)
        alive = live(rt, tt, eps2)
        a_s, b_s = pull(con * w, 1.0 - d_ts, rs, rt, alive, DEAD_ZERO)
        a_e, b_e = pull(anc * w, 1.0 - d_te, re, rt, alive, DEAD_ZERO)
        pulled = s * over(a_s, PARTS) + e * over(a_e, PARTS) + t * over(b_s + b_e, PARTS)
        store_tile(GG, pulled * (e - eg * g), mask, second, WIDTH, PARTS)
        alive = live(ru, uu, eps2)
        push = tl.where(d_ur <= margin, div * w_p, 0.0)
        a_r, b_r = pull(con * w_n - push, 1.0 - d_ur, rq, ru, alive, DEAD_ZERO)
        a_f, b_f = pull(anc * w_n, 1.0 - d_uf, rf, ru, alive, DEAD_ZERO)
        pulled = r * over(a_r, PARTS) + f * over(a_f, PARTS) + u * over(b_r + b_f, PARTS)
        store_tile(GH, pulled * (f - fh * h), mask, second, WIDTH, PARTS)
    return d_tr * w, d_ts * w, d_ur * w_n, tl.maximum(margin - d_ur, 0.0) * w_p, d_te * w, d_uf * w_n
