"""Convolutions as matrix products whose left operand is gathered while it is loaded (implicit GEMM).

All activations are channels_last in memory: x [N, H, W, C]; weights are [K, R, S, C], or packed as [C, R, S, K]. A row
of the product is an output pixel, a column an output channel, and the sum runs over (tap, input channel). Forward and
input gradient are the same sum with other offsets: tap t of an output pixel reads the input pixel

    forward         h = p · stride − padding + t · dilation                         taps r = t
    input gradient  p = h' + const − t · dilation / gcd                             taps r = first + t · stride / gcd

where gcd is that of stride and dilation, and h = h' · stride + phase. The same taps reach all pixels of a phase, so the
input gradient of a strided convolution is stride² dense problems without multiplications by inserted zeros. One launch
runs all phases.

Sums are float32 (float64 for double). With SPLITS > 1 each program adds up a share of the terms and stores it as such
in a workspace [SPLITS, result]; conv_finish_kernel adds the shares in a fixed order and computes what follows.
"""

import triton
import triton.language as tl

from fastgan.ops.bias_act.triton_kernels import wide
from fastgan.ops.conv.triton_epilogue_kernels import epilogue


@triton.jit
def dot(a, b, total, WIDEN: tl.constexpr, PRECISION: tl.constexpr):
    if WIDEN:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, total, input_precision=PRECISION, out_dtype=total.dtype)


@triton.jit
def share(iterations, part, SPLITS: tl.constexpr):
    """The first and the last + 1 of the iterations of one of SPLITS programs."""
    each = tl.cdiv(iterations, SPLITS)
    return tl.minimum(part * each, iterations), tl.minimum(part * each + each, iterations)


