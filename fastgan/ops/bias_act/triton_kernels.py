"""The Triton kernels of bias_act. A dense tensor [N, C, *] is a matrix [OUTER, INNER], contiguous in either layout:
(image, pixel) by channel where the channel is the fast axis, else (image, channel) by pixel. The channel of an element
is then its column, or the remainder of its row, which costs one 32-bit division for each row of a tile.

Programs are numbered along one axis of the grid, because the other two end at 65,535.

Memory traffic: forward 2 tensors, gradient 3, second gradient 5. Sums are float32 (float64 for double). Each program
stores a partial sum, and a second kernel adds them in order, without atomics, so that results repeat bit for bit.

Options are compile-time constants: there are few of them in a network, and as kernel arguments they would be rounded to
float32 even where the tensors are double.
"""

import triton
import triton.language as tl

# Numbers of the activations, as in activations.py and csrc/include/fastgan/bias_act.h.
RELU = tl.constexpr(1)
LEAKY_RELU = tl.constexpr(2)
TANH = tl.constexpr(3)
SIGMOID = tl.constexpr(4)
SILU = tl.constexpr(5)
SOFTPLUS = tl.constexpr(6)
ELU = tl.constexpr(7)


@triton.jit
def _sigmoid(p):
    return 1.0 / (1.0 + tl.exp(-p))


@triton.jit
def _tanh(p, DOUBLE: tl.constexpr):
    size = tl.abs(p)
    large = 1.0 - 2.0 / (tl.exp(2.0 * size) + 1.0)
    direct = tl.where(p < 0, -large, large)
    if DOUBLE:
        return direct
    # Near zero the subtraction cancels: a series (Cephes' coefficients) keeps float32's relative accuracy.
    z = p * p
    series = -5.70498872745e-3
    series = series * z + 2.06390887954e-2
    series = series * z - 5.37397155531e-2
    series = series * z + 1.33314422036e-1
    series = series * z - 3.33332819422e-1
    return tl.where(size < 0.625, series * z * p + p, direct)


@triton.jit
def _log1p_of_unit(t, DOUBLE: tl.constexpr):
    if DOUBLE:
        return tl.log(1.0 + t)
    # 2 atanh(t / (2 + t)), for 0 <= t <= 1
    s = t / (2.0 + t)
    z = s * s
    p = 1.0 / 15 * z + 1.0 / 13
    p = p * z + 1.0 / 11
    p = p * z + 1.0 / 9
    p = p * z + 1.0 / 7
    p = p * z + 1.0 / 5
    p = p * z + 1.0 / 3
    return 2.0 * (p * z * s + s)


@triton.jit
def _one_minus_exp_of_minus(u, DOUBLE: tl.constexpr):
    direct = 1.0 - tl.exp(-u)
    if DOUBLE:
        return direct
    p = -1.0 / 40320 * u + 1.0 / 5040
    p = -p * u + 1.0 / 720
    p = -p * u + 1.0 / 120
    p = -p * u + 1.0 / 24
    p = -p * u + 1.0 / 6
    p = -p * u + 1.0 / 2
    return tl.where(u < 0.5, u - p * u * u, direct)


@triton.jit
def _value(p, ACT: tl.constexpr, ALPHA: tl.constexpr, DOUBLE: tl.constexpr):
    if ACT == RELU:
        return tl.where(p <= 0, 0.0, p)  # written so that NaN passes through
    elif ACT == LEAKY_RELU:
        return tl.where(p > 0, p, p * ALPHA)
    elif ACT == TANH:
        return _tanh(p, DOUBLE)
    elif ACT == SIGMOID:
        return _sigmoid(p)
    elif ACT == SILU:
        return p * _sigmoid(p)
    elif ACT == SOFTPLUS:
        return tl.where(p <= 0, 0.0, p) + _log1p_of_unit(tl.exp(-tl.abs(p)), DOUBLE)  # written so that NaN passes
    elif ACT == ELU:
        return tl.where(p > 0, p, -ALPHA * _one_minus_exp_of_minus(-p, DOUBLE))
    else:
        return p


