"""The Triton kernel of filtered_lrelu and of its derivative: both filters and the nonlinearity in one launch.

A program computes a tile of y, for BLOCK_C channels at a time. A filter along one axis, together with the zeros that
are inserted before it or the samples that are dropped after it, is a product with a band matrix [samples before,
samples after] whose columns hold the taps. Two products make the tile at the high rate, and two more make y of it, on
tensor cores. What is at the high rate never leaves the chip. A program makes the four matrices once and loops over
REPEATS blocks of channels.

    x → vertical up → horizontal up → nonlinearity → horizontal down → vertical down → y

The left operand of a product has the summed axis last, so there is a transposition after the first product and before
the last. Sums are float32. A NaN or an infinity reaches the whole tile, because a band matrix
multiplies by zeros.
"""

import triton
import triton.language as tl

#: Positions are divided as positive numbers: `//` rounds to zero in a kernel. The launcher limits the padding.
OFFSET = tl.constexpr(1 << 20)


@triton.jit
def _taps(filter, k, TAPS: tl.constexpr, FLIP: tl.constexpr, HAS_FILTER: tl.constexpr, HALF: tl.constexpr):
    """The filter at k, as an operand of a product; 0 outside of it. Without a filter: one tap of 1."""
    inside = (k >= 0) & (k < TAPS)
    if HAS_FILTER:
        found = tl.load(filter + (k if FLIP else TAPS - 1 - k), mask=inside, other=0.0).to(tl.float32)
    else:
        found = inside.to(tl.float32)
    return found.to(tl.float16) if HALF else found


@triton.jit
def _first_input(position, UP: tl.constexpr):
    """The first sample of x at or after a position at the high rate."""
    return (position + UP - 1 + OFFSET * UP) // UP - OFFSET


