"""One tile of the whole bidirectional objective: six tensors read, four gradients written.

Notation: E = clean backbone features, F = those of the corrupted picture, S and R the student's features of the clean
and the corrupted picture, G and H the adapter outputs; T = E (1 + bound tanh G) and U = F (1 + bound tanh H) are formed
in registers and never stored. N and P are the normal and the defect positions of the region map.
"""

from .cosine_kernel import load_wide, missing_norm, offsets, place, pull, rnorm, store_as, tile_mask
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


@triton.jit
def level_weights(REGION, COUNTS, position, inside, scale, per_position):
    """Weights of one position in a mean over all, over N and over P positions; an empty N or P weighs nothing."""
    region = tl.load(REGION + position, mask=inside, other=1)
    n = tl.load(COUNTS).to(tl.float32)
    q = tl.load(COUNTS + 1).to(tl.float32)
    w_n = tl.where(n > 0, scale / tl.where(n > 0, n, 1.0), 0.0)
    w_p = tl.where(q > 0, scale / tl.where(q > 0, q, 1.0), 0.0)
    return tl.where(inside, per_position, 0.0), tl.where(region == 0, w_n, 0.0), tl.where(region == 2, w_p, 0.0)


@triton.jit
def teacher_pull(w_con, w_anc, c_s, c_e, rs, re, rt, tt, eps2, DEAD_ZERO: tl.constexpr):
    """(a_s, a_e, a_t): gradient to T = a_s s + a_e e + a_t t of w_con d(T, S) + w_anc d(T, E)."""
    a_s, b_s = pull(w_con, c_s, rs, rt, tt, eps2, DEAD_ZERO)
    a_e, b_e = pull(w_anc, c_e, re, rt, tt, eps2, DEAD_ZERO)
    return a_s, a_e, b_s + b_e


@triton.jit
def five(a, b, c, d, e, v, w, x, y, z):
    """Sums of a reduction over five values at once: what warps exchange through memory they exchange once."""
    return a + v, b + w, c + x, d + y, e + z


@triton.jit
def six(a, b, c, d, e, f, u, v, w, x, y, z):
    """As five, over six."""
    return a + u, b + v, c + w, d + x, e + y, f + z


@triton.jit
def square(t, s, k):
    """(t - k s)^2 of a resident tile; with k = |t| / |s| its sum is |t|^2 |t^ - s^|^2."""
    e = t - s * k[:, None]
    return e * e


