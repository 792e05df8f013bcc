"""The fused pair on NCHW maps, in words of 4 bytes: a lane holds one word of 32 neighbouring ones, all its channels with it.

Loaded 16 bytes a thread, as channels_last is, a tile of NCHW has its positions eight to a thread: sums over channels then cross
lanes and warps, and what warps exchange meets in one bank of shared memory (on an H200 that, not the bandwidth, was the limit: 43 %
of a copy). Here a warp's load is 128 neighbouring bytes of one channel, channels are summed within a thread, and warps exchange
neighbouring words. A word of a 16-bit type is two positions.
"""

from .bidirectional_tile import six
from .cosine_kernel import missing_norm, pull, rnorm
from .lang import tl, triton


@triton.jit
def low(x, E: tl.constexpr):
    """The first position of a word (int32), in float32."""
    return x.to(tl.int16).to(E, bitcast=True).to(tl.float32)


@triton.jit
def high(x, E: tl.constexpr):
    """The second."""
    return (x >> 16).to(tl.int16).to(E, bitcast=True).to(tl.float32)


@triton.jit
def bits(x, E: tl.constexpr):
    """float32 -> the 16 bits of E, in int32; float16 saturates."""
    if tl.float16 == E:
        x = tl.minimum(tl.maximum(x, -65504.0), 65504.0)
    return x.to(E).to(tl.uint16, bitcast=True).to(tl.int32)


@triton.jit
def position(tt, ss, ts, w, eps2, DEAD_ZERO: tl.constexpr):
    """(rt, rs, a_s, b_s, a_t, b_t) of positions with these sums: the norms' reciprocals, gradients a t + b s and a s + b t."""
    rt = rnorm(tt, eps2)
    rs = rnorm(ss, eps2)
    c = ts * (rt * rs)
    a_s, b_s = pull(w, c, rt, rs, ss, eps2, DEAD_ZERO)
    a_t, b_t = pull(w, c, rs, rt, tt, eps2, DEAD_ZERO)
    return rt, rs, a_s, b_s, a_t, b_t


@triton.jit
def apart(t, s, rt, rs):
    """(t^ - s^)^2 of a tile."""
    e = t * rt[:, None] - s * rs[:, None]
    return e * e


@triton.jit
def distance(squares, tt, ss, rt, rs, eps2):
    """1 - cos from the sum of (t^ - s^)^2."""
    return 0.5 * squares + missing_norm(tt, rt, eps2) + missing_norm(ss, rs, eps2)


@triton.jit
def fetch(T, S, rows, q, c, row, zero, C: tl.constexpr, EVEN_C: tl.constexpr):
    """Words of T and S at channels c, and the offsets and the mask that they were loaded with."""
    off = zero + q[:, None] + c[None, :] * row
    channels = c >= 0 if EVEN_C else c < C
    mask = rows[:, None] & channels[None, :]
    return tl.load(T + off, mask=mask, other=0), tl.load(S + off, mask=mask, other=0), off, mask


@triton.jit
def products(x, y, E: tl.constexpr, PAIRED: tl.constexpr):
    """t^2, s^2 and t s of the first positions, and of the second ones (where there are none, the first again)."""
    if PAIRED:
        t = low(x, E)
        s = low(y, E)
        t2 = high(x, E)
        s2 = high(y, E)
    else:
        t = x
        s = y
        t2 = x
        s2 = y
    return t * t, s * s, t * s, t2 * t2, s2 * s2, t2 * s2


@triton.jit
def gradient(t, s, t2, s2, a, b, a2, b2, E: tl.constexpr, PAIRED: tl.constexpr):
    """Words of a t + b s."""
    g = t * a[:, None] + s * b[:, None]
    if PAIRED:
        g = bits(g, E) | (bits(t2 * a2[:, None] + s2 * b2[:, None], E) << 16)
    return g


@triton.jit
def write(x, y, GT, GS, off, mask, first, second, E: tl.constexpr, PAIRED: tl.constexpr, GRAD_T: tl.constexpr,
          GRAD_S: tl.constexpr):
    """Store the gradients of these words; (t^ - s^)^2 of their first and second positions. first, second: from position()."""
    if PAIRED:
        t = low(x, E)
        s = low(y, E)
        t2 = high(x, E)
        s2 = high(y, E)
    else:
        t = x
        s = y
        t2 = x
        s2 = y
    if GRAD_S:
        tl.store(GS + off, gradient(t, s, t2, s2, first[2], first[3], second[2], second[3], E, PAIRED), mask=mask)
    if GRAD_T:
        tl.store(GT + off, gradient(s, t, s2, t2, first[4], first[5], second[4], second[5], E, PAIRED), mask=mask)
    return apart(t, s, first[0], first[1]), apart(t2, s2, second[0], second[1])


