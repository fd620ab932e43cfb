"""The Triton kernels of instance_norm_act and its gradient. A tensor [N, C, *] is `pixels` by `channels` of each sample
in either order, as in channel_scale's kernels.

Memory traffic in tensors: forward 4, of which one comes from a cache (each program reads its part of the pixels twice
for their sum of squares around their mean, so that large means cancel nothing), gradient 5. Sums are float32 (float64
for double): programs store those of their part, and a second kernel joins them in order, without atomics, so that
results repeat bit for bit.

Programs are numbered along one axis of the grid, because the other two end at 65,535.
"""

import triton
import triton.language as tl

from fastgan.ops.bias_act.triton_kernels import wide
from fastgan.ops.channel_scale.triton_kernels import _of_channels, _offsets, _place


@triton.jit
def _zeros(CHANNEL_IS_FAST: tl.constexpr, DOUBLE: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    return wide(tl.zeros([BLOCK_P, BLOCK_C] if CHANNEL_IS_FAST else [BLOCK_C, BLOCK_P], tl.float32), DOUBLE)


@triton.jit
def part_statistics_kernel(x, means, squares, channels, pixels, chunk, chunks, CHANNEL_IS_FAST: tl.constexpr,
                           DOUBLE: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):  # fmt: skip
    """means, squares [N, chunks, C]: of each chunk of the pixels m = Σ x / count, and Σ (x − m)²."""
    along_pixels: tl.constexpr = 0 if CHANNEL_IS_FAST else 1
    across = tl.cdiv(channels, BLOCK_C)
    part = tl.program_id(0) // across
    n, first = part // chunks, part % chunks * chunk
    last = tl.minimum(first + chunk, pixels)
    c = tl.program_id(0) % across * BLOCK_C + tl.arange(0, BLOCK_C)
    total = _zeros(CHANNEL_IS_FAST, DOUBLE, BLOCK_P, BLOCK_C)
    for start in range(first, last, BLOCK_P):
        offsets, inside = _offsets(n, start + tl.arange(0, BLOCK_P), c, channels, pixels, CHANNEL_IS_FAST)
        total += wide(tl.load(x + offsets, mask=inside, other=0.0), DOUBLE)
    mean = tl.sum(total, axis=along_pixels) / (last - first)
    around = mean[None, :] if CHANNEL_IS_FAST else mean[:, None]
    total = _zeros(CHANNEL_IS_FAST, DOUBLE, BLOCK_P, BLOCK_C)
    for start in range(first, last, BLOCK_P):
        offsets, inside = _offsets(n, start + tl.arange(0, BLOCK_P), c, channels, pixels, CHANNEL_IS_FAST)
        apart = tl.where(inside, wide(tl.load(x + offsets, mask=inside, other=0.0), DOUBLE) - around, 0.0)
        total += apart * apart
    at = part.to(tl.int64) * channels + c
    tl.store(means + at, mean, mask=c < channels)
    tl.store(squares + at, tl.sum(total, axis=along_pixels), mask=c < channels)


@triton.jit
def join_statistics_kernel(means, squares, mean, scale, channels, pixels, chunk, chunks, EPSILON: tl.constexpr,
                           DOUBLE: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr):  # fmt: skip
    """mean, scale [N, C] of the statistics of all chunks (Chan et al. 1979)."""
    across = tl.cdiv(channels, BLOCK_C)
    n = (tl.program_id(0) // across).to(tl.int64)
    c = tl.program_id(0) % across * BLOCK_C + tl.arange(0, BLOCK_C)
    total = wide(tl.zeros([BLOCK_K, BLOCK_C], tl.float32), DOUBLE)
    for start in range(0, chunks, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        inside = (k < chunks)[:, None] & (c < channels)[None, :]
        count = tl.minimum(chunk, pixels - k * chunk)[:, None]
        at = (n * chunks + k)[:, None] * channels + c[None, :]
        total += tl.load(means + at, mask=inside, other=0.0) * count
    whole = tl.sum(total, axis=0) / pixels
    total = wide(tl.zeros([BLOCK_K, BLOCK_C], tl.float32), DOUBLE)
    for start in range(0, chunks, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        inside = (k < chunks)[:, None] & (c < channels)[None, :]
        count = tl.minimum(chunk, pixels - k * chunk)[:, None]
        at = (n * chunks + k)[:, None] * channels + c[None, :]
        apart = tl.load(means + at, mask=inside, other=0.0) - whole[None, :]
        total += tl.where(inside, tl.load(squares + at, mask=inside, other=0.0) + apart * apart * count, 0.0)
    tl.store(mean + n * channels + c, whole, mask=c < channels)
    tl.store(scale + n * channels + c, 1.0 / tl.sqrt(tl.sum(total, axis=0) / pixels + EPSILON), mask=c < channels)


@triton.jit
def normalized_fwd_kernel(x, mean, scale, y, channels, pixels, ALPHA: tl.constexpr, CHANNEL_IS_FAST: tl.constexpr,
                          DOUBLE: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):  # fmt: skip
    n, block_p, block_c = _place(tl.program_id(0), channels, pixels, CHANNEL_IS_FAST, BLOCK_P, BLOCK_C)
    p, c = block_p * BLOCK_P + tl.arange(0, BLOCK_P), block_c * BLOCK_C + tl.arange(0, BLOCK_C)
    offsets, inside = _offsets(n, p, c, channels, pixels, CHANNEL_IS_FAST)
    row = n.to(tl.int64) * channels
    v = wide(tl.load(x + offsets, mask=inside, other=0.0), DOUBLE)
    v = (v - _of_channels(mean + row, c, channels, CHANNEL_IS_FAST, DOUBLE)) * _of_channels(
        scale + row, c, channels, CHANNEL_IS_FAST, DOUBLE
    )
    tl.store(y + offsets, tl.where(v > 0, v, ALPHA * v).to(y.dtype.element_ty), mask=inside)


@triton.jit
def part_grad_sums_kernel(dy, x, mean, scale, sums, dots, channels, pixels, chunk, chunks, ALPHA: tl.constexpr,
                          CHANNEL_IS_FAST: tl.constexpr, DOUBLE: tl.constexpr, BLOCK_P: tl.constexpr,
                          BLOCK_C: tl.constexpr):  # fmt: skip
    """sums, dots [N, chunks, C]: Σ g and Σ g · v over each chunk of the pixels."""
    along_pixels: tl.constexpr = 0 if CHANNEL_IS_FAST else 1
    across = tl.cdiv(channels, BLOCK_C)
    part = tl.program_id(0) // across
    n, first = part // chunks, part % chunks * chunk
    c = tl.program_id(0) % across * BLOCK_C + tl.arange(0, BLOCK_C)
    row = n.to(tl.int64) * channels
    center = _of_channels(mean + row, c, channels, CHANNEL_IS_FAST, DOUBLE)
    factor = _of_channels(scale + row, c, channels, CHANNEL_IS_FAST, DOUBLE)
    total = _zeros(CHANNEL_IS_FAST, DOUBLE, BLOCK_P, BLOCK_C)
    dot = _zeros(CHANNEL_IS_FAST, DOUBLE, BLOCK_P, BLOCK_C)
    for start in range(first, tl.minimum(first + chunk, pixels), BLOCK_P):
        offsets, inside = _offsets(n, start + tl.arange(0, BLOCK_P), c, channels, pixels, CHANNEL_IS_FAST)
        v = (wide(tl.load(x + offsets, mask=inside, other=0.0), DOUBLE) - center) * factor
        g = wide(tl.load(dy + offsets, mask=inside, other=0.0), DOUBLE)
        g = tl.where(v > 0, g, ALPHA * g)
        total += g
        dot += g * v
    at = part.to(tl.int64) * channels + c
    tl.store(sums + at, tl.sum(total, axis=along_pixels), mask=c < channels)
    tl.store(dots + at, tl.sum(dot, axis=along_pixels), mask=c < channels)


@triton.jit
def normalized_bwd_kernel(dy, x, mean, scale, sums, dots, dx, channels, pixels, ALPHA: tl.constexpr,
                          CHANNEL_IS_FAST: tl.constexpr, DOUBLE: tl.constexpr, BLOCK_P: tl.constexpr,
                          BLOCK_C: tl.constexpr):  # fmt: skip
    """sums, dots [N, C]: over all pixels."""
    n, block_p, block_c = _place(tl.program_id(0), channels, pixels, CHANNEL_IS_FAST, BLOCK_P, BLOCK_C)
    p, c = block_p * BLOCK_P + tl.arange(0, BLOCK_P), block_c * BLOCK_C + tl.arange(0, BLOCK_C)
    offsets, inside = _offsets(n, p, c, channels, pixels, CHANNEL_IS_FAST)
    row = n.to(tl.int64) * channels
    factor = _of_channels(scale + row, c, channels, CHANNEL_IS_FAST, DOUBLE)
    center = _of_channels(mean + row, c, channels, CHANNEL_IS_FAST, DOUBLE)
    v = (wide(tl.load(x + offsets, mask=inside, other=0.0), DOUBLE) - center) * factor
    g = wide(tl.load(dy + offsets, mask=inside, other=0.0), DOUBLE)
    g = tl.where(v > 0, g, ALPHA * g)
    g -= _of_channels(sums + row, c, channels, CHANNEL_IS_FAST, DOUBLE) / pixels
    g -= v * (_of_channels(dots + row, c, channels, CHANNEL_IS_FAST, DOUBLE) / pixels)
    tl.store(dx + offsets, (factor * g).to(dx.dtype.element_ty), mask=inside)
