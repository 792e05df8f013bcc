"""Triton kernels of the whole bidirectional objective: six tensors read once, four gradients written once, one launch.

Notation: E = clean backbone features, F = those of the corrupted picture, S and R the student's features of the clean
and the corrupted picture, G and H the adapter outputs; T = E (1 + bound tanh G) and U = F (1 + bound tanh H) are formed
in registers and never stored. N and P are the normal and the defect positions of the region map.
"""

from .cosine_kernel import load_wide, missing_norm, offsets, place, pull, rnorm, store_as, tile_mask
from .lang import tl, triton


@triton.jit
def tanh(x):
    """tanh in float32, exactly 0 at 0, no overflow; absolute error 1e-7."""
    return 1.0 - 2.0 / (1.0 + tl.exp(2.0 * x))


@triton.jit
def level_weights(REGION, COUNTS, position, inside, scale, per_position):
    """Weights of one position in a mean over all, over N and over P positions; an empty N or P weighs nothing."""
    region = tl.load(REGION + position, mask=inside, other=1)
    n = tl.load(COUNTS)
    q = tl.load(COUNTS + 1)
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
def put(PART, stride, pid, d, w, TERM: tl.constexpr):
    """Store this program's share of one term."""
    tl.store(PART + TERM * stride + pid, tl.sum(d * w, axis=0))


@triton.jit
def half_square(t, rt, s, rs):
    """1/2 |t^ - s^|^2 over the channels of a resident tile."""
    e = t * rt[:, None] - s * rs[:, None]
    return 0.5 * tl.sum(e * e, axis=1)


@triton.jit
def objective_tile(E, F, S, R, G, H, REGION, COUNTS, GS, GR, GG, GH, PART, stride, slot, pid, beta, scale, per_position,
                   fold_s, fold_g, f_bad, f_good, con, div, anc, bound, margin, eps2, HW, ROWS, CHANNELS,
                   C: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, NHWC: tl.constexpr,
                   EVEN_P: tl.constexpr, ADAPT: tl.constexpr, GRAD_S: tl.constexpr, GRAD_G: tl.constexpr,
                   DEAD_ZERO: tl.constexpr):
    """One tile of one level."""
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
        t = e
        u = f
        if ADAPT:
            g = tanh(load_wide(G + off, mask))
            h = tanh(load_wide(H + off, mask))
            t = e * (1.0 + bound * g)
            u = f * (1.0 + bound * h)
        tt = tl.sum(t * t, axis=1)
        uu = tl.sum(u * u, axis=1)
        ss = tl.sum(s * s, axis=1)
        rr = tl.sum(r * r, axis=1)
        rt = rnorm(tt, eps2)
        ru = rnorm(uu, eps2)
        rs = rnorm(ss, eps2)
        rq = rnorm(rr, eps2)
        miss_t = missing_norm(tt, rt, eps2)
        miss_u = missing_norm(uu, ru, eps2)
        miss_s = missing_norm(ss, rs, eps2)
        miss_r = missing_norm(rr, rq, eps2)
        d_ts = half_square(t, rt, s, rs) + miss_t + miss_s
        d_tr = half_square(t, rt, r, rq) + miss_t + miss_r
        d_ur = half_square(u, ru, r, rq) + miss_u + miss_r
        if GRAD_S:
            a, b = pull(forward * f_good * w, 1.0 - d_ts, rt, rs, ss, eps2, DEAD_ZERO)
            store_as(GS + off, t * a[:, None] + s * b[:, None], mask)
            a, b = pull(forward * f_bad * w, 1.0 - d_tr, rt, rq, rr, eps2, DEAD_ZERO)
            store_as(GR + off, t * a[:, None] + r * b[:, None], mask)
        if ADAPT:
            ee = tl.sum(e * e, axis=1)
            ff = tl.sum(f * f, axis=1)
            re = rnorm(ee, eps2)
            rf = rnorm(ff, eps2)
            d_te = half_square(t, rt, e, re) + miss_t + missing_norm(ee, re, eps2)
            d_uf = half_square(u, ru, f, rf) + miss_u + missing_norm(ff, rf, eps2)
            if GRAD_G:
                a_s, a_e, a_t = teacher_pull(backward * con * w, backward * anc * w, 1.0 - d_ts, 1.0 - d_te, rs, re, rt,
                                             tt, eps2, DEAD_ZERO)
                pulled = s * a_s[:, None] + e * a_e[:, None] + t * a_t[:, None]
                store_as(GG + off, pulled * e * (bound * (1.0 - g * g)), mask)
                push = tl.where(d_ur <= margin, div * w_p, 0.0)
                a_s, a_e, a_t = teacher_pull(backward * (con * w_n - push), backward * anc * w_n, 1.0 - d_ur,
                                             1.0 - d_uf, rq, rf, ru, uu, eps2, DEAD_ZERO)
                pulled = r * a_s[:, None] + f * a_e[:, None] + u * a_t[:, None]
                store_as(GH + off, pulled * f * (bound * (1.0 - h * h)), mask)
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
                t = e * (1.0 + bound * tanh(load_wide(G + off, mask)))
                u = f * (1.0 + bound * tanh(load_wide(H + off, mask)))
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
                g = tanh(load_wide(G + off, mask))
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
                h = tanh(load_wide(H + off, mask))
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
    put(PART, stride, slot, d_tr, w, 0)
    put(PART, stride, slot, d_ts, w, 1)
    put(PART, stride, slot, d_ts, w, 2)
    put(PART, stride, slot, d_ur, w_n, 3)
    put(PART, stride, slot, tl.maximum(margin - d_ur, 0.0), w_p, 4)
    if ADAPT:
        put(PART, stride, slot, d_te, w, 5)
        put(PART, stride, slot, d_uf, w_n, 6)


