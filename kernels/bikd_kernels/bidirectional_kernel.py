"""Triton kernels of the whole bidirectional objective: all levels of a layout in one launch, and the loss from its terms."""

from .bidirectional_tile import objective_tile, six
from .lang import tl, triton


@triton.jit
def objective_level(E, F, S, R, G, H, REGION, COUNTS, GS, GR, GG, GH, PART, stride, slot, beta, scale, per_position,
                    fold_s, fold_g, f_bad, f_good, con, div, anc, bound, margin, eps2, HW, ROWS, CHANNELS, C: tl.constexpr,
                    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, TILES: tl.constexpr, NHWC: tl.constexpr,
                    EVEN_P: tl.constexpr, ADAPT: tl.constexpr, GRAD_S: tl.constexpr, GRAD_G: tl.constexpr,
                    DEAD_ZERO: tl.constexpr, PTX: tl.constexpr):
    """TILES tiles of one level, from slot * TILES on; their share of each term goes to PART, a stride apart."""
    bad = tl.zeros([BLOCK_P], tl.float32)
    good = bad
    at_n = bad
    at_p = bad
    anchor = bad
    anchor_n = bad
    STAGES: tl.constexpr = 2 if TILES > 1 else 1  # the next tile's loads travel while this one is computed
    for i in tl.range(TILES, num_stages=STAGES):
        v = objective_tile(E, F, S, R, G, H, REGION, COUNTS, GS, GR, GG, GH, slot * TILES + i, beta, scale, per_position,
                           fold_s, fold_g, f_bad, f_good, con, div, anc, bound, margin, eps2, HW, ROWS, CHANNELS, C,
                           BLOCK_C, BLOCK_P, NHWC, EVEN_P, ADAPT, GRAD_S, GRAD_G, DEAD_ZERO, PTX)
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
                     fold_s, fold_g, f_bad, f_good, con, div, anc, bound, margin, eps2, HW, ROWS, CHANNELS, ENDS,
                     L: tl.constexpr, C: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, TILES: tl.constexpr,
                     NHWC: tl.constexpr, EVEN_P: tl.constexpr, BETA_ON_DEVICE: tl.constexpr, ADAPT: tl.constexpr,
                     GRAD_S: tl.constexpr, GRAD_G: tl.constexpr, DEAD_ZERO: tl.constexpr, PTX: tl.constexpr):
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
                            f_good, con, div, anc, bound, margin, eps2, HW[k], ROWS[k], CHANNELS[k], C[k], BLOCK_C[k],
                            BLOCK_P[k], TILES[k], NHWC[k], EVEN_P[k], ADAPT, GRAD_S, GRAD_G, DEAD_ZERO, PTX)
        start = ENDS[k]


@triton.jit
def combine_kernel(TERMS, LOSS, OUT, BETA, beta, f_bad, f_good, con, div, anc, BETA_ON_DEVICE: tl.constexpr):
    """LOSS, and OUT = the seven terms, forward, backward, from the float64 terms."""
    if BETA_ON_DEVICE:
        beta = tl.load(BETA).to(tl.float32)
    for i in tl.static_range(7):
        tl.store(OUT + i, tl.load(TERMS + i).to(tl.float32))
    forward = f_bad * tl.load(TERMS) + f_good * tl.load(TERMS + 1)
    backward = con * (tl.load(TERMS + 2) + tl.load(TERMS + 3)) + div * tl.load(TERMS + 4)
    backward += anc * (tl.load(TERMS + 5) + tl.load(TERMS + 6))
    tl.store(LOSS, ((1.0 - beta) * forward + beta * backward).to(tl.float32))
    tl.store(OUT + 7, forward.to(tl.float32))
    tl.store(OUT + 8, backward.to(tl.float32))
