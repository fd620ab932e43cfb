"""The weight gradient as a matrix product dyᵀ · im2col(x) whose right operand is gathered while it is loaded.

dw [K, (tap, C)] = Σ over pixels m = (image, p, q) of dy [m, K] · x [image, p · stride − padding + tap · dilation, C].
The sum is long and the result small, so programs share it (SPLITS): each stores its part of the sum in a workspace
[SPLITS, K, R, S, C], whose rows sum_rows_kernel of bias_act adds in a fixed order.
"""

import triton
import triton.language as tl

from fastgan.ops.bias_act.triton_kernels import wide
from fastgan.ops.conv.triton_kernels import dot, share


@triton.jit
def conv_wgrad_kernel(dy, x, dw, rows, height, width, channels, out_height, out_width, outputs,
                      step_image, step_p, step_q,
                      R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
                      PADDING_H: tl.constexpr, PADDING_W: tl.constexpr,
                      DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
                      FEW: tl.constexpr, WIDEN: tl.constexpr, PRECISION: tl.constexpr, DOUBLE: tl.constexpr,
                      SPLITS: tl.constexpr,
                      BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """dw [K, R, S, C], or the workspace. rows = N·P·Q. step_*: BLOCK_K pixels as images, rows of one and pixels of one.

    FEW: 0, or the channels of a pixel of x, of which the first C are used; a tile then covers several taps, and a dy
    that is not finite makes the weights of all taps so, also of those that read outside of the image there.
    """
    columns = tl.cdiv(R * S * FEW, BLOCK_N) if FEW > 0 else R * S * tl.cdiv(channels, BLOCK_N)
    tiles = tl.cdiv(outputs, BLOCK_M) * columns
    part = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    o = (tile // columns) * BLOCK_M + tl.arange(0, BLOCK_M)
    if FEW > 0:
        n = (tile % columns) * BLOCK_N + tl.arange(0, BLOCK_N)
        tap = n // FEW
        c = n % FEW
        pixel_size = FEW
    else:
        per_tap = tl.cdiv(channels, BLOCK_N)
        column = tile % columns
        tap = column // per_tap
        c = (column % per_tap) * BLOCK_N + tl.arange(0, BLOCK_N)
        pixel_size = channels
    known = (c < channels) & (tap < R * S)
    move_h = (tap // S) * DILATION_H - PADDING_H
    move_w = (tap % S) * DILATION_W - PADDING_W

    begin, end = share(tl.cdiv(rows, BLOCK_K), part, SPLITS)
    m = begin * BLOCK_K + tl.arange(0, BLOCK_K)
    image = m // (out_width * out_height)
    p = m // out_width % out_height
    q = m % out_width
    total = wide(tl.zeros([BLOCK_M, BLOCK_N], tl.float32), DOUBLE)
    for _ in range(begin, end):
        exists = m < rows
        x_image = x + image.to(tl.int64) * (height * width * pixel_size)
        if FEW > 0:
            h = (p * STRIDE_H)[:, None] + move_h[None, :]
            w = (q * STRIDE_W)[:, None] + move_w[None, :]
            inside = (h >= 0) & (h < height) & (w >= 0) & (w < width) & exists[:, None] & known[None, :]
            b = tl.load(x_image[:, None] + ((h * width + w) * FEW + c[None, :]), mask=inside, other=0.0)
        else:
            h = p * STRIDE_H + move_h
            w = q * STRIDE_W + move_w
            inside = (h >= 0) & (h < height) & (w >= 0) & (w < width) & exists
            pixel = x_image + (h * width + w) * channels
            b = tl.load(pixel[:, None] + c[None, :], mask=inside[:, None] & known[None, :], other=0.0)
            exists = inside
        a = tl.load(dy + (m.to(tl.int64)[None, :] * outputs + o[:, None]),
                    mask=exists[None, :] & (o < outputs)[:, None], other=0.0)  # fmt: skip
        total = dot(a, b, total, WIDEN, PRECISION)
        # The next pixels, by carries instead of divisions.
        m += BLOCK_K
        q += step_q
        over = q >= out_width
        q = tl.where(over, q - out_width, q)
        p = tl.where(over, p + step_p + 1, p + step_p)
        over = p >= out_height
        p = tl.where(over, p - out_height, p)
        image = tl.where(over, image + step_image + 1, image + step_image)

    at = tap * channels + c
    offsets = o.to(tl.int64)[:, None] * (R * S * channels) + at[None, :]
    offsets += part.to(tl.int64) * outputs * (R * S * channels)
    tl.store(dw + offsets, total.to(dw.dtype.element_ty), mask=(o < outputs)[:, None] & known[None, :])
