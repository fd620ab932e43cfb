"""The Triton kernels of channel_scale, channel_dot and scale_noise_bias_act. A tensor [N, C, *] is `pixels` by
`channels` of each sample in either order; a program takes a tile of one sample, so that it reads each factor, noise and
bias once.

Memory traffic in tensors: scaling 2, the dot product 2, the epilogue 2, its gradient 3, with the gradient of the scale
4. Sums are float32 (float64 for double): programs store partial sums, and a second kernel adds them in order, without
atomics, so that results repeat bit for bit. They are less than 1/16 of a tensor.

Programs are numbered along one axis of the grid, because the other two end at 65,535.
"""

import triton
import triton.language as tl

from fastgan.ops.bias_act.triton_kernels import activated, slope, wide


@triton.jit
def _place(program, channels, pixels, CHANNEL_IS_FAST: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    """(sample, block of pixels, block of channels) of a program: neighbors in memory come after each other."""
    across, down = tl.cdiv(channels, BLOCK_C), tl.cdiv(pixels, BLOCK_P)
    tile = program % (across * down)
    if CHANNEL_IS_FAST:
        return program // (across * down), tile // across, tile % across
    else:
        return program // (across * down), tile % down, tile // down


@triton.jit
def _offsets(n, p, c, channels, pixels, CHANNEL_IS_FAST: tl.constexpr):
    """Offsets and mask of the tile p by c of sample n: 64 bits wide, for large tensors."""
    start = n.to(tl.int64) * channels * pixels
    if CHANNEL_IS_FAST:
        inside = (p < pixels)[:, None] & (c < channels)[None, :]
        return start + p.to(tl.int64)[:, None] * channels + c[None, :], inside
    else:
        inside = (c < channels)[:, None] & (p < pixels)[None, :]
        return start + c.to(tl.int64)[:, None] * pixels + p[None, :], inside


@triton.jit
def _of_channels(values, c, channels, CHANNEL_IS_FAST: tl.constexpr, DOUBLE: tl.constexpr):
    """A value for each channel, as a factor of a tile."""
    found = wide(tl.load(values + c, mask=c < channels, other=0.0), DOUBLE)
    return found[None, :] if CHANNEL_IS_FAST else found[:, None]


@triton.jit
def scaled_fwd_kernel(x, scale, noise, bias, y, channels, pixels,
                      HAS_NOISE: tl.constexpr, ONE_NOISE: tl.constexpr, HAS_BIAS: tl.constexpr, ACT: tl.constexpr,
                      ALPHA: tl.constexpr, GAIN: tl.constexpr, INVERSE_GAIN: tl.constexpr, HAS_CLAMP: tl.constexpr,
                      CLAMP: tl.constexpr, CHANNEL_IS_FAST: tl.constexpr, DOUBLE: tl.constexpr,
                      BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):  # fmt: skip
    n, block_p, block_c = _place(tl.program_id(0), channels, pixels, CHANNEL_IS_FAST, BLOCK_P, BLOCK_C)
    p, c = block_p * BLOCK_P + tl.arange(0, BLOCK_P), block_c * BLOCK_C + tl.arange(0, BLOCK_C)
    offsets, inside = _offsets(n, p, c, channels, pixels, CHANNEL_IS_FAST)
    factor = _of_channels(scale + n.to(tl.int64) * channels, c, channels, CHANNEL_IS_FAST, DOUBLE)
    v = wide(tl.load(x + offsets, mask=inside, other=0.0), DOUBLE) * factor
    if HAS_NOISE:
        at = p if ONE_NOISE else n.to(tl.int64) * pixels + p
        added = wide(tl.load(noise + at, mask=p < pixels, other=0.0), DOUBLE)
        v += added[:, None] if CHANNEL_IS_FAST else added[None, :]
    if HAS_BIAS:
        v += _of_channels(bias, c, channels, CHANNEL_IS_FAST, DOUBLE)
    v = activated(v, ACT, ALPHA, GAIN, HAS_CLAMP, CLAMP, DOUBLE)
    tl.store(y + offsets, v.to(y.dtype.element_ty), mask=inside)


@triton.jit
def channel_dot_kernel(a, b, partial, channels, pixels, chunk, chunks, CHANNEL_IS_FAST: tl.constexpr,
                       DOUBLE: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):  # fmt: skip
    """partial [N, chunks, C]: Σ a · b over each chunk of the pixels."""
    across = tl.cdiv(channels, BLOCK_C)
    part = tl.program_id(0) // across
    n, first = part // chunks, part % chunks * chunk
    c = tl.program_id(0) % across * BLOCK_C + tl.arange(0, BLOCK_C)
    total = wide(tl.zeros([BLOCK_P, BLOCK_C] if CHANNEL_IS_FAST else [BLOCK_C, BLOCK_P], tl.float32), DOUBLE)
    for start in range(first, tl.minimum(first + chunk, pixels), BLOCK_P):
        offsets, inside = _offsets(n, start + tl.arange(0, BLOCK_P), c, channels, pixels, CHANNEL_IS_FAST)
        left = wide(tl.load(a + offsets, mask=inside, other=0.0), DOUBLE)
        total += left * wide(tl.load(b + offsets, mask=inside, other=0.0), DOUBLE)
    tl.store(partial + part.to(tl.int64) * channels + c, tl.sum(total, axis=0 if CHANNEL_IS_FAST else 1),
             mask=c < channels)  # fmt: skip


@triton.jit
def scaled_bwd_kernel(dy, saved, x, scale, dx, dots, sums, dnoise, channels, pixels,
                      SCALE_GRAD: tl.constexpr, NOISE_GRAD: tl.constexpr, BIAS_GRAD: tl.constexpr, ACT: tl.constexpr,
                      ALPHA: tl.constexpr, GAIN: tl.constexpr, INVERSE_GAIN: tl.constexpr, HAS_CLAMP: tl.constexpr,
                      CLAMP: tl.constexpr, CHANNEL_IS_FAST: tl.constexpr, DOUBLE: tl.constexpr,
                      BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):  # fmt: skip
    """dots and sums [N, blocks of pixels, C] receive Σ dp · x and Σ dp over a block. For the gradient of the noise a
    program takes all channels of its pixels, since that is their sum; else one tile."""
    along_pixels: tl.constexpr = 0 if CHANNEL_IS_FAST else 1
    blocks = tl.cdiv(channels, BLOCK_C)
    if NOISE_GRAD:
        n, block_p = tl.program_id(0) // tl.cdiv(pixels, BLOCK_P), tl.program_id(0) % tl.cdiv(pixels, BLOCK_P)
        first, last = 0, blocks
    else:
        n, block_p, first = _place(tl.program_id(0), channels, pixels, CHANNEL_IS_FAST, BLOCK_P, BLOCK_C)
        last = first + 1
    p = block_p * BLOCK_P + tl.arange(0, BLOCK_P)
    part = (n * tl.cdiv(pixels, BLOCK_P) + block_p).to(tl.int64) * channels
    of_noise = wide(tl.zeros([BLOCK_P, BLOCK_C] if CHANNEL_IS_FAST else [BLOCK_C, BLOCK_P], tl.float32), DOUBLE)
    for block in range(first, last):
        c = block * BLOCK_C + tl.arange(0, BLOCK_C)
        offsets, inside = _offsets(n, p, c, channels, pixels, CHANNEL_IS_FAST)
        factor = _of_channels(scale + n.to(tl.int64) * channels, c, channels, CHANNEL_IS_FAST, DOUBLE)
        g = wide(tl.load(dy + offsets, mask=inside, other=0.0), DOUBLE)
        s = wide(tl.load(saved + offsets, mask=inside, other=0.0), DOUBLE)
        d = g * slope(s, 0.0, ACT, ALPHA, GAIN, INVERSE_GAIN, HAS_CLAMP, CLAMP, DOUBLE)
        tl.store(dx + offsets, (d * factor).to(dx.dtype.element_ty), mask=inside)
        d = tl.where(inside, d, 0.0)
        if SCALE_GRAD:
            dot = d * wide(tl.load(x + offsets, mask=inside, other=0.0), DOUBLE)
            tl.store(dots + part + c, tl.sum(dot, axis=along_pixels), mask=c < channels)
        if BIAS_GRAD:
            tl.store(sums + part + c, tl.sum(d, axis=along_pixels), mask=c < channels)
        if NOISE_GRAD:
            of_noise += d
    if NOISE_GRAD:
        tl.store(dnoise + n.to(tl.int64) * pixels + p, tl.sum(of_noise, axis=1 - along_pixels), mask=p < pixels)