@triton.jit
def _dot(a, b, HALF: tl.constexpr, PRECISION: tl.constexpr):
    if HALF:
        a = a.to(tl.float16)
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def filtered_lrelu_kernel(x, bias, first, second, masks, y, groups, channels, height, width, high_height, high_width,
                          out_height, out_width, start_h, start_w, skip_h, skip_w,
                          UP_H: tl.constexpr, UP_W: tl.constexpr, DOWN_H: tl.constexpr, DOWN_W: tl.constexpr,
                          FIRST: tl.constexpr, SECOND: tl.constexpr, HAS_FIRST: tl.constexpr,
                          HAS_SECOND: tl.constexpr, FLIP: tl.constexpr, HAS_BIAS: tl.constexpr, LINEAR: tl.constexpr,
                          MASKS: tl.constexpr, FIRST_GAIN: tl.constexpr, GAIN: tl.constexpr, SLOPE: tl.constexpr,
                          HAS_CLAMP: tl.constexpr, CLAMP: tl.constexpr, CHANNELS_LAST: tl.constexpr,
                          HALF: tl.constexpr, PRECISION: tl.constexpr, REPEATS: tl.constexpr,
                          BLOCK_C: tl.constexpr, IN_H: tl.constexpr, IN_W: tl.constexpr, HIGH_H: tl.constexpr,
                          HIGH_W: tl.constexpr, OUT_H: tl.constexpr, OUT_W: tl.constexpr, OWN_H: tl.constexpr,
                          OWN_W: tl.constexpr):  # fmt: skip
    """y [N, C, OH, OW] of x [N, C, H, W], both dense in the same layout; first and second: filters [FIRST], [SECOND].

    LINEAR: u · factor of the masks, which are read; else leaky ReLU, and MASKS says whether the masks are written.
    groups: N · ceil(C / BLOCK_C). high_*: size at the high rate. skip_*: zeros that the second filter finds before it;
    start_*: those and the zeros that the first filter finds before x. A program computes OWN_H · OWN_W pixels of its
    tile of OUT_H · OUT_W, from IN_H · IN_W of x and HIGH_H · HIGH_W at the high rate.
    """
    tiles_w = tl.cdiv(out_width, OWN_W)
    tiles = tl.cdiv(out_height, OWN_H) * tiles_w
    chunks = tl.cdiv(groups, REPEATS)
    # Programs that share cache lines of x follow one another.
    if CHANNELS_LAST:
        tile = tl.program_id(0) // chunks
        chunk = tl.program_id(0) % chunks
    else:
        tile = tl.program_id(0) % tiles
        chunk = tl.program_id(0) // tiles
    o_h = tile // tiles_w * OWN_H
    o_w = tile % tiles_w * OWN_W
    position_h = o_h * DOWN_H - start_h
    position_w = o_w * DOWN_W - start_w
    i_h = _first_input(position_h, UP_H)
    i_w = _first_input(position_w, UP_W)

    in_h = tl.arange(0, IN_H)
    in_w = tl.arange(0, IN_W)
    high_h = tl.arange(0, HIGH_H)
    high_w = tl.arange(0, HIGH_W)
    out_h = tl.arange(0, OUT_H)
    out_w = tl.arange(0, OUT_W)
    up_h = _taps(first, in_h[:, None] * UP_H + (i_h * UP_H - position_h) - high_h[None, :],
                 FIRST, FLIP, HAS_FIRST, HALF)  # fmt: skip
    up_w = _taps(first, in_w[:, None] * UP_W + (i_w * UP_W - position_w) - high_w[None, :],
                 FIRST, FLIP, HAS_FIRST, HALF)  # fmt: skip
    down_h = _taps(second, high_h[:, None] - out_h[None, :] * DOWN_H, SECOND, FLIP, HAS_SECOND, HALF)
    down_w = _taps(second, high_w[:, None] - out_w[None, :] * DOWN_W, SECOND, FLIP, HAS_SECOND, HALF)

    # Rows of the first and of the last product are (channel, column), or (column, channel) where channels are adjacent
    # in memory; rows between are (channel, row).
    row_x = tl.arange(0, BLOCK_C * IN_W)
    row_y = tl.arange(0, BLOCK_C * OUT_W)
    row_u = tl.arange(0, BLOCK_C * HIGH_H)
    if CHANNELS_LAST:
        c_x, w_x = row_x % BLOCK_C, row_x // BLOCK_C
        c_y, w_y = row_y % BLOCK_C, row_y // BLOCK_C
    else:
        c_x, w_x = row_x // IN_W, row_x % IN_W
        c_y, w_y = row_y // OUT_W, row_y % OUT_W
    c_u, h_u = row_u // HIGH_H, row_u % HIGH_H
    w_x += i_w
    w_y += o_w
    h_x = i_h + in_h
    h_y = o_h + out_h
    at_h = o_h * DOWN_H - skip_h + h_u
    at_w = o_w * DOWN_W - skip_w + high_w
    there_h = (at_h >= 0) & (at_h < high_height)
    there_w = (at_w >= 0) & (at_w < high_width)
    bytes = (high_width + 3) // 4  # of the masks of a row
    blocks = tl.cdiv(channels, BLOCK_C)

    for block in range(REPEATS):
        group = chunk * REPEATS + block
        image = (group // blocks).to(tl.int64)
        first_c = group % blocks * BLOCK_C
        exists = group < groups

        c = first_c + c_x
        inside = ((c < channels) & exists & (w_x >= 0) & (w_x < width))[:, None] & ((h_x >= 0) & (h_x < height))[
            None, :
        ]
        if CHANNELS_LAST:
            offsets = (w_x * channels + c)[:, None] + (h_x * (width * channels))[None, :]
        else:
            offsets = (c * (height * width) + w_x)[:, None] + (h_x * width)[None, :]
        a = tl.load(x + image * channels * height * width + offsets, mask=inside, other=0.0).to(tl.float32)
        if HAS_BIAS:
            b = tl.load(bias + c, mask=(c < channels) & exists, other=0.0).to(tl.float32)
            a = tl.where(inside, a + b[:, None], a)
        t = _dot(a, up_h, HALF, PRECISION)
        if CHANNELS_LAST:
            t = tl.permute(tl.reshape(t, (IN_W, BLOCK_C, HIGH_H)), (1, 2, 0))
        else:
            t = tl.permute(tl.reshape(t, (BLOCK_C, IN_W, HIGH_H)), (0, 2, 1))
        u = _dot(tl.reshape(t, (BLOCK_C * HIGH_H, IN_W)), up_w, HALF, PRECISION) * FIRST_GAIN

        c = first_c + c_u
        there = there_h & (c < channels) & exists
        rows = masks + image * channels * high_height * bytes + (c * high_height + at_h)[:, None] * bytes
        if LINEAR:
            there = there[:, None] & there_w[None, :]
            packed = tl.load(rows + (at_w // 4)[None, :], mask=there, other=3).to(tl.int32)
            bits = (packed >> (at_w % 4 * 2)[None, :]) & 3
            v = tl.where(bits == 0, u * GAIN, tl.where(bits == 1, u * (SLOPE * GAIN), u * 0.0))
            v = tl.where(there, v, 0.0)
        else:
            v = tl.where(u <= 0, u * SLOPE, u) * GAIN
            if MASKS:
                bits = (u <= 0).to(tl.int32)
                if HAS_CLAMP:
                    bits += 2 * (tl.abs(v) >= CLAMP).to(tl.int32)
                bits = tl.where(there_w[None, :], bits << (at_w % 4 * 2)[None, :], 0)
                packed = tl.sum(tl.reshape(bits, (BLOCK_C * HIGH_H, HIGH_W // 4, 4)), axis=2)
                # Tiles overlap at the high rate: each mask is written by the first tile that has it, or the last one.
                at_byte = o_w * DOWN_W // 4 + tl.arange(0, HIGH_W // 4)
                last_h = tl.where(o_h + OWN_H >= out_height, high_height, (o_h + OWN_H) * DOWN_H)
                last_byte = tl.where(o_w + OWN_W >= out_width, bytes, (o_w + OWN_W) * DOWN_W // 4)
                own = (there & (at_h < last_h))[:, None] & (at_byte < last_byte)[None, :]
                tl.store(rows + at_byte[None, :], packed.to(tl.uint8), mask=own)
            if HAS_CLAMP:
                v = tl.where(v > CLAMP, CLAMP, tl.where(v < -CLAMP, -CLAMP, v))

        d = tl.reshape(_dot(v, down_w, HALF, PRECISION), (BLOCK_C, HIGH_H, OUT_W))
        d = tl.permute(d, (2, 0, 1)) if CHANNELS_LAST else tl.permute(d, (0, 2, 1))
        z = _dot(tl.reshape(d, (BLOCK_C * OUT_W, HIGH_H)), down_h, HALF, PRECISION)

        c = first_c + c_y
        own = ((c < channels) & exists & (w_y < tl.minimum(o_w + OWN_W, out_width)))[:, None]
        own = own & (h_y < tl.minimum(o_h + OWN_H, out_height))[None, :]
        if CHANNELS_LAST:
            offsets = (w_y * channels + c)[:, None] + (h_y * (out_width * channels))[None, :]
        else:
            offsets = (c * (out_height * out_width) + w_y)[:, None] + (h_y * out_width)[None, :]
        tl.store(y + image * channels * out_height * out_width + offsets, z.to(y.dtype.element_ty), mask=own)