@triton.jit
def _d1(u, ACT: tl.constexpr, ALPHA: tl.constexpr, DOUBLE: tl.constexpr):
    # Two Python numbers would make a float32 tensor, also where the input is double.
    zero = tl.zeros_like(u)
    if ACT == RELU:
        return tl.where(u > 0, zero + 1.0, zero)
    elif ACT == LEAKY_RELU:
        return tl.where(u > 0, zero + 1.0, zero + ALPHA)
    elif ACT == TANH:
        return 1.0 - u * u
    elif ACT == SIGMOID:
        return u * (1.0 - u)
    elif ACT == SILU:
        s = _sigmoid(u)
        return s * (1.0 + u * (1.0 - s))
    elif ACT == SOFTPLUS:
        return _one_minus_exp_of_minus(u, DOUBLE)
    elif ACT == ELU:
        return tl.where(u > 0, zero + 1.0, u + ALPHA)
    else:
        return zero + 1.0


@triton.jit
def _d2(u, ACT: tl.constexpr):
    if ACT == TANH:
        return -2.0 * u
    elif ACT == SIGMOID:
        return 1.0 - 2.0 * u
    elif ACT == SILU:
        s = _sigmoid(u)
        return s * (1.0 - s) * (2.0 + u * (1.0 - 2.0 * s))
    elif ACT == SOFTPLUS:
        return tl.exp(-u)
    elif ACT == ELU:
        return tl.where(u > 0, tl.zeros_like(u), tl.zeros_like(u) + 1.0)
    else:
        return tl.zeros_like(u)


@triton.jit
def wide(x, DOUBLE: tl.constexpr):
    return x.to(tl.float64) if DOUBLE else x.to(tl.float32)


@triton.jit
def _where(o, i, outer, inner):
    """Offsets and mask of the tile o [BLOCK_O] by i [BLOCK_I]. Offsets are 64 bits wide, for large tensors."""
    return o.to(tl.int64)[:, None] * inner + i[None, :], (o < outer)[:, None] & (i < inner)[None, :]


@triton.jit
def _bias(bias, o, i, outer, inner, channels, HAS_BIAS: tl.constexpr, CHANNEL_IS_FAST: tl.constexpr,
          DOUBLE: tl.constexpr):  # fmt: skip
    """The bias of a tile, [1, BLOCK_I] or [BLOCK_O, 1]."""
    if CHANNEL_IS_FAST:
        return bias_row(bias, i, inner, HAS_BIAS, DOUBLE)
    elif HAS_BIAS:
        return wide(tl.load(bias + o % channels, mask=o < outer, other=0.0), DOUBLE)[:, None]
    else:
        return wide(tl.zeros_like(o), DOUBLE)[:, None]


@triton.jit
def bias_row(bias, c, channels, HAS_BIAS: tl.constexpr, DOUBLE: tl.constexpr):
    if HAS_BIAS:
        return wide(tl.load(bias + c, mask=c < channels, other=0.0), DOUBLE)[None, :]
    else:
        return wide(tl.zeros_like(c), DOUBLE)[None, :]


@triton.jit
def _argument(saved, b, ACT: tl.constexpr, INVERSE_GAIN: tl.constexpr):
    if ACT == SILU:
        return saved + b
    else:
        return saved * INVERSE_GAIN


@triton.jit
def _clamped_to_zero(factor, saved, u, ACT: tl.constexpr, ALPHA: tl.constexpr, GAIN: tl.constexpr,
                     HAS_CLAMP: tl.constexpr, CLAMP: tl.constexpr, DOUBLE: tl.constexpr):  # fmt: skip
    if HAS_CLAMP:
        value = _value(u, ACT, ALPHA, DOUBLE) * GAIN if ACT == SILU else saved
        return tl.where(tl.abs(value) < CLAMP, factor, 0.0)
    else:
        return factor


