"""Triton kernels of the whole bidirectional objective: all levels of a layout in one launch, and the loss from its terms."""

from .bidirectional_loop import objective_loop
from .bidirectional_tile import load_tile, objective_tile, six
from .cosine_kernel import offsets, place, tile_mask
from .lang import tl, triton


@triton.jit
def balance(beta, peak):
    """What the forward and the backward direction weigh: 1 - beta and beta, with `peak` over the larger of them."""
    larger = tl.where(peak > 0, tl.maximum(beta, 1.0 - beta), 1.0)
    return (1.0 - beta) / larger, beta / larger


@triton.jit
def region_weights(COUNTS, scale):
    """Weights of an N and of a P position in the mean over its kind; an empty kind weighs nothing."""
    n = tl.load(COUNTS).to(tl.float32)
    q = tl.load(COUNTS + 1).to(tl.float32)
    return tl.where(n > 0, scale / tl.where(n > 0, n, 1.0), 0.0), tl.where(q > 0, scale / tl.where(q > 0, q, 1.0), 0.0)


@triton.jit
def position_weights(REGION, first, limit, per_position, each_n, each_p, BLOCK_P: tl.constexpr):
    """(BLOCK_P,) three times: a position's weight in a mean over all, over N and over P."""
    p = tl.arange(0, BLOCK_P)
    inside = p < limit
    region = tl.load(REGION + first + p, mask=inside, other=1)
    return tl.where(inside, per_position, 0.0), tl.where(region == 0, each_n, 0.0), tl.where(region == 2, each_p, 0.0)


@triton.jit
def objective_level(E, F, S, R, G, H, REGION, COUNTS, GS, GR, GG, GH, PART, stride, slot, beta, scale, per_position,
                    fold_s, fold_g, f_bad, f_good, con, div, anc, peak, bound, margin, eps2, HW, ROWS, CHANNELS, C: tl.constexpr,
                    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, TILES: tl.constexpr, PARTS: tl.constexpr,
                    NHWC: tl.constexpr, EVEN_P: tl.constexpr, ADAPT: tl.constexpr, GRAD_S: tl.constexpr, GRAD_G: tl.constexpr,
                    DEAD_ZERO: tl.constexpr, PTX: tl.constexpr):
    """TILES tiles of one level, from slot * TILES on; their share of each term goes to PART, a stride apart."""
    each_n, each_p = region_weights(COUNTS, scale)
    ahead, back = balance(beta, peak)
    forward_bad = ahead * fold_s * f_bad
    forward_good = ahead * fold_s * f_good
    deep = back * fold_g * bound
    bad = tl.zeros([BLOCK_P], tl.float32)
    good = bad
    at_n = bad
    at_p = bad
    anchor = bad
    anchor_n = bad
    STAGES: tl.constexpr = 2 if TILES > 1 else 1  # the next tile's loads travel while this one is computed
    WIDTH: tl.constexpr = BLOCK_C // PARTS
    p = tl.arange(0, BLOCK_P)
    c = tl.arange(0, WIDTH)
    for i in tl.range(TILES, num_stages=STAGES):
        base, first, limit = place(slot * TILES + i, HW, ROWS, BLOCK_P, C, NHWC)
        w, w_n, w_p = position_weights(REGION, first, limit, per_position, each_n, each_p, BLOCK_P)
        if BLOCK_C >= C:
            off = offsets(p, c, HW, C, NHWC)
            mask = tile_mask(p, c, limit, C, EVEN_P, BLOCK_C == C)
            second = tile_mask(p, c + WIDTH, limit, C, EVEN_P, BLOCK_C == C)
            e = load_tile(E + base + off, mask, second, WIDTH, PARTS, PTX)
            f = load_tile(F + base + off, mask, second, WIDTH, PARTS, PTX)
            s = load_tile(S + base + off, mask, second, WIDTH, PARTS, PTX)
            r = load_tile(R + base + off, mask, second, WIDTH, PARTS, PTX)
            g = e
            h = f
            if ADAPT:
                g = load_tile(G + base + off, mask, second, WIDTH, PARTS, PTX)
                h = load_tile(H + base + off, mask, second, WIDTH, PARTS, PTX)
            v = objective_tile(e, f, s, r, g, h, w, w_n, w_p, GS + base + off, GR + base + off, GG + base + off,
                               GH + base + off, mask, second, forward_bad, forward_good, deep * con, deep * div, deep * anc,
                               bound, margin, eps2, ADAPT, GRAD_S, GRAD_G, DEAD_ZERO, WIDTH, PARTS, PTX)
        else:
            v = objective_loop(E + base, F + base, S + base, R + base, G + base, H + base, w, w_n, w_p, GS + base, GR + base,
                               GG + base, GH + base, limit, forward_bad, forward_good, deep * con, deep * div, deep * anc,
                               bound, margin, eps2, HW, CHANNELS, C, BLOCK_C, BLOCK_P, NHWC, EVEN_P, ADAPT, GRAD_S, GRAD_G,
                               DEAD_ZERO, PTX)
        bad += v[0]
        good += v[1]
        at_n += v[2]
        at_p += v[3]
        anchor += v[4]
        anchor_n += v[5]
    v = tl.reduce((bad, good, at_n, at_p, anchor, anchor_n), 0, six)
    tl.store(PART, v[0])
    tl.store(PART + stride, v[1])
    tl.store(PART + 2 * stride, v[1])
    tl.store(PART + 3 * stride, v[2])
    tl.store(PART + 4 * stride, v[3])
    if ADAPT:
        tl.store(PART + 5 * stride, v[4])
        tl.store(PART + 6 * stride, v[5])


