"""Triton kernels of anomaly_map: all discrepancies in one launch, then the collapsed map with its score in another.

The first kernel reads the features once and writes the discrepancies of every level, some 1 % of those bytes. The
second computes each tile of the map as a sum (or product) over levels of A d B^T, where a tile needs a short window of
d only, and reduces the tile to its part of the score before it leaves the chip, or instead of leaving it.
No sum crosses a program, and the only atomic is a maximum, so the result is the same bits from run to run.
"""

from .lang import tl, triton

LOST = tl.constexpr(1024.0)  # a difference this many times smaller than what it is of has lost three of seven digits


@triton.jit
def _accumulate(t, s, tt, ss, ts, dd):
    e = t - s
    return tl.fma(t, t, tt), tl.fma(s, s, ss), tl.fma(t, s, ts), tl.fma(e, e, dd)


@triton.jit
def _pieces(T, S, p, k, LEVELS: tl.constexpr, l: tl.constexpr):
    """Channels k of the positions p of both sides in float32, 0 outside: (P, C) where both are channels_last, else (C, P)."""
    C: tl.constexpr = LEVELS[l][0]
    HW: tl.constexpr = LEVELS[l][1]
    T_LAST: tl.constexpr = LEVELS[l][4]
    S_LAST: tl.constexpr = LEVELS[l][5]
    EVEN: tl.constexpr = C % LEVELS[l][6] == 0 and HW % LEVELS[l][7] == 0
    if T_LAST and S_LAST:
        to = p[:, None] * C + k[None, :]
        so = to
        inside = (p < HW)[:, None] & (k < C)[None, :]
    else:
        to = p[None, :] * C + k[:, None] if T_LAST else k[:, None] * HW + p[None, :]
        so = p[None, :] * C + k[:, None] if S_LAST else k[:, None] * HW + p[None, :]
        inside = (k < C)[:, None] & (p < HW)[None, :]
    if EVEN:
        t = tl.load(T + to).to(tl.float32)
        s = tl.load(S + so).to(tl.float32)
    else:
        t = tl.load(T + to, mask=inside, other=0.0).to(tl.float32)
        s = tl.load(S + so, mask=inside, other=0.0).to(tl.float32)
    return t, s


@triton.jit
def _positions(T, S, b, block, LEVELS: tl.constexpr, l: tl.constexpr, EPS: tl.constexpr):
    """Discrepancy of BLOCK_P neighbouring positions of one image of one level; T and S may lie in different layouts.

    1 - cos = (|t - s|^2 - (|t| - |s|)^2) / (2 |t| |s|) has no cancellation where t and s nearly agree, and takes one walk. Where
    they agree but for their lengths it has, and the block is walked once more, out of a cache, with t - k s, k = |t| / |s|.
    """
    C: tl.constexpr = LEVELS[l][0]
    HW: tl.constexpr = LEVELS[l][1]
    BLOCK_C: tl.constexpr = LEVELS[l][6]
    BLOCK_P: tl.constexpr = LEVELS[l][7]
    p = block * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.arange(0, BLOCK_C)
    T += b.to(tl.int64) * (C * HW)
    S += b.to(tl.int64) * (C * HW)
    last: tl.constexpr = LEVELS[l][4] and LEVELS[l][5]
    axis: tl.constexpr = 1 if last else 0  # of the channels in a tile
    if last:
        tt = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    else:
        tt = tl.zeros([BLOCK_C, BLOCK_P], tl.float32)
    ss = tt
    ts = tt
    dd = tt
    for c0 in range(0, C, BLOCK_C):
        t, s = _pieces(T, S, p, c0 + c, LEVELS, l)
        tt, ss, ts, dd = _accumulate(t, s, tt, ss, ts, dd)
    tt = tl.sum(tt, axis)
    ss = tl.sum(ss, axis)
    ts = tl.sum(ts, axis)
    dd = tl.sum(dd, axis)
    eps2: tl.constexpr = EPS * EPS
    nt = tl.sqrt(tt)
    ns = tl.sqrt(ss)
    radial = nt - ns
    live = (tt > eps2) & (ss > eps2)
    twice = dd - radial * radial
    d = 0.5 * twice / tl.where(live, nt * ns, 1.0)
    if tl.max((live & (LOST * twice < dd)).to(tl.int32), 0) > 0:
        k = tl.where(live, nt, 1.0) / tl.where(live, ns, 1.0)
        FEWER: tl.constexpr = BLOCK_C // 4 if BLOCK_C > 4 else 1  # channels at a time, for the registers of the first walk to do
        few = tl.arange(0, FEWER)
        if last:
            k = k[:, None]
            ee = tl.zeros([BLOCK_P, FEWER], tl.float32)
        else:
            k = k[None, :]
            ee = tl.zeros([FEWER, BLOCK_P], tl.float32)
        for c0 in range(0, C, FEWER):
            t, s = _pieces(T, S, p, c0 + few, LEVELS, l)
            e = t - k * s
            ee = tl.fma(e, e, ee)
        d = 0.5 * tl.sum(ee, axis) / tl.where(live, tt, 1.0)
    clamped = 1.0 - ts * tl.rsqrt(tl.where(tt > eps2, tt, eps2)) * tl.rsqrt(tl.where(ss > eps2, ss, eps2))
    dead = (tt <= eps2) | (ss <= eps2)  # a NaN is neither live nor dead and takes the accurate branch, which keeps it
    return tl.where(dead, clamped, d), p


