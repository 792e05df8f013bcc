"""Triton kernels of the fused pair: loss and gradient of the multi-scale cosine discrepancy in one pass, one launch.

Notation, for one position with vectors t and s over the C channels: rt = 1 / max(|t|, eps), t^ = rt t, likewise s;
c = <t^, s^>, d = 1 - c. A tile holds P positions x C channels, [P, C] in either memory layout; the compiler orders the
threads along whichever axis is contiguous.
"""

from .lang import tl, triton


@triton.jit
def rnorm(squared, eps2):
    """1 / max(norm, eps) from the squared norm."""
    return tl.rsqrt(tl.maximum(squared, eps2))


@triton.jit
def store_as(pointer, value, mask):
    """Store in the pointer's type; float16 saturates instead of overflowing."""
    if pointer.dtype.element_ty == tl.float16:
        value = tl.minimum(tl.maximum(value, -65504.0), 65504.0)
    tl.store(pointer, value.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def missing_norm(squared, eps2):
    """1/2 (1 - |u^|^2) where |u| <= eps, else 0: makes 1/2 |t^ - s^|^2 equal 1 - c at dead positions too."""
    return tl.maximum(0.5 - (0.5 / eps2) * squared, 0.0)


@triton.jit
def live(r, squared, eps2):
    """r = 1 / max(norm, eps) where norm > eps, else 0."""
    return tl.where(squared > eps2, r, 0.0)


@triton.jit
def pull(weight, c, rt, rs, alive, DEAD_ZERO: tl.constexpr):
    """(a, b) such that weight * dd/ds = a t + b s. alive = live(rs, ...): the projection term vanishes where |s| <= eps."""
    k = weight * (alive if DEAD_ZERO else rs)
    return -k * rt, k * c * alive


@triton.jit
def place(pid, HW, ROWS, BLOCK_P: tl.constexpr, C: tl.constexpr, NHWC: tl.constexpr):
    """(base, first, limit): where tile pid starts in memory and among the positions, and how many positions follow.

    int64 for the start of an image or of a block of rows; everything inside fits in int32.
    """
    if NHWC:
        first = pid * BLOCK_P
        return first.to(tl.int64) * C, first, ROWS - first
    blocks = tl.cdiv(HW, BLOCK_P)
    image = pid // blocks
    p0 = (pid % blocks) * BLOCK_P
    return image.to(tl.int64) * (C * HW) + p0, image * HW + p0, HW - p0


@triton.jit
def offsets(p, c, HW, C: tl.constexpr, NHWC: tl.constexpr):
    """Offsets of a [P, C] tile inside its image (NCHW) or block of rows (channels_last)."""
    if NHWC:
        return p[:, None] * C + c[None, :]
    return p[:, None] + c[None, :] * HW


@triton.jit
def tile_mask(p, c, limit, C: tl.constexpr, EVEN_P: tl.constexpr, EVEN_C: tl.constexpr):
    """Mask of a [P, C] tile; an axis that is always full gets a test the compiler knows to be true and drops."""
    rows = p >= 0 if EVEN_P else p < limit
    channels = c >= 0 if EVEN_C else c < C
    return rows[:, None] & channels[None, :]


@triton.jit
def load_wide(pointer, mask):
    """Load in float32; masked elements are 0."""
    return tl.load(pointer, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def two(a, b, v, w):
    """Sums of a reduction over two values at once: what warps exchange through memory they exchange once."""
    return a + v, b + w


@triton.jit
def three(a, b, c, v, w, x):
    """As two, over three."""
    return a + v, b + w, c + x


@triton.jit
def pair_tile(T, S, W, GT, GS, pid, scale, fold, eps2, HW, ROWS, CHANNELS, C: tl.constexpr, BLOCK_C: tl.constexpr,
              BLOCK_P: tl.constexpr, NHWC: tl.constexpr, EVEN_P: tl.constexpr, GRAD_T: tl.constexpr,
              GRAD_S: tl.constexpr, HAS_W: tl.constexpr, DEAD_ZERO: tl.constexpr):
    """One tile of one level: writes the gradients, returns its share of the loss."""
    base, first, limit = place(pid, HW, ROWS, BLOCK_P, C, NHWC)
    p = tl.arange(0, BLOCK_P)
    c = tl.arange(0, BLOCK_C)
    inside = p < limit
    w = tl.where(inside, scale, 0.0)
    if HAS_W:
        w = w * tl.load(W + first + p, mask=inside, other=0.0).to(tl.float32)
    T += base
    S += base
    GT += base
    GS += base
    if BLOCK_C >= C:  # resident: the tile stays in registers from the load to the gradient store
        EVEN_C: tl.constexpr = BLOCK_C == C
        off = offsets(p, c, HW, C, NHWC)
        mask = tile_mask(p, c, limit, C, EVEN_P, EVEN_C)
        t = load_wide(T + off, mask)
        s = load_wide(S + off, mask)
        tt, ss = tl.reduce((t * t, s * s), 1, two)
        rt = rnorm(tt, eps2)
        rs = rnorm(ss, eps2)
        e = t * rt[:, None] - s * rs[:, None]
        d = 0.5 * tl.sum(e * e, axis=1) + (missing_norm(tt, eps2) + missing_norm(ss, eps2))
        cos = 1.0 - d
        if GRAD_S:
            a, b = pull(w * fold, cos, rt, rs, live(rs, ss, eps2), DEAD_ZERO)
            store_as(GS + off, t * a[:, None] + s * b[:, None], mask)
        if GRAD_T:
            a, b = pull(w * fold, cos, rs, rt, live(rt, tt, eps2), DEAD_ZERO)
            store_as(GT + off, s * a[:, None] + t * b[:, None], mask)
    else:  # looped: T and S are read twice, the second time from cache
        EVEN_CH: tl.constexpr = C % BLOCK_C == 0
        a_tt = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
        a_ss = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
        a_ts = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
        for c0 in range(0, CHANNELS, BLOCK_C):
            off = offsets(p, c0 + c, HW, C, NHWC)
            mask = tile_mask(p, c0 + c, limit, C, EVEN_P, EVEN_CH)
            t = load_wide(T + off, mask)
            s = load_wide(S + off, mask)
            a_tt += t * t
            a_ss += s * s
            a_ts += t * s
        tt, ss, ts = tl.reduce((a_tt, a_ss, a_ts), 1, three)
        rt = rnorm(tt, eps2)
        rs = rnorm(ss, eps2)
        cos = ts * (rt * rs)
        a_s, b_s = pull(w * fold, cos, rt, rs, live(rs, ss, eps2), DEAD_ZERO)
        a_t, b_t = pull(w * fold, cos, rs, rt, live(rt, tt, eps2), DEAD_ZERO)
        a_d = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
        for c0 in range(0, CHANNELS, BLOCK_C):
            off = offsets(p, c0 + c, HW, C, NHWC)
            mask = tile_mask(p, c0 + c, limit, C, EVEN_P, EVEN_CH)
            t = load_wide(T + off, mask)
            s = load_wide(S + off, mask)
            e = t * rt[:, None] - s * rs[:, None]
            a_d += e * e
            if GRAD_S:
                store_as(GS + off, t * a_s[:, None] + s * b_s[:, None], mask)
            if GRAD_T:
                store_as(GT + off, s * a_t[:, None] + t * b_t[:, None], mask)
        d = 0.5 * tl.sum(a_d, axis=1) + (missing_norm(tt, eps2) + missing_norm(ss, eps2))
    return tl.sum(d * w, axis=0)


@triton.jit
def pair_kernel(T, S, W, INVERSE, GT, GS, PART, scale, fold, eps2, HW, ROWS, CHANNELS, ENDS, L: tl.constexpr, C: tl.constexpr,
                BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, NHWC: tl.constexpr, EVEN_P: tl.constexpr,
                GRAD_T: tl.constexpr, GRAD_S: tl.constexpr, HAS_W: tl.constexpr, DEAD_ZERO: tl.constexpr):
    """All levels: program ids up to ENDS[k] belong to level k. T, S, ... are tuples with one entry a level."""
    pid = tl.program_id(0)
    start = 0
    for k in tl.static_range(L):
        if pid >= start and pid < ENDS[k]:
            weight = scale[k]
            if HAS_W:
                weight = weight * tl.load(INVERSE + k)
            share = pair_tile(T[k], S[k], W[k], GT[k], GS[k], pid - start, weight, fold[k], eps2, HW[k], ROWS[k],
                              CHANNELS[k], C[k], BLOCK_C[k], BLOCK_P[k], NHWC[k], EVEN_P[k], GRAD_T, GRAD_S, HAS_W, DEAD_ZERO)
            tl.store(PART + pid, share)
        start = ENDS[k]