@triton.jit
def activated(p, ACT: tl.constexpr, ALPHA: tl.constexpr, GAIN: tl.constexpr, HAS_CLAMP: tl.constexpr,
              CLAMP: tl.constexpr, DOUBLE: tl.constexpr):  # fmt: skip
    """clamp(activation(p) · gain): the epilogue of a convolution."""
    v = _value(p, ACT, ALPHA, DOUBLE) * GAIN
    if HAS_CLAMP:
        v = tl.where(v > CLAMP, CLAMP, tl.where(v < -CLAMP, -CLAMP, v))
    return v


@triton.jit
def slope(saved, b, ACT: tl.constexpr, ALPHA: tl.constexpr, GAIN: tl.constexpr, INVERSE_GAIN: tl.constexpr,
          HAS_CLAMP: tl.constexpr, CLAMP: tl.constexpr, DOUBLE: tl.constexpr):  # fmt: skip
    """The derivative of `activated`, from what was saved; b only where that is the input."""
    u = _argument(saved, b, ACT, INVERSE_GAIN)
    factor = _d1(u, ACT, ALPHA, DOUBLE) * GAIN
    return _clamped_to_zero(factor, saved, u, ACT, ALPHA, GAIN, HAS_CLAMP, CLAMP, DOUBLE)


