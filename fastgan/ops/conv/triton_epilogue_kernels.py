"""What surrounds the products of a convolution: the epilogue, the sum of split products, the padding of channels."""

import triton
import triton.language as tl

from fastgan.ops.bias_act.triton_kernels import activated, bias_row, slope, wide


@triton.jit
def epilogue(z, bias, saved, n, channels, offsets, inside,
             HAS_BIAS: tl.constexpr, HAS_ACT: tl.constexpr, HAS_SLOPE: tl.constexpr,
             ACT: tl.constexpr, ALPHA: tl.constexpr, GAIN: tl.constexpr, INVERSE_GAIN: tl.constexpr,
             HAS_CLAMP: tl.constexpr, CLAMP: tl.constexpr, DOUBLE: tl.constexpr):  # fmt: skip
    """activated(z + bias), or z times the slope at saved, or z itself, for a tile z of the columns n."""
    if HAS_BIAS:
        z += bias_row(bias, n, channels, HAS_BIAS, DOUBLE)
    if HAS_ACT:
        z = activated(z, ACT, ALPHA, GAIN, HAS_CLAMP, CLAMP, DOUBLE)
    if HAS_SLOPE:
        s = wide(tl.load(saved + offsets, mask=inside, other=0.0), DOUBLE)
        z *= slope(s, 0.0, ACT, ALPHA, GAIN, INVERSE_GAIN, HAS_CLAMP, CLAMP, DOUBLE)
    return z


@triton.jit
def conv_finish_kernel(workspace, bias, saved, y, partial, rows, channels,
                       HAS_BIAS: tl.constexpr, HAS_ACT: tl.constexpr, HAS_SLOPE: tl.constexpr,
                       BIAS_GRAD: tl.constexpr, ACT: tl.constexpr, ALPHA: tl.constexpr, GAIN: tl.constexpr,
                       INVERSE_GAIN: tl.constexpr, HAS_CLAMP: tl.constexpr, CLAMP: tl.constexpr,
                       DOUBLE: tl.constexpr, SPLITS: tl.constexpr,
                       BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):  # fmt: skip
    """y [rows, C] = epilogue(Σ workspace [SPLITS, rows, C]), in the order of the shares. partial [blocks of rows, C]
    receives the sums of y."""
    columns = tl.cdiv(channels, BLOCK_N)
    block = tl.program_id(0) // columns
    m = block * BLOCK_M + tl.arange(0, BLOCK_M)
    n = (tl.program_id(0) % columns) * BLOCK_N + tl.arange(0, BLOCK_N)
    offsets = m.to(tl.int64)[:, None] * channels + n[None, :]
    inside = (m < rows)[:, None] & (n < channels)[None, :]
    z = wide(tl.zeros([BLOCK_M, BLOCK_N], tl.float32), DOUBLE)
    share = workspace
    for _ in tl.static_range(SPLITS):
        z += tl.load(share + offsets, mask=inside, other=0.0)
        share += rows.to(tl.int64) * channels
    z = epilogue(z, bias, saved, n, channels, offsets, inside, HAS_BIAS, HAS_ACT, HAS_SLOPE, ACT, ALPHA, GAIN,
                 INVERSE_GAIN, HAS_CLAMP, CLAMP, DOUBLE)  # fmt: skip
    tl.store(y + offsets, z.to(y.dtype.element_ty), mask=inside)
    if BIAS_GRAD:
        tl.store(partial + block.to(tl.int64) * channels + n, tl.sum(tl.where(inside, z, 0.0), axis=0),
                 mask=n < channels)  # fmt: skip


@triton.jit
def pad_channels_kernel(x, padded, pixels, channels, PADDED: tl.constexpr, BLOCK: tl.constexpr):
    """padded [pixels, PADDED] = x [pixels, channels] and zeros."""
    pixel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    c = tl.arange(0, PADDED)
    known = (pixel < pixels)[:, None] & (c < channels)[None, :]
    values = tl.load(x + pixel[:, None] * channels + c[None, :], mask=known, other=0.0)
    tl.store(padded + pixel[:, None] * PADDED + c[None, :], values, mask=(pixel < pixels)[:, None])