@triton.jit
def _level(T, S, OUT, BATCH, pid, LEVELS: tl.constexpr, l: tl.constexpr, TOTAL: tl.constexpr, EPS: tl.constexpr):
    COUNT: tl.constexpr = (LEVELS[l][1] + LEVELS[l][7] - 1) // LEVELS[l][7]
    pid -= BATCH * LEVELS[l][3]
    if (pid >= 0) & (pid < BATCH * COUNT):
        b = pid // COUNT
        d, p = _positions(T, S, b, pid % COUNT, LEVELS, l, EPS)
        tl.store(OUT + b.to(tl.int64) * TOTAL + LEVELS[l][2] + p, d, mask=p < LEVELS[l][1])


@triton.jit(do_not_specialize=["BATCH"])
def discrepancy_kernel(
    TEACHER, STUDENT, OUT, SCORE, BATCH, LEVELS: tl.constexpr, TOTAL: tl.constexpr, START_SCORE: tl.constexpr,
    EPS: tl.constexpr,
):
    """OUT (BATCH, TOTAL) float32: the discrepancies of all levels of an image one after the other.

    LEVELS holds (C, HW, offset in OUT, blocks before this level for each image, teacher channels_last, student
    channels_last, BLOCK_C, BLOCK_P). START_SCORE sets SCORE (B,) to -inf for the atomic maximum that follows.
    """
    pid = tl.program_id(0)
    if START_SCORE and pid < BATCH:
        tl.store(SCORE + pid, -float("inf"))
    for l in tl.static_range(len(LEVELS)):
        _level(TEACHER[l], STUDENT[l], OUT, BATCH, pid, LEVELS, l, TOTAL, EPS)


