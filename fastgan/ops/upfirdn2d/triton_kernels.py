"""The Triton kernel of upfirdn2d: padding, zero insertion, both passes of a separable filter and decimation in one
launch.

A group of `up` outputs along an axis needs `down` new inputs, and which taps meet which inputs is the same in all
groups. A program computes ROWS output rows, whole groups, for a tile of groups of columns by channels. All indices
within a program are therefore constants, its loops are unrolled, and taps that meet an inserted zero are never
multiplied. Along an axis, with before = up · start + SHIFT:

    output = group · up + phase,    input = group · down − start + (phase · down − SHIFT + k) / up

for the taps k that divide. A row of inputs is loaded once for each column of the filter and kept in registers for the
output rows that it reaches, already filtered along the row if the filter is separable.

Memory: x is read and y written once (rows and columns that two programs need come from the cache). Loads of an output
of a 4-tap filter: 5.5 without resampling, 1.1 for up = 2, 10 for down = 2, of 16 bytes each where the channel is
the fast axis. Multiplications: 9.5, 3.5 and 14; of a 4×4 filter 16, 4 and 16, so that a filter with rank 1 in two
dimensions need not be recognized, for which its numbers would have to come to the host.

Programs are numbered along one axis of the grid, because the other two end at 65,535.
"""

# Triton takes neither unpacking in tuples nor annotations of them.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment,misc,var-annotated"

import triton
import triton.language as tl


@triton.jit
def _taps(filter, COUNT: tl.constexpr, HAS_FILTER: tl.constexpr, FLIP: tl.constexpr, DOUBLE: tl.constexpr):
    """The taps in the order in which they meet the inputs."""
    found = ()
    for k in tl.static_range(COUNT):
        if HAS_FILTER:
            tap = tl.load(filter + (k if FLIP else COUNT - 1 - k)).to(tl.float64 if DOUBLE else tl.float32)
        else:
            tap = tl.full([], 1.0, tl.float64 if DOUBLE else tl.float32)
        found = found + (tap,)
    return found


@triton.jit
def _row(x, r, top, at, column, some_channel, height, width, step, INPUTS: tl.constexpr, DOUBLE: tl.constexpr):
    """Of row top + r the INPUTS columns that a group of outputs needs, a tile each. step: between them in memory."""
    row = x + (top + r).to(tl.int64) * width * step + at
    inside = some_channel & (top + r >= 0) & (top + r < height)
    found = ()
    for e in tl.static_range(INPUTS):
        seen = inside & (column + e >= 0) & (column + e < width)
        value = tl.load(row + e * step, mask=seen, other=0.0)
        found = found + (value.to(tl.float64 if DOUBLE else tl.float32),)
    return found