@triton.jit
def words_tile(T, S, W, GT, GS, pid, zero, scale, fold, eps2, HW, CHANNELS, C: tl.constexpr, BLOCK_C: tl.constexpr,
               BLOCK_P: tl.constexpr, EVEN_P: tl.constexpr, GRAD_T: tl.constexpr, GRAD_S: tl.constexpr, HAS_W: tl.constexpr,
               DEAD_ZERO: tl.constexpr):
    """One tile of one level, BLOCK_P positions (HW even for 16-bit types): writes the gradients, returns shares of the loss.

    zero: the number 0, which the compiler must not know: offsets that may be odd keep it from loading 16 bytes a thread.
    """
    E: tl.constexpr = T.dtype.element_ty
    PAIRED: tl.constexpr = E.primitive_bitwidth == 16
    N: tl.constexpr = 2 if PAIRED else 1
    WORD: tl.constexpr = tl.int32 if PAIRED else tl.float32
    blocks = tl.cdiv(HW, BLOCK_P)
    image = pid // blocks
    p0 = (pid % blocks) * BLOCK_P
    base = image.to(tl.int64) * (C * HW) + p0
    q = tl.arange(0, BLOCK_P // N)
    inside = N * q < HW - p0
    w = tl.where(inside, scale, 0.0)
    v = w
    if HAS_W:
        at = W + image * HW + p0 + N * q
        w = w * tl.load(at, mask=inside, other=0.0).to(tl.float32)
        if PAIRED:
            v = v * tl.load(at + 1, mask=inside, other=0.0).to(tl.float32)
    T = (T + base).to(tl.pointer_type(WORD))
    S = (S + base).to(tl.pointer_type(WORD))
    GT = (GT + base).to(tl.pointer_type(WORD))
    GS = (GS + base).to(tl.pointer_type(WORD))
    row = HW // N
    c = tl.arange(0, BLOCK_C)
    rows = q >= 0 if EVEN_P else inside
    if BLOCK_C >= C:  # resident: words stay in registers from the load to the gradient store
        x, y, off, mask = fetch(T, S, rows, q, c, row, zero, C, BLOCK_C == C)
        tt, ss, ts, tt2, ss2, ts2 = tl.reduce(products(x, y, E, PAIRED), 1, six)
        first = position(tt, ss, ts, w * fold, eps2, DEAD_ZERO)
        second = position(tt2, ss2, ts2, v * fold, eps2, DEAD_ZERO)
        d, d2 = write(x, y, GT, GS, off, mask, first, second, E, PAIRED, GRAD_T, GRAD_S)
    else:  # looped: read twice, the second time from cache
        EVEN_C: tl.constexpr = C % BLOCK_C == 0
        a_tt = tl.zeros([BLOCK_P // N, BLOCK_C], tl.float32)
        a_ss = a_tt
        a_ts = a_tt
        b_tt = a_tt
        b_ss = a_tt
        b_ts = a_tt
        for c0 in range(0, CHANNELS, BLOCK_C):
            x, y, off, mask = fetch(T, S, rows, q, c0 + c, row, zero, C, EVEN_C)
            p = products(x, y, E, PAIRED)
            a_tt += p[0]
            a_ss += p[1]
            a_ts += p[2]
            b_tt += p[3]
            b_ss += p[4]
            b_ts += p[5]
        tt, ss, ts, tt2, ss2, ts2 = tl.reduce((a_tt, a_ss, a_ts, b_tt, b_ss, b_ts), 1, six)
        first = position(tt, ss, ts, w * fold, eps2, DEAD_ZERO)
        second = position(tt2, ss2, ts2, v * fold, eps2, DEAD_ZERO)
        d = tl.zeros([BLOCK_P // N, BLOCK_C], tl.float32)
        d2 = d
        for c0 in range(0, CHANNELS, BLOCK_C):
            x, y, off, mask = fetch(T, S, rows, q, c0 + c, row, zero, C, EVEN_C)
            e, e2 = write(x, y, GT, GS, off, mask, first, second, E, PAIRED, GRAD_T, GRAD_S)
            d += e
            d2 += e2
    share = distance(tl.sum(d, axis=1), tt, ss, first[0], first[1], eps2) * w
    if PAIRED:
        share += distance(tl.sum(d2, axis=1), tt2, ss2, second[0], second[1], eps2) * v
    return share


@triton.jit(do_not_specialize=["zero"])
def words_kernel(T, S, W, INVERSE, GT, GS, PART, zero, scale, fold, eps2, HW, CHANNELS, ENDS, L: tl.constexpr, C: tl.constexpr,
                 BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, EVEN_P: tl.constexpr, GRAD_T: tl.constexpr,
                 GRAD_S: tl.constexpr, HAS_W: tl.constexpr, DEAD_ZERO: tl.constexpr):
    """All levels, as pair_kernel: program ids up to ENDS[k] belong to level k."""
    pid = tl.program_id(0)
    start = 0
    for k in tl.static_range(L):
        if pid >= start and pid < ENDS[k]:
            weight = scale[k]
            if HAS_W:
                weight = weight * tl.load(INVERSE + k)
            share = words_tile(T[k], S[k], W[k], GT[k], GS[k], pid - start, zero, weight, fold[k], eps2, HW[k], CHANNELS[k],
                               C[k], BLOCK_C[k], BLOCK_P[k], EVEN_P[k], GRAD_T, GRAD_S, HAS_W, DEAD_ZERO)
            tl.store(PART + pid, tl.sum(share, axis=0))
        start = ENDS[k]