@triton.jit
def bias_act_fwd_kernel(x, bias, y, outer, inner, channels,
                        HAS_BIAS: tl.constexpr, ACT: tl.constexpr, ALPHA: tl.constexpr, GAIN: tl.constexpr,
                        INVERSE_GAIN: tl.constexpr, HAS_CLAMP: tl.constexpr, CLAMP: tl.constexpr,
                        CHANNEL_IS_FAST: tl.constexpr, DOUBLE: tl.constexpr,
                        BLOCK_O: tl.constexpr, BLOCK_I: tl.constexpr):  # fmt: skip
    columns = tl.cdiv(inner, BLOCK_I)
    o = (tl.program_id(0) // columns) * BLOCK_O + tl.arange(0, BLOCK_O)
    i = (tl.program_id(0) % columns) * BLOCK_I + tl.arange(0, BLOCK_I)
    offsets, inside = _where(o, i, outer, inner)
    b = _bias(bias, o, i, outer, inner, channels, HAS_BIAS, CHANNEL_IS_FAST, DOUBLE)
    p = wide(tl.load(x + offsets, mask=inside, other=0.0), DOUBLE) + b
    v = activated(p, ACT, ALPHA, GAIN, HAS_CLAMP, CLAMP, DOUBLE)
    tl.store(y + offsets, v.to(y.dtype.element_ty), mask=inside)


@triton.jit
def bias_act_bwd_kernel(dy, saved, bias, dx, partial, outer, inner, channels,
                        HAS_BIAS: tl.constexpr, BIAS_GRAD: tl.constexpr, REPEATS: tl.constexpr,
                        ACT: tl.constexpr, ALPHA: tl.constexpr, GAIN: tl.constexpr,
                        INVERSE_GAIN: tl.constexpr, HAS_CLAMP: tl.constexpr, CLAMP: tl.constexpr,
                        CHANNEL_IS_FAST: tl.constexpr, DOUBLE: tl.constexpr,
                        BLOCK_O: tl.constexpr, BLOCK_I: tl.constexpr):  # fmt: skip
    """A program processes REPEATS tiles along the axis that the bias gradient sums: rows where the channel is the fast
    axis, else pixels. partial [parts, C] receives its sums."""
    columns = tl.cdiv(inner, BLOCK_I if CHANNEL_IS_FAST else BLOCK_I * REPEATS)
    part = tl.program_id(0) // columns
    column = tl.program_id(0) % columns
    total = wide(tl.zeros([BLOCK_O, BLOCK_I], tl.float32), DOUBLE)
    for repeat in range(REPEATS):
        o = (part * REPEATS + repeat if CHANNEL_IS_FAST else part) * BLOCK_O + tl.arange(0, BLOCK_O)
        i = (column if CHANNEL_IS_FAST else column * REPEATS + repeat) * BLOCK_I + tl.arange(0, BLOCK_I)
        b = _bias(bias, o, i, outer, inner, channels, HAS_BIAS, CHANNEL_IS_FAST, DOUBLE)
        offsets, inside = _where(o, i, outer, inner)
        g = wide(tl.load(dy + offsets, mask=inside, other=0.0), DOUBLE)
        s = wide(tl.load(saved + offsets, mask=inside, other=0.0), DOUBLE)
        d = g * slope(s, b, ACT, ALPHA, GAIN, INVERSE_GAIN, HAS_CLAMP, CLAMP, DOUBLE)
        tl.store(dx + offsets, d.to(dx.dtype.element_ty), mask=inside)
        if BIAS_GRAD:
            total += tl.where(inside, d, 0.0)
    if BIAS_GRAD:
        if CHANNEL_IS_FAST:
            c = column * BLOCK_I + tl.arange(0, BLOCK_I)
            tl.store(partial + part.to(tl.int64) * channels + c, tl.sum(total, axis=0), mask=c < channels)
        else:
            plane = part * BLOCK_O + tl.arange(0, BLOCK_O)
            row = (plane // channels) * columns + column
            at = row.to(tl.int64) * channels + plane % channels
            tl.store(partial + at, tl.sum(total, axis=1), mask=plane < outer)


@triton.jit
def sum_rows_kernel(partial, result, rows, channels, BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr):
    """result[g, c] = Σ partial[g, k, c] over the rows k, in a fixed order, rounded once to result's dtype."""
    columns = tl.cdiv(channels, BLOCK_C)
    group = (tl.program_id(0) // columns).to(tl.int64)
    partial += group * rows * channels
    result += group * channels
    c = tl.program_id(0) % columns * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros([BLOCK_K, BLOCK_C], partial.dtype.element_ty)
    for start in range(0, rows, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        inside = (k < rows)[:, None] & (c < channels)[None, :]
        total += tl.load(partial + k.to(tl.int64)[:, None] * channels + c[None, :], mask=inside, other=0.0)
    tl.store(result + c, tl.sum(total, axis=0).to(result.dtype.element_ty), mask=c < channels)


@triton.jit
def bias_act_bwd_bwd_kernel(ddx, dy, saved, bias, ddy, dsaved, outer, inner, channels,
                            HAS_BIAS: tl.constexpr, ACT: tl.constexpr, ALPHA: tl.constexpr, GAIN: tl.constexpr,
                            INVERSE_GAIN: tl.constexpr, HAS_CLAMP: tl.constexpr, CLAMP: tl.constexpr,
                            CHANNEL_IS_FAST: tl.constexpr, DOUBLE: tl.constexpr,
                            BLOCK_O: tl.constexpr, BLOCK_I: tl.constexpr):  # fmt: skip
    columns = tl.cdiv(inner, BLOCK_I)
    o = (tl.program_id(0) // columns) * BLOCK_O + tl.arange(0, BLOCK_O)
    i = (tl.program_id(0) % columns) * BLOCK_I + tl.arange(0, BLOCK_I)
    offsets, inside = _where(o, i, outer, inner)
    b = _bias(bias, o, i, outer, inner, channels, HAS_BIAS, CHANNEL_IS_FAST, DOUBLE)
    t = wide(tl.load(ddx + offsets, mask=inside, other=0.0), DOUBLE)
    g = wide(tl.load(dy + offsets, mask=inside, other=0.0), DOUBLE)
    s = wide(tl.load(saved + offsets, mask=inside, other=0.0), DOUBLE)
    u = _argument(s, b, ACT, INVERSE_GAIN)
    first = _d1(u, ACT, ALPHA, DOUBLE) * GAIN
    # Where the output is saved, its gain and that of the derivative cancel.
    second = _d2(u, ACT) * GAIN if ACT == SILU else _d2(u, ACT)
    first = _clamped_to_zero(first, s, u, ACT, ALPHA, GAIN, HAS_CLAMP, CLAMP, DOUBLE)
    second = _clamped_to_zero(second, s, u, ACT, ALPHA, GAIN, HAS_CLAMP, CLAMP, DOUBLE)
    tl.store(ddy + offsets, (t * first).to(ddy.dtype.element_ty), mask=inside)
    tl.store(dsaved + offsets, (t * g * second).to(dsaved.dtype.element_ty), mask=inside)