@triton.jit
def _along_row(sums, inputs, taps, FIRST_TAP: tl.constexpr, TAPS: tl.constexpr, UP: tl.constexpr, DOWN: tl.constexpr,
               SHIFT: tl.constexpr):  # fmt: skip
    """sums, a tile for each phase, plus the row filtered with TAPS of the taps."""
    phases = ()
    for phase in tl.static_range(UP):
        total = sums[phase]
        for k in tl.static_range(TAPS):
            if (phase * DOWN - SHIFT + k) % UP == 0:
                total += inputs[(phase * DOWN - SHIFT + k) // UP] * taps[FIRST_TAP + k]
        phases = phases + (total,)
    return phases


@triton.jit
def _zeros(like, COUNT: tl.constexpr, DOUBLE: tl.constexpr):
    found = ()
    for _ in tl.static_range(COUNT):
        found = found + (tl.zeros(like.shape, tl.float64 if DOUBLE else tl.float32),)
    return found


@triton.jit
def upfirdn2d_kernel(x, filter, y, height, width, out_height, out_width, channels, start_y, start_x,
                     GAIN: tl.constexpr, UP_Y: tl.constexpr, UP_X: tl.constexpr,
                     DOWN_Y: tl.constexpr, DOWN_X: tl.constexpr, SHIFT_Y: tl.constexpr, SHIFT_X: tl.constexpr,
                     TAPS_Y: tl.constexpr, TAPS_X: tl.constexpr, SEPARABLE: tl.constexpr, HAS_FILTER: tl.constexpr,
                     FLIP: tl.constexpr, CHANNEL_IS_FAST: tl.constexpr, DOUBLE: tl.constexpr,
                     ROWS: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_C: tl.constexpr):  # fmt: skip
    """Where the pixel is the fast axis, `channels` counts those of all images together."""
    columns, rows = tl.cdiv(tl.cdiv(out_width, UP_X), BLOCK_X), tl.cdiv(out_height, ROWS)
    blocks = tl.cdiv(channels, BLOCK_C)
    if CHANNEL_IS_FAST:
        block, rest = tl.program_id(0) % blocks, tl.program_id(0) // blocks
        tile_x, tile_y, image = rest % columns, rest // columns % rows, (rest // columns // rows).to(tl.int64)
        x += image * height * width * channels
        y += image * out_height * out_width * channels
    else:
        tile_x, rest = tl.program_id(0) % columns, tl.program_id(0) // columns
        tile_y, block = rest % rows, rest // rows
    group = tile_x * BLOCK_X + tl.arange(0, BLOCK_X)
    c = block * BLOCK_C + tl.arange(0, BLOCK_C)
    if CHANNEL_IS_FAST:
        group, c, step = group[:, None], c[None, :], channels
        column = group * DOWN_X - start_x
        at, to = column * step + c, group * (UP_X * step) + c
    else:
        group, c, step = group[None, :], c[:, None], 1
        column = group * DOWN_X - start_x
        at = c.to(tl.int64) * height * width + column
        to = c.to(tl.int64) * out_height * out_width + group * UP_X
    top = tile_y * (ROWS // UP_Y * DOWN_Y) - start_y
    taps = _taps(filter, TAPS_X if SEPARABLE else TAPS_Y * TAPS_X, HAS_FILTER, FLIP, DOUBLE)

    inputs: tl.constexpr = ((UP_X - 1) * DOWN_X - SHIFT_X + TAPS_X - 1) // UP_X + 1
    zeros = _zeros(at, UP_X, DOUBLE)
    lines = ()
    for j in tl.static_range(ROWS):
        # The lines that this output row needs and the one before did not.
        for r in tl.static_range(((j - 1) * DOWN_Y - SHIFT_Y + TAPS_Y - 1) // UP_Y + 1 if j > 0 else 0,
                                 (j * DOWN_Y - SHIFT_Y + TAPS_Y - 1) // UP_Y + 1):  # fmt: skip
            line = _row(x, r, top, at, column, c < channels, height, width, step, inputs, DOUBLE)
            if SEPARABLE:
                line = _along_row(zeros, line, taps, 0, TAPS_X, UP_X, DOWN_X, SHIFT_X)
            lines = lines + (line,)
        sums = zeros
        for k in tl.static_range(TAPS_Y):
            if (j * DOWN_Y - SHIFT_Y + k) % UP_Y == 0:
                line = lines[(j * DOWN_Y - SHIFT_Y + k) // UP_Y]
                if SEPARABLE:
                    added = ()
                    for phase in tl.static_range(UP_X):
                        added = added + (sums[phase] + line[phase] * taps[k],)
                    sums = added
                else:
                    sums = _along_row(sums, line, taps, k * TAPS_X, TAPS_X, UP_X, DOWN_X, SHIFT_X)
        oy = tile_y * ROWS + j
        row = y + oy.to(tl.int64) * out_width * step + to
        inside = (c < channels) & (oy < out_height)
        if UP_X == 2 and not CHANNEL_IS_FAST:
            ox = tile_x * (2 * BLOCK_X) + tl.arange(0, 2 * BLOCK_X)[None, :]
            row = y + oy.to(tl.int64) * out_width + c.to(tl.int64) * out_height * out_width + ox
            both = tl.interleave(sums[0], sums[1]) * GAIN  # in one store
            tl.store(row, both.to(y.dtype.element_ty), mask=inside & (ox < out_width))
        else:
            for phase in tl.static_range(UP_X):
                value = (sums[phase] * GAIN).to(y.dtype.element_ty)
                tl.store(row + phase * step, value, mask=inside & (group * UP_X + phase < out_width))
