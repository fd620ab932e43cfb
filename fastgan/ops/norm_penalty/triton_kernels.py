"""The Triton kernels of norm_penalty. A sample is `size` contiguous numbers; a program processes a chunk of one sample.

The sums read their operands once; the scaling reads one tensor and writes one. A sample that is one chunk needs one
launch. Else a second kernel adds the partial sums in a fixed order, without atomics. Results repeat bit for bit.

Programs are numbered along one axis of the grid, because the other two end at 65,535.
"""

import triton
import triton.language as tl


@triton.jit
def _wide(x, DOUBLE: tl.constexpr):
    return x.to(tl.float64) if DOUBLE else x.to(tl.float32)


@triton.jit
def _dot(a, b, begin, end, DOUBLE: tl.constexpr, BLOCK: tl.constexpr):
    """Σ a · b over the elements from begin to end."""
    total = _wide(tl.zeros([BLOCK], tl.float32), DOUBLE)
    for start in range(begin, end, BLOCK):
        i = start + tl.arange(0, BLOCK)
        x = _wide(tl.load(a + i, mask=i < end, other=0.0), DOUBLE)
        y = _wide(tl.load(b + i, mask=i < end, other=0.0), DOUBLE)
        total += x * y
    return tl.sum(total, axis=0)


@triton.jit
def sample_dot_kernel(a, b, partial, size, chunk, chunks, DOUBLE: tl.constexpr, BLOCK: tl.constexpr):
    """partial [N, chunks]: Σ a · b over each chunk of a sample."""
    sample = (tl.program_id(0) // chunks).to(tl.int64)
    begin = (tl.program_id(0) % chunks) * chunk
    end = tl.minimum(begin + chunk, size)
    total = _dot(a + sample * size, b + sample * size, begin, end, DOUBLE, BLOCK)
    tl.store(partial + tl.program_id(0), total)


@triton.jit
def _sum_of_chunks(partial, sample, chunks, BLOCK: tl.constexpr):
    total = tl.zeros([BLOCK], partial.dtype.element_ty)
    for start in range(0, chunks, BLOCK):
        i = start + tl.arange(0, BLOCK)
        total += tl.load(partial + sample * chunks + i, mask=i < chunks, other=0.0)
    return tl.sum(total, axis=0)


@triton.jit
def dot_finish_kernel(partial, dot, chunks, BLOCK: tl.constexpr):
    sample = tl.program_id(0)
    tl.store(dot + sample, _sum_of_chunks(partial, sample, chunks, BLOCK))


@triton.jit
def _store_penalty(square, sample, value, slope, norm, HAS_TARGET: tl.constexpr, TARGET: tl.constexpr):
    size = tl.sqrt(square)
    tl.store(norm + sample, size)
    if HAS_TARGET:
        away = size - TARGET
        tl.store(value + sample, away * away)
        zero = size - size
        tl.store(slope + sample, tl.where(size == 0, zero, 2.0 * away / tl.where(size == 0, zero + 1.0, size)))
    else:
        tl.store(value + sample, square)
        tl.store(slope + sample, 2.0)


@triton.jit
def penalty_kernel(g, value, slope, norm, size, HAS_TARGET: tl.constexpr, TARGET: tl.constexpr, DOUBLE: tl.constexpr,
                   BLOCK: tl.constexpr):  # fmt: skip
    sample = tl.program_id(0).to(tl.int64)
    square = _dot(g + sample * size, g + sample * size, 0, size, DOUBLE, BLOCK)
    _store_penalty(square, sample, value, slope, norm, HAS_TARGET, TARGET)


@triton.jit
def penalty_finish_kernel(partial, value, slope, norm, chunks,
                          HAS_TARGET: tl.constexpr, TARGET: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    sample = tl.program_id(0)
    square = _sum_of_chunks(partial, sample, chunks, BLOCK)
    _store_penalty(square, sample, value, slope, norm, HAS_TARGET, TARGET)


@triton.jit
def sample_scale_kernel(a, c, y, size, DOUBLE: tl.constexpr, BLOCK: tl.constexpr):
    columns = tl.cdiv(size, BLOCK)
    sample = (tl.program_id(0) // columns).to(tl.int64)
    i = (tl.program_id(0) % columns) * BLOCK + tl.arange(0, BLOCK)
    x = _wide(tl.load(a + sample * size + i, mask=i < size, other=0.0), DOUBLE)
    tl.store(y + sample * size + i, (x * tl.load(c + sample)).to(y.dtype.element_ty), mask=i < size)