@triton.jit
def _nan_max(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _window(D, STARTS, rb, cb, LEVELS: tl.constexpr, l: tl.constexpr):
    """The discrepancies of level l that a tile touches, where that is one window."""
    h: tl.constexpr = LEVELS[l][0]
    w: tl.constexpr = LEVELS[l][1]
    i = tl.load(STARTS + LEVELS[l][7] + rb) + tl.arange(0, LEVELS[l][3])
    j = tl.load(STARTS + LEVELS[l][8] + cb) + tl.arange(0, LEVELS[l][4])
    return tl.load(D + LEVELS[l][2] + (i % h)[:, None] * w + (j % w)[None, :])


@triton.jit
def _level_tile(first, D, ROWS, COLUMNS, STARTS, rb, cb, LEVELS: tl.constexpr, l: tl.constexpr, BM: tl.constexpr,
                BN: tl.constexpr, CHUNK: tl.constexpr, PRECISION: tl.constexpr, AHEAD: tl.constexpr):
    """One tile (BM, BN) of A d B^T from the windows of A and B that the tile touches; AHEAD: first is the only window of d."""
    h: tl.constexpr = LEVELS[l][0]
    w: tl.constexpr = LEVELS[l][1]
    KH: tl.constexpr = LEVELS[l][3]
    KW: tl.constexpr = LEVELS[l][4]
    CH: tl.constexpr = KH if KH < CHUNK else CHUNK
    CW: tl.constexpr = KW if KW < CHUNK else CHUNK
    m = tl.arange(0, BM)
    n = tl.arange(0, BN)
    tile = tl.zeros([BM, BN], tl.float32)
    if AHEAD:
        a = tl.load(ROWS + LEVELS[l][5] + (rb * BM + m)[:, None] * KH + tl.arange(0, CH)[None, :])
        half = tl.dot(a, first, tl.zeros([BM, CW], tl.float32), input_precision=PRECISION)
        b = tl.load(COLUMNS + LEVELS[l][6] + (cb * KW + tl.arange(0, CW))[:, None] * BN + n[None, :])
        tile = tl.dot(half, b, tile, input_precision=PRECISION)
    else:
        row0 = tl.load(STARTS + LEVELS[l][7] + rb)
        column0 = tl.load(STARTS + LEVELS[l][8] + cb)
        for j0 in range(0, KW, CW):
            j = j0 + tl.arange(0, CW)
            half = tl.zeros([BM, CW], tl.float32)
            for i0 in range(0, KH, CH):
                i = i0 + tl.arange(0, CH)
                a = tl.load(ROWS + LEVELS[l][5] + (rb * BM + m)[:, None] * KH + i[None, :])
                # _window's lines again: called from this loop it costs the largest kernels registers that they do not have
                d = tl.load(D + LEVELS[l][2] + ((row0 + i) % h)[:, None] * w + ((column0 + j) % w)[None, :])
                half = tl.dot(a, d, half, input_precision=PRECISION)
            b = tl.load(COLUMNS + LEVELS[l][6] + (cb * KW + j)[:, None] * BN + n[None, :])
            tile = tl.dot(half, b, tile, input_precision=PRECISION)
    return tile


@triton.jit
def _ordered(x):
    """float32 -> int32 of the same order, every NaN above +inf (as torch.topk has it); its own inverse but for NaN."""
    bits = tl.where(x != x, 0x7FC00000, x.to(tl.int32, bitcast=True))
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def map_kernel(
    D, ROWS, COLUMNS, STARTS, OUT, SCORE, LEVELS: tl.constexpr, TOTAL: tl.constexpr, H: tl.constexpr, W: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, CHUNK: tl.constexpr, PRODUCT: tl.constexpr, WRITE: tl.constexpr,
    KEEP: tl.constexpr, PRECISION: tl.constexpr, AHEAD: tl.constexpr,
):
    """OUT (B, H, W) and the score of D (B, TOTAL).

    LEVELS holds (h, w, offset in D, K of the rows, K of the columns, offset in ROWS, in COLUMNS, of the row starts, of
    the column starts, exponent). KEEP = 0: SCORE (B,) by atomic maximum. KEEP > 0, a power of two: SCORE
    (B, tiles, KEEP) receives the KEEP highest values of each tile in falling order. KEEP < 0: no score.
    AHEAD: every level has one window for a tile, and all are asked for together: one wait for memory instead of one a level.
    """
    ROW_BLOCKS: tl.constexpr = (H + BM - 1) // BM
    COLUMN_BLOCKS: tl.constexpr = (W + BN - 1) // BN
    pid = tl.program_id(0)
    b = pid // (ROW_BLOCKS * COLUMN_BLOCKS)
    rb = pid // COLUMN_BLOCKS % ROW_BLOCKS
    cb = pid % COLUMN_BLOCKS
    D += b.to(tl.int64) * TOTAL
    if PRODUCT:
        tile = tl.full([BM, BN], 1.0, tl.float32)
    else:
        tile = tl.zeros([BM, BN], tl.float32)
    windows = ()
    if AHEAD:
        for l in tl.static_range(len(LEVELS)):
            windows = windows + (_window(D, STARTS, rb, cb, LEVELS, l),)  # type: ignore[assignment]
    for l in tl.static_range(len(LEVELS)):
        if AHEAD:
            part = _level_tile(windows[l], D, ROWS, COLUMNS, STARTS, rb, cb, LEVELS, l, BM, BN, CHUNK, PRECISION, True)
        else:
            part = _level_tile(0, D, ROWS, COLUMNS, STARTS, rb, cb, LEVELS, l, BM, BN, CHUNK, PRECISION, False)
        if PRODUCT:
            if LEVELS[l][9] != 1.0:
                part = tl.exp2(LEVELS[l][9] * tl.log2(tl.where(part < 0.0, 0.0, part)))
            tile *= part
        else:
            tile += part
    r = rb * BM + tl.arange(0, BM)
    c = cb * BN + tl.arange(0, BN)
    inside = (r < H)[:, None] & (c < W)[None, :]
    if WRITE:
        tl.store(OUT + b.to(tl.int64) * (H * W) + r[:, None] * W + c[None, :], tile, mask=inside)
    tile = tl.where(inside, tile, -float("inf"))
    if KEEP == 0:
        top = tl.reduce(tl.reduce(tile, 1, _nan_max), 0, _nan_max)
        tl.atomic_max(SCORE + b, tl.where(top != top, float("nan"), top), sem="relaxed")
    elif KEEP > 0:
        keys = tl.topk(tl.reshape(_ordered(tile), [BM * BN]), KEEP)
        keys = tl.where(keys < 0, keys ^ 0x7FFFFFFF, keys)
        tl.store(SCORE + pid.to(tl.int64) * KEEP + tl.arange(0, KEEP), keys.to(tl.float32, bitcast=True))