@triton.jit
def objective_kernel(E, F, S, R, G, H, REGION, COUNTS, BETA, GS, GR, GG, GH, PART, stride, beta, scale, per_position,
                     fold_s, fold_g, f_bad, f_good, con, div, anc, peak, bound, margin, eps2, HW, ROWS, CHANNELS, ENDS,
                     L: tl.constexpr, C: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, TILES: tl.constexpr,
                     PARTS: tl.constexpr, NHWC: tl.constexpr, EVEN_P: tl.constexpr,
                     BETA_ON_DEVICE: tl.constexpr, ADAPT: tl.constexpr, GRAD_S: tl.constexpr, GRAD_G: tl.constexpr,
                     DEAD_ZERO: tl.constexpr, PTX: tl.constexpr):
    """All levels: program ids up to ENDS[k] belong to level k and take TILES[k] tiles each. Capitals with one entry a level are
    tuples."""
    pid = tl.program_id(0)
    if BETA_ON_DEVICE:
        beta = tl.load(BETA).to(tl.float32)
    start = 0
    for k in tl.static_range(L):
        if pid >= start and pid < ENDS[k]:
            objective_level(E[k], F[k], S[k], R[k], G[k], H[k], REGION[k], COUNTS + 2 * k, GS[k], GR[k], GG[k], GH[k],
                            PART + pid, stride, pid - start, beta, scale[k], per_position[k], fold_s[k], fold_g[k], f_bad,
                            f_good, con, div, anc, peak, bound, margin, eps2, HW[k], ROWS[k], CHANNELS[k], C[k], BLOCK_C[k],
                            BLOCK_P[k], TILES[k], PARTS[k], NHWC[k], EVEN_P[k], ADAPT, GRAD_S, GRAD_G, DEAD_ZERO, PTX)
        start = ENDS[k]


@triton.jit
def combine_kernel(TERMS, LOSS, OUT, BETA, beta, f_bad, f_good, con, div, anc, peak, BETA_ON_DEVICE: tl.constexpr):
    """LOSS, and OUT = the seven terms, forward, backward, from the float64 terms."""
    if BETA_ON_DEVICE:
        beta = tl.load(BETA).to(tl.float32)
    for i in tl.static_range(7):
        tl.store(OUT + i, tl.load(TERMS + i).to(tl.float32))
    forward = f_bad * tl.load(TERMS) + f_good * tl.load(TERMS + 1)
    backward = con * (tl.load(TERMS + 2) + tl.load(TERMS + 3)) + div * tl.load(TERMS + 4)
    backward += anc * (tl.load(TERMS + 5) + tl.load(TERMS + 6))
    ahead, back = balance(beta, peak)
    tl.store(LOSS, (ahead * forward + back * backward).to(tl.float32))
    tl.store(OUT + 7, forward.to(tl.float32))
    tl.store(OUT + 8, backward.to(tl.float32))