@triton.jit
def _products(x, weight, image, top, left, exists, n, height, width, channels, outputs, part,
              first_r, first_s, taps_r, taps_s, w_output, w_tap, w_channel,
              STEP_R: tl.constexpr, STEP_S: tl.constexpr, MOVE_H: tl.constexpr, MOVE_W: tl.constexpr,
              MOST_R: tl.constexpr, MOST_S: tl.constexpr,
              S: tl.constexpr, FEW: tl.constexpr, WIDEN: tl.constexpr, PRECISION: tl.constexpr, DOUBLE: tl.constexpr,
              SPLITS: tl.constexpr,
              BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """Σ over taps and channels of x · weight, or share number `part` of it: [BLOCK_M, BLOCK_N].

    Row m reads x at (image, top + t_r · MOVE_H, left + t_s · MOVE_W) if it exists, column n is an output channel. Tap
    (t_r, t_s) uses the weight at (first_r + t_r · STEP_R, first_s + t_s · STEP_S), whose strides are w_*. MOST_*: the
    limits of taps_*. FEW: 0, or the channels of a pixel of x, of which the first `channels` are used.
    """
    total = wide(tl.zeros([BLOCK_M, BLOCK_N], tl.float32), DOUBLE)
    if FEW > 0:
        # Few channels: taps and channels are one index, or most of a block would be padding.
        x_image = x + image.to(tl.int64) * (height * width * FEW)
        begin, end = share(tl.cdiv(MOST_R * MOST_S * FEW, BLOCK_K), part, SPLITS)
        for i in range(begin, end):
            k = i * BLOCK_K + tl.arange(0, BLOCK_K)
            tap = k // FEW
            c = k % FEW
            t_r = tap // MOST_S
            t_s = tap % MOST_S
            known = (t_r < taps_r) & (t_s < taps_s)
            h = top[:, None] + (t_r * MOVE_H)[None, :]
            w = left[:, None] + (t_s * MOVE_W)[None, :]
            inside = (h >= 0) & (h < height) & (w >= 0) & (w < width) & exists[:, None] & known[None, :]
            a = tl.load(x_image[:, None] + ((h * width + w) * FEW + c[None, :]), mask=inside, other=0.0)
            at = ((first_r + t_r * STEP_R) * S + first_s + t_s * STEP_S) * w_tap + c * w_channel
            stored = (known & (c < channels))[:, None] & (n < outputs)[None, :]
            b = tl.load(weight + (at[:, None] + (n * w_output)[None, :]), mask=stored, other=0.0)
            total = dot(a, b, total, WIDEN, PRECISION)
    else:
        # 64 bits lead to the image and 32 within it: half the registers, and no tensor is too big.
        x_image = x + image.to(tl.int64) * (height * width * channels)
        taps = taps_r * taps_s
        begin, end = share(taps * tl.cdiv(channels, BLOCK_K), part, SPLITS)
        # The taps are the inner loop: neighboring ones read the same pixels. They are counted, not divided for.
        tap = begin % tl.maximum(taps, 1)
        t_r = tap // tl.maximum(taps_s, 1)
        t_s = tap % tl.maximum(taps_s, 1)
        first_c = (begin // tl.maximum(taps, 1)) * BLOCK_K
        for _ in range(begin, end):
            c = first_c + tl.arange(0, BLOCK_K)
            h = top + t_r * MOVE_H
            w = left + t_s * MOVE_W
            inside = (h >= 0) & (h < height) & (w >= 0) & (w < width) & exists
            pixel = x_image + (h * width + w) * channels
            a = tl.load(pixel[:, None] + c[None, :], mask=inside[:, None] & (c < channels)[None, :], other=0.0)
            at = ((first_r + t_r * STEP_R) * S + first_s + t_s * STEP_S) * w_tap
            known = (c < channels)[:, None] & (n < outputs)[None, :]
            b = tl.load(weight + at + ((c * w_channel)[:, None] + (n * w_output)[None, :]), mask=known, other=0.0)
            total = dot(a, b, total, WIDEN, PRECISION)
            row_ends = t_s + 1 == taps_s
            t_s = tl.where(row_ends, 0, t_s + 1)
            t_r = tl.where(row_ends, t_r + 1, t_r)
            taps_end = t_r == taps_r
            t_r = tl.where(taps_end, 0, t_r)
            first_c = tl.where(taps_end, first_c + BLOCK_K, first_c)
    return total


@triton.jit
def conv_fwd_kernel(x, weight, bias, saved, y, rows, height, width, channels, out_height, out_width, outputs,
                    R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
                    PADDING_H: tl.constexpr, PADDING_W: tl.constexpr,
                    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
                    HAS_BIAS: tl.constexpr, HAS_ACT: tl.constexpr, HAS_SLOPE: tl.constexpr,
                    ACT: tl.constexpr, ALPHA: tl.constexpr, GAIN: tl.constexpr, INVERSE_GAIN: tl.constexpr,
                    HAS_CLAMP: tl.constexpr, CLAMP: tl.constexpr,
                    FEW: tl.constexpr, WIDEN: tl.constexpr, PRECISION: tl.constexpr, DOUBLE: tl.constexpr,
                    SPLITS: tl.constexpr,
                    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """y [N, P, Q, K] = epilogue(x [N, H, W, C] ∗ weight [K, R, S, C]). rows = N·P·Q. y is the workspace with splits."""
    # Programs that read the same rows of x follow one another.
    columns = tl.cdiv(outputs, BLOCK_N)
    tiles = tl.cdiv(rows, BLOCK_M) * columns
    part = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    m = (tile // columns) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = (tile % columns) * BLOCK_N + tl.arange(0, BLOCK_N)
    top = (m // out_width) % out_height * STRIDE_H - PADDING_H
    left = m % out_width * STRIDE_W - PADDING_W
    z = _products(x, weight, m // (out_width * out_height), top, left, m < rows, n, height, width, channels, outputs,
                  part, 0, 0, R, S, R * S * channels, channels, 1, 1, 1, DILATION_H, DILATION_W, R, S, S,
                  FEW, WIDEN, PRECISION, DOUBLE, SPLITS, BLOCK_M, BLOCK_N, BLOCK_K)  # fmt: skip
    offsets = m.to(tl.int64)[:, None] * outputs + n[None, :]
    inside = (m < rows)[:, None] & (n < outputs)[None, :]
    if SPLITS > 1:
        offsets += part.to(tl.int64) * rows * outputs
    else:
        z = epilogue(z, bias, saved, n, outputs, offsets, inside, HAS_BIAS, HAS_ACT, HAS_SLOPE, ACT, ALPHA, GAIN,
                     INVERSE_GAIN, HAS_CLAMP, CLAMP, DOUBLE)  # fmt: skip
    tl.store(y + offsets, z.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _first_tap(phase, SIZE: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr, DILATION: tl.constexpr,
               STEP: tl.constexpr):  # fmt: skip
    """The first tap that reaches the pixels of a phase; none does where that is SIZE or more."""
    first = phase * 0 + SIZE
    for r in tl.static_range(STEP):
        first = tl.where((phase + PADDING - r * DILATION) % STRIDE == 0, r, first)
    return first


@triton.jit
def conv_bwd_kernel(dy, weight, saved, dx, partial, rows, out_height, out_width, outputs, height, width, channels,
                    images, R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
                    PADDING_H: tl.constexpr, PADDING_W: tl.constexpr,
                    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
                    STEP_R: tl.constexpr, STEP_S: tl.constexpr, MOVE_H: tl.constexpr, MOVE_W: tl.constexpr,
                    HAS_SLOPE: tl.constexpr, BIAS_GRAD: tl.constexpr, ACT: tl.constexpr, ALPHA: tl.constexpr,
                    GAIN: tl.constexpr, INVERSE_GAIN: tl.constexpr, HAS_CLAMP: tl.constexpr, CLAMP: tl.constexpr,
                    FEW: tl.constexpr, WIDEN: tl.constexpr, PRECISION: tl.constexpr, DOUBLE: tl.constexpr,
                    PACKED: tl.constexpr, SPLITS: tl.constexpr,
                    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """dx [N, H, W, C] from dy [N, P, Q, K] and weight [K, R, S, C], or [C, R, S, K] if PACKED; with HAS_SLOPE times the
    slope at saved, like dx. dx is the workspace if SPLITS > 1.

    rows = N · ceil(H / stride) · ceil(W / stride), the pixels of the largest phase. partial
    [programs along the rows, C] receives each program's sum of dx.
    """
    columns = tl.cdiv(channels, BLOCK_N)
    phases = STRIDE_H * STRIDE_W
    tiles = tl.cdiv(rows, BLOCK_M) * phases * columns
    part = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    # Phases of the same rows follow one another, as they read the same pixels of dy.
    block = tile // columns
    phase_h = block % phases // STRIDE_W
    phase_w = block % phases % STRIDE_W
    m = (block // phases) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = (tile % columns) * BLOCK_N + tl.arange(0, BLOCK_N)

    phase_height = tl.cdiv(height, STRIDE_H)
    phase_width = tl.cdiv(width, STRIDE_W)
    image = m // (phase_height * phase_width)
    row = m // phase_width % phase_height
    column = m % phase_width
    h = row * STRIDE_H + phase_h
    w = column * STRIDE_W + phase_w
    exists = (m < rows) & (h < height) & (w < width)

    first_r = _first_tap(phase_h, R, STRIDE_H, PADDING_H, DILATION_H, STEP_R)
    first_s = _first_tap(phase_w, S, STRIDE_W, PADDING_W, DILATION_W, STEP_S)
    top = row + (phase_h + PADDING_H - first_r * DILATION_H) // STRIDE_H
    left = column + (phase_w + PADDING_W - first_s * DILATION_W) // STRIDE_W
    if PACKED:
        w_column = R * S * outputs
        w_tap = outputs
        w_summed = 1
    else:
        w_column = 1
        w_tap = channels
        w_summed = R * S * channels
    d = _products(dy, weight, image, top, left, exists, n, out_height, out_width, outputs, channels, part,
                  first_r, first_s, tl.cdiv(R - first_r, STEP_R), tl.cdiv(S - first_s, STEP_S),
                  w_column, w_tap, w_summed, STEP_R, STEP_S, MOVE_H, MOVE_W,
                  (R + STEP_R - 1) // STEP_R, (S + STEP_S - 1) // STEP_S, S,
                  FEW, WIDEN, PRECISION, DOUBLE, SPLITS, BLOCK_M, BLOCK_N, BLOCK_K)  # fmt: skip

    offsets = ((image.to(tl.int64) * height + h) * width + w)[:, None] * channels + n[None, :]
    inside = exists[:, None] & (n < channels)[None, :]
    if SPLITS > 1:
        offsets += part.to(tl.int64) * images * height * width * channels
    else:
        d = epilogue(d, dx, saved, n, channels, offsets, inside, False, False, HAS_SLOPE, ACT, ALPHA, GAIN,
                     INVERSE_GAIN, HAS_CLAMP, CLAMP, DOUBLE)  # fmt: skip
        if BIAS_GRAD:
            sums = tl.sum(tl.where(inside, d, 0.0), axis=0)
            tl.store(partial + block.to(tl.int64) * channels + n, sums, mask=n < channels)
    tl.store(dx + offsets, d.to(dx.dtype.element_ty), mask=inside)
