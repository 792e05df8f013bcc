"""The same objective where a tile's channels do not fit in registers: two sweeps over them, the second one from cache.

Names as in bidirectional_tile.py.
"""

from .bidirectional_tile import tanh
from .cosine_kernel import live, load_wide, missing_norm, offsets, pull, rnorm, store_as, tile_mask
from .lang import tl, triton


@triton.jit
def objective_loop(E, F, S, R, G, H, w, w_n, w_p, GS, GR, GG, GH, limit, forward_bad, forward_good, con, div, anc, bound, margin,
                   eps2, HW, CHANNELS, C: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, NHWC: tl.constexpr,
                   EVEN_P: tl.constexpr, ADAPT: tl.constexpr, GRAD_S: tl.constexpr, GRAD_G: tl.constexpr,
                   DEAD_ZERO: tl.constexpr, PTX: tl.constexpr):
    """As objective_tile, of the tile that the pointers point to; `limit` of its positions exist."""
    p = tl.arange(0, BLOCK_P)
    c = tl.arange(0, BLOCK_C)
    zero = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    a_tt = zero
    a_uu = zero
    a_ss = zero
    a_rr = zero
    a_ee = zero
    a_ff = zero
    a_ts = zero
    a_tr = zero
    a_ur = zero
    a_te = zero
    a_uf = zero
    for c0 in range(0, CHANNELS, BLOCK_C):
        off = offsets(p, c0 + c, HW, C, NHWC)
        mask = tile_mask(p, c0 + c, limit, C, EVEN_P, C % BLOCK_C == 0)
        e = load_wide(E + off, mask)
        f = load_wide(F + off, mask)
        s = load_wide(S + off, mask)
        r = load_wide(R + off, mask)
        t = e
        u = f
        if ADAPT:
            t = e * (1.0 + bound * tanh(load_wide(G + off, mask), PTX))
            u = f * (1.0 + bound * tanh(load_wide(H + off, mask), PTX))
            a_ee += e * e
            a_ff += f * f
            a_te += t * e
            a_uf += u * f
        a_tt += t * t
        a_uu += u * u
        a_ss += s * s
        a_rr += r * r
        a_ts += t * s
        a_tr += t * r
        a_ur += u * r
    tt = tl.sum(a_tt, axis=1)
    uu = tl.sum(a_uu, axis=1)
    ss = tl.sum(a_ss, axis=1)
    rr = tl.sum(a_rr, axis=1)
    ee = tl.sum(a_ee, axis=1)
    ff = tl.sum(a_ff, axis=1)
    rt = rnorm(tt, eps2)
    ru = rnorm(uu, eps2)
    rs = rnorm(ss, eps2)
    rq = rnorm(rr, eps2)
    re = rnorm(ee, eps2)
    rf = rnorm(ff, eps2)
    c_ts = tl.sum(a_ts, axis=1) * (rt * rs)
    c_tr = tl.sum(a_tr, axis=1) * (rt * rq)
    c_ur = tl.sum(a_ur, axis=1) * (ru * rq)
    c_te = tl.sum(a_te, axis=1) * (rt * re)
    c_uf = tl.sum(a_uf, axis=1) * (ru * rf)
    s_t, s_s = pull(forward_good * w, c_ts, rt, rs, live(rs, ss, eps2), DEAD_ZERO)
    r_t, r_r = pull(forward_bad * w, c_tr, rt, rq, live(rq, rr, eps2), DEAD_ZERO)
    alive = live(rt, tt, eps2)
    t_s, x_s = pull(con * w, c_ts, rs, rt, alive, DEAD_ZERO)
    t_e, x_e = pull(anc * w, c_te, re, rt, alive, DEAD_ZERO)
    t_t = x_s + x_e
    alive = live(ru, uu, eps2)
    push = tl.where(1.0 - c_ur <= margin, div * w_p, 0.0)
    u_r, x_s = pull(con * w_n - push, c_ur, rq, ru, alive, DEAD_ZERO)
    u_f, x_e = pull(anc * w_n, c_uf, rf, ru, alive, DEAD_ZERO)
    u_u = x_s + x_e
    a_ts = zero
    a_tr = zero
    a_ur = zero
    a_te = zero
    a_uf = zero
    for c0 in range(0, CHANNELS, BLOCK_C):
        off = offsets(p, c0 + c, HW, C, NHWC)
        mask = tile_mask(p, c0 + c, limit, C, EVEN_P, C % BLOCK_C == 0)
        e = load_wide(E + off, mask)
        s = load_wide(S + off, mask)
        r = load_wide(R + off, mask)
        t = e
        if ADAPT:
            g = tanh(load_wide(G + off, mask), PTX)
            t = e * (1.0 + bound * g)
            if GRAD_G:
                pulled = s * t_s[:, None] + e * t_e[:, None] + t * t_t[:, None]
                store_as(GG + off, pulled * (e * (1.0 - g * g)), mask)
        if GRAD_S:
            store_as(GS + off, t * s_t[:, None] + s * s_s[:, None], mask)
            store_as(GR + off, t * r_t[:, None] + r * r_r[:, None], mask)
        t_unit = t * rt[:, None]
        r_unit = r * rq[:, None]
        x = t_unit - s * rs[:, None]
        a_ts += x * x
        x = t_unit - r_unit
        a_tr += x * x
        if ADAPT:
            x = t_unit - e * re[:, None]
            a_te += x * x
        f = load_wide(F + off, mask)
        u = f
        if ADAPT:
            h = tanh(load_wide(H + off, mask), PTX)
            u = f * (1.0 + bound * h)
            if GRAD_G:
                pulled = r * u_r[:, None] + f * u_f[:, None] + u * u_u[:, None]
                store_as(GH + off, pulled * (f * (1.0 - h * h)), mask)
            x = u * ru[:, None] - f * rf[:, None]
            a_uf += x * x
        x = u * ru[:, None] - r_unit
        a_ur += x * x
    miss_t = missing_norm(tt, eps2)
    miss_u = missing_norm(uu, eps2)
    miss_r = missing_norm(rr, eps2)
    d_ts = 0.5 * tl.sum(a_ts, axis=1) + (miss_t + missing_norm(ss, eps2))
    d_tr = 0.5 * tl.sum(a_tr, axis=1) + (miss_t + miss_r)
    d_ur = 0.5 * tl.sum(a_ur, axis=1) + (miss_u + miss_r)
    d_te = 0.5 * tl.sum(a_te, axis=1) + (miss_t + missing_norm(ee, eps2))
    d_uf = 0.5 * tl.sum(a_uf, axis=1) + (miss_u + missing_norm(ff, eps2))
    return d_tr * w, d_ts * w, d_ur * w_n, tl.maximum(margin - d_ur, 0.0) * w_p, d_te * w, d_uf * w_n