@triton.jit
def objective_kernel(E, F, S, R, G, H, REGION, COUNTS, BETA, GS, GR, GG, GH, PART, stride, beta, scale, per_position,
                     fold_s, fold_g, f_bad, f_good, con, div, anc, bound, margin, eps2, HW, ROWS, CHANNELS, ENDS,
                     L: tl.constexpr, C: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
                     NHWC: tl.constexpr, EVEN_P: tl.constexpr, BETA_ON_DEVICE: tl.constexpr, ADAPT: tl.constexpr,
                     GRAD_S: tl.constexpr, GRAD_G: tl.constexpr, DEAD_ZERO: tl.constexpr):
    """All levels: program ids up to ENDS[k] belong to level k. Capitals with one entry a level are tuples."""
    pid = tl.program_id(0)
    if BETA_ON_DEVICE:
        beta = tl.load(BETA).to(tl.float32)
    start = 0
    for k in tl.static_range(L):
        if pid >= start and pid < ENDS[k]:
            objective_tile(E[k], F[k], S[k], R[k], G[k], H[k], REGION[k], COUNTS + 2 * k, GS[k], GR[k], GG[k], GH[k],
                           PART, stride, pid, pid - start, beta, scale[k], per_position[k], fold_s[k], fold_g[k],
                           f_bad, f_good, con, div, anc, bound, margin, eps2, HW[k], ROWS[k], CHANNELS[k], C[k],
                           BLOCK_C[k], BLOCK_P[k], NHWC[k], EVEN_P[k], ADAPT, GRAD_S, GRAD_G, DEAD_ZERO)
        start = ENDS[k]


@triton.jit
def combine_kernel(TERMS, OUT, BETA, beta, f_bad, f_good, con, div, anc, BETA_ON_DEVICE: tl.constexpr):
    """OUT = the loss, the seven terms, forward, backward, from the float64 terms."""
    if BETA_ON_DEVICE:
        beta = tl.load(BETA).to(tl.float32)
    for i in tl.static_range(7):
        tl.store(OUT + 1 + i, tl.load(TERMS + i).to(tl.float32))
    forward = f_bad * tl.load(TERMS) + f_good * tl.load(TERMS + 1)
    backward = con * (tl.load(TERMS + 2) + tl.load(TERMS + 3)) + div * tl.load(TERMS + 4)
    backward += anc * (tl.load(TERMS + 5) + tl.load(TERMS + 6))
    tl.store(OUT, ((1.0 - beta) * forward + beta * backward).to(tl.float32))
    tl.store(OUT + 8, forward.to(tl.float32))
    tl.store(OUT + 9, backward.to(tl.float32))