@triton.jit
def objective_tile(E, F, S, R, G, H, REGION, COUNTS, GS, GR, GG, GH, pid, beta, scale, per_position,
                   fold_s, fold_g, f_bad, f_good, con, div, anc, bound, margin, eps2, HW, ROWS, CHANNELS,
                   C: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, NHWC: tl.constexpr,
                   EVEN_P: tl.constexpr, ADAPT: tl.constexpr, GRAD_S: tl.constexpr, GRAD_G: tl.constexpr,
                   DEAD_ZERO: tl.constexpr, PTX: tl.constexpr):
    """One tile of one level: writes the gradients, returns each position's share of the terms, six times (BLOCK_P,): forward
    corrupt, forward clean (which is con clean too), con corrupt, div, anc clean, anc corrupt."""
    base, first, limit = place(pid, HW, ROWS, BLOCK_P, C, NHWC)
    p = tl.arange(0, BLOCK_P)
    c = tl.arange(0, BLOCK_C)
    inside = p < limit
    w, w_n, w_p = level_weights(REGION, COUNTS, first + p, inside, scale, per_position)
    E += base
    F += base
    S += base
    R += base
    G += base
    H += base
    GS += base
    GR += base
    GG += base
    GH += base
    forward = (1.0 - beta) * fold_s
    backward = beta * fold_g
    if BLOCK_C >= C:
        off = offsets(p, c, HW, C, NHWC)
        mask = tile_mask(p, c, limit, C, EVEN_P, BLOCK_C == C)
        e = load_wide(E + off, mask)
        f = load_wide(F + off, mask)
        s = load_wide(S + off, mask)
        r = load_wide(R + off, mask)
        if ADAPT:
            g = tanh(load_wide(G + off, mask), PTX)
            h = tanh(load_wide(H + off, mask), PTX)
            t = e * (1.0 + bound * g)
            u = f * (1.0 + bound * h)
            tt, uu, ss, rr, ee, ff = tl.reduce((t * t, u * u, s * s, r * r, e * e, f * f), 1, six)
        else:
            t = e
            u = f
            tt = tl.sum(t * t, axis=1)
            uu = tl.sum(u * u, axis=1)
            ss = tl.sum(s * s, axis=1)
            rr = tl.sum(r * r, axis=1)
            ee = tt
            ff = uu
        rt = rnorm(tt, eps2)
        ru = rnorm(uu, eps2)
        rs = rnorm(ss, eps2)
        rq = rnorm(rr, eps2)
        re = rnorm(ee, eps2)
        rf = rnorm(ff, eps2)
        miss_t = missing_norm(tt, rt, eps2)
        miss_u = missing_norm(uu, ru, eps2)
        miss_s = missing_norm(ss, rs, eps2)
        miss_r = missing_norm(rr, rq, eps2)
        nt = tl.maximum(tt, eps2) * rt
        nu = tl.maximum(uu, eps2) * ru
        if ADAPT:
            d_ts, d_tr, d_ur, d_te, d_uf = tl.reduce(
                (square(t, s, nt * rs), square(t, r, nt * rq), square(u, r, nu * rq), square(t, e, nt * re),
                 square(u, f, nu * rf)), 1, five)
        else:
            d_ts = tl.sum(square(t, s, nt * rs), axis=1)
            d_tr = tl.sum(square(t, r, nt * rq), axis=1)
            d_ur = tl.sum(square(u, r, nu * rq), axis=1)
            d_te = tl.zeros_like(tt)
            d_uf = d_te
        half_t = 0.5 * rt * rt
        half_u = 0.5 * ru * ru
        d_ts = half_t * d_ts + miss_t + miss_s
        d_tr = half_t * d_tr + miss_t + miss_r
        d_ur = half_u * d_ur + miss_u + miss_r
        d_te = half_t * d_te + miss_t + missing_norm(ee, re, eps2)
        d_uf = half_u * d_uf + miss_u + missing_norm(ff, rf, eps2)
        if GRAD_S:
            a, b = pull(forward * f_good * w, 1.0 - d_ts, rt, rs, ss, eps2, DEAD_ZERO)
            store_as(GS + off, t * a[:, None] + s * b[:, None], mask)
            a, b = pull(forward * f_bad * w, 1.0 - d_tr, rt, rq, rr, eps2, DEAD_ZERO)
            store_as(GR + off, t * a[:, None] + r * b[:, None], mask)
        if ADAPT and GRAD_G:
            deep = backward * bound
            a_s, a_e, a_t = teacher_pull(deep * con * w, deep * anc * w, 1.0 - d_ts, 1.0 - d_te, rs, re, rt, tt, eps2,
                                         DEAD_ZERO)
            pulled = s * a_s[:, None] + e * a_e[:, None] + t * a_t[:, None]
            store_as(GG + off, pulled * e * (1.0 - g * g), mask)
            push = tl.where(d_ur <= margin, div * w_p, 0.0)
            a_s, a_e, a_t = teacher_pull(deep * (con * w_n - push), deep * anc * w_n, 1.0 - d_ur, 1.0 - d_uf, rq, rf, ru,
                                         uu, eps2, DEAD_ZERO)
            pulled = r * a_s[:, None] + f * a_e[:, None] + u * a_t[:, None]
            store_as(GH + off, pulled * f * (1.0 - h * h), mask)
    else:
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
        s_t, s_s = pull(forward * f_good * w, c_ts, rt, rs, ss, eps2, DEAD_ZERO)
        r_t, r_r = pull(forward * f_bad * w, c_tr, rt, rq, rr, eps2, DEAD_ZERO)
        t_s, t_e, t_t = teacher_pull(backward * con * w, backward * anc * w, c_ts, c_te, rs, re, rt, tt, eps2, DEAD_ZERO)
        push = tl.where(1.0 - c_ur <= margin, div * w_p, 0.0)
        u_r, u_f, u_u = teacher_pull(backward * (con * w_n - push), backward * anc * w_n, c_ur, c_uf, rq, rf, ru, uu, eps2,
                                     DEAD_ZERO)
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
                    store_as(GG + off, pulled * e * (bound * (1.0 - g * g)), mask)
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
                    store_as(GH + off, pulled * f * (bound * (1.0 - h * h)), mask)
                x = u * ru[:, None] - f * rf[:, None]
                a_uf += x * x
            x = u * ru[:, None] - r_unit
            a_ur += x * x
        miss_t = missing_norm(tt, rt, eps2)
        miss_u = missing_norm(uu, ru, eps2)
        miss_r = missing_norm(rr, rq, eps2)
        d_ts = 0.5 * tl.sum(a_ts, axis=1) + miss_t + missing_norm(ss, rs, eps2)
        d_tr = 0.5 * tl.sum(a_tr, axis=1) + miss_t + miss_r
        d_ur = 0.5 * tl.sum(a_ur, axis=1) + miss_u + miss_r
        d_te = 0.5 * tl.sum(a_te, axis=1) + miss_t + missing_norm(ee, re, eps2)
        d_uf = 0.5 * tl.sum(a_uf, axis=1) + miss_u + missing_norm(ff, rf, eps2)
    return d_tr * w, d_ts * w, d_ur * w_n, tl.maximum(margin - d_ur, 0.0) * w_p, d_te * w, d_uf * w_n
