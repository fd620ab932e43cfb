"""The Triton kernels of spectral normalization, each for all weights of a group at once.

A program reads its layer and its part of the layer from a table on the device, with a row per layer (made in
triton.py). The memory of a weight is a matrix M [ROWS, COLUMNS], which is W or, if TRANSPOSED, Wᵀ, so that adjacent
columns are adjacent in memory: row r, column j = a · INNER + b is at r · PITCH + a · OUTER + b, and is entry
a · V_OUTER + b · V_INNER of the vector over the columns. The vector over the rows is in their order. If WIDE, addresses
and rows are multiples of 16 bytes: the compiler is told so, and loads and stores 16 bytes at a time.

An iteration reads the weights twice, the second time from L2 if they fit. The second product uses the first one before
it is normalized, and the norm is divided out afterwards, so that norms need no launch of their own. sigma² must be
within the range of the dtype, as for PyTorch's norm. There are no atomics: partial sums are stored and added in a fixed
order, so that results repeat bit for bit. All arithmetic is in the weights' dtype.
"""

import triton
import triton.language as tl

# Fields of a row, in the order of triton.WeightLayout.
W = tl.constexpr(0)
DY = tl.constexpr(1)
OUT = tl.constexpr(2)
ROWS = tl.constexpr(3)
COLUMNS = tl.constexpr(4)
TRANSPOSED = tl.constexpr(5)
PITCH = tl.constexpr(6)
INNER = tl.constexpr(7)
OUTER = tl.constexpr(8)
V_INNER = tl.constexpr(9)
V_OUTER = tl.constexpr(10)
TILES = tl.constexpr(11)
CHUNKS = tl.constexpr(12)
WIDE = tl.constexpr(13)
U = tl.constexpr(14)
V = tl.constexpr(19)
FIELDS = tl.constexpr(24)

# Fields of a vector, counted from U or V, in the order of triton.VectorLayout.
ITEMS = tl.constexpr(0)
AT = tl.constexpr(1)
SIZE = tl.constexpr(2)
SUMS = tl.constexpr(3)
PARTS = tl.constexpr(4)


@triton.jit
def _find(table, layers, FIRST: tl.constexpr, LAYERS: tl.constexpr):
    """This program's layer, its row of the table, and the program's number within the layer. FIRST: the field with the
    first program of each layer."""
    item = tl.program_id(0)
    n = tl.arange(0, LAYERS)
    first = tl.load(table + n * FIELDS + FIRST, mask=n < layers, other=0)
    layer = tl.sum(((n < layers) & (first <= item)).to(tl.int32), axis=0) - 1
    row = table + layer * FIELDS
    return layer, row, item - tl.load(row + FIRST).to(tl.int32)


@triton.jit
def _int(row, FIELD: tl.constexpr):
    return tl.load(row + FIELD).to(tl.int32)


@triton.jit
def _is_wide(row):
    return tl.load(row + WIDE) != 0


@triton.jit
def _address(row, FIELD: tl.constexpr, like, IS_WIDE: tl.constexpr):
    address = tl.load(row + FIELD).to(tl.pointer_type(like.dtype.element_ty))
    if IS_WIDE:
        address = tl.multiple_of(address, 16)
    return address


@triton.jit
def _length(row, FIELD: tl.constexpr, like, IS_WIDE: tl.constexpr):
    """COLUMNS, PITCH, INNER or OUTER: multiples of 16 bytes if the layer is wide."""
    # The hint has no effect on a function's argument, so the load is here.
    number = tl.load(row + FIELD)
    if IS_WIDE:
        number = tl.multiple_of(number, 128 // like.dtype.element_ty.primitive_bitwidth)
    return number


@triton.jit
def _strides(row, like, IS_WIDE: tl.constexpr):
    """The strides for _columns, loaded once, since the compiler moves no load out of a loop."""
    inner, outer = _length(row, INNER, like, IS_WIDE).to(tl.int32), _length(row, OUTER, like, IS_WIDE)
    return inner, outer, tl.load(row + V_INNER), tl.load(row + V_OUTER)


@triton.jit
def _columns(j, inner, outer, v_inner, v_outer):
    """The offsets of columns j in memory, and their positions in the vector."""
    a = j // inner
    b = j - a * inner
    return a * outer + b, a * v_outer + b * v_inner


@triton.jit
def _parts(vector, sums):
    """The first partial sum of a vector, the length of each, and their number."""
    return sums + tl.load(vector + SUMS), tl.load(vector + SIZE), _int(vector, PARTS)


@triton.jit
def _sum_of_parts(first, size, parts, positions, inside, BLOCK_P: tl.constexpr):
    """The entries of a vector at those positions."""
    total = tl.zeros(positions.shape, first.dtype.element_ty)
    for start in range(0, parts, BLOCK_P):
        p = start + tl.arange(0, BLOCK_P)
        mask = (p < parts)[:, None] & inside[None, :]
        total += tl.sum(tl.load(first + (p * size)[:, None] + positions[None, :], mask=mask, other=0.0), axis=0)
    return total


@triton.jit
def _source(vector, uv, sums, FROM_SUMS: tl.constexpr):
    if FROM_SUMS:
        return _parts(vector, sums)
    else:
        return uv + tl.load(vector + AT), tl.load(vector + SIZE), 1


@triton.jit
def _entries(first, size, parts, positions, inside, FROM_SUMS: tl.constexpr, BLOCK_P: tl.constexpr):
    if FROM_SUMS:
        return _sum_of_parts(first, size, parts, positions, inside, BLOCK_P)
    else:
        return tl.load(first + positions, mask=inside, other=0.0)


@triton.jit
def _product(row, source, target, item, uv, sums, FROM_SUMS: tl.constexpr, IS_WIDE: tl.constexpr,
             BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, REPEATS: tl.constexpr):  # fmt: skip
    """Partial sums of M · source: a block of rows, REPEATS blocks of columns."""
    rows, columns = _int(row, ROWS), _length(row, COLUMNS, uv, IS_WIDE).to(tl.int32)
    pitch = _length(row, PITCH, uv, IS_WIDE)
    inner, outer, v_inner, v_outer = _strides(row, uv, IS_WIDE)
    x_first, x_size, x_parts = _source(source, uv, sums, FROM_SUMS)
    y_first, y_size, across = _parts(target, sums)
    r = item // across * BLOCK_R + tl.arange(0, BLOCK_R)
    part = item % across
    begin = part * (BLOCK_C * REPEATS)
    row_starts = _address(row, W, uv, IS_WIDE) + (r * pitch)[:, None]
    total = tl.zeros([BLOCK_R, BLOCK_C], uv.dtype.element_ty)
    for start in range(begin, tl.minimum(columns, begin + BLOCK_C * REPEATS), BLOCK_C):
        j = start + tl.arange(0, BLOCK_C)
        offsets, positions = _columns(j, inner, outer, v_inner, v_outer)
        x = _entries(x_first, x_size, x_parts, positions, j < columns, FROM_SUMS, BLOCK_P)
        inside = (r < rows)[:, None] & (j < columns)[None, :]
        total += tl.load(row_starts + offsets[None, :], mask=inside, other=0.0) * x[None, :]
    tl.store(y_first + part * y_size + r, tl.sum(total, axis=1), mask=r < rows)


@triton.jit
def _transposed_product(row, source, target, item, uv, sums, FROM_SUMS: tl.constexpr, IS_WIDE: tl.constexpr,
                        BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
                        REPEATS: tl.constexpr):  # fmt: skip
    """Partial sums of Mᵀ · source: a block of columns, REPEATS blocks of rows."""
    rows, columns = _int(row, ROWS), _length(row, COLUMNS, uv, IS_WIDE).to(tl.int32)
    inner, outer, v_inner, v_outer = _strides(row, uv, IS_WIDE)
    x_first, x_size, x_parts = _source(source, uv, sums, FROM_SUMS)
    y_first, y_size, down = _parts(target, sums)
    j = item // down * BLOCK_C + tl.arange(0, BLOCK_C)
    part = item % down
    begin = part * (BLOCK_R * REPEATS)
    offsets, positions = _columns(j, inner, outer, v_inner, v_outer)
    column_starts = _address(row, W, uv, IS_WIDE) + offsets[None, :]
    pitch = _length(row, PITCH, uv, IS_WIDE)
    total = tl.zeros([BLOCK_R, BLOCK_C], uv.dtype.element_ty)
    for start in range(begin, tl.minimum(rows, begin + BLOCK_R * REPEATS), BLOCK_R):
        r = start + tl.arange(0, BLOCK_R)
        x = _entries(x_first, x_size, x_parts, r, r < rows, FROM_SUMS, BLOCK_P)
        inside = (r < rows)[:, None] & (j < columns)[None, :]
        total += tl.load(column_starts + (r * pitch)[:, None], mask=inside, other=0.0) * x[:, None]
    tl.store(y_first + part * y_size + positions, tl.sum(total, axis=0), mask=j < columns)


@triton.jit
def spectral_product_kernel(table, layers, uv, sums, TO_U: tl.constexpr, FROM_SUMS: tl.constexpr,
                            LAYERS: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
                            REPEATS: tl.constexpr):  # fmt: skip
    """Partial sums of W v (TO_U) or Wᵀ u. The vector is in uv, or the product of the launch before (FROM_SUMS)."""
    if TO_U:
        _, row, item = _find(table, layers, U + ITEMS, LAYERS)
        source, target = row + V, row + U
        untransposed = tl.load(row + TRANSPOSED) == 0
    else:
        _, row, item = _find(table, layers, V + ITEMS, LAYERS)
        source, target = row + U, row + V
        untransposed = tl.load(row + TRANSPOSED) != 0
    # Both branches have the same code: what the compiler knows of the addresses differs.
    if _is_wide(row):
        if untransposed:
            _product(row, source, target, item, uv, sums, FROM_SUMS, True, BLOCK_R, BLOCK_C, BLOCK_P, REPEATS)
        else:
            _transposed_product(
                row, source, target, item, uv, sums, FROM_SUMS, True, BLOCK_R, BLOCK_C, BLOCK_P, REPEATS
            )
    else:
        if untransposed:
            _product(row, source, target, item, uv, sums, FROM_SUMS, False, BLOCK_R, BLOCK_C, BLOCK_P, REPEATS)
        else:
            _transposed_product(
                row, source, target, item, uv, sums, FROM_SUMS, False, BLOCK_R, BLOCK_C, BLOCK_P, REPEATS
            )


@triton.jit
def _divide(a, b):
    # Triton's division of float32 is approximate; an error in a norm would be in every entry.
    if b.dtype == tl.float32:
        return tl.div_rn(a, b)
    else:
        return a / b


@triton.jit
def _inverse(x):
    return _divide(tl.full((), 1.0, x.dtype), x)


@triton.jit
def _is_finite(x):
    return (x - x) == 0


@triton.jit
def _norm(vector, sums, factor, BLOCK: tl.constexpr, BLOCK_P: tl.constexpr):
    """‖factor · vector‖"""
    first, size, parts = _parts(vector, sums)
    total = tl.zeros([BLOCK], sums.dtype.element_ty)
    for start in range(0, size.to(tl.int32), BLOCK):
        i = start + tl.arange(0, BLOCK)
        x = _sum_of_parts(first, size, parts, i, i < size, BLOCK_P) * factor
        total += x * x
    return tl.sqrt(tl.sum(total, axis=0))


@triton.jit
def _write(vector, sums, factor, old, new, good, GUARDED: tl.constexpr, BLOCK: tl.constexpr, BLOCK_P: tl.constexpr):
    """new = factor · vector; if GUARDED, old where the layer is not good."""
    first, size, parts = _parts(vector, sums)
    at = tl.load(vector + AT)
    for start in range(0, size.to(tl.int32), BLOCK):
        i = start + tl.arange(0, BLOCK)
        x = _sum_of_parts(first, size, parts, i, i < size, BLOCK_P) * factor
        if GUARDED:
            x = tl.where(good, x, tl.load(old + at + i, mask=i < size, other=0.0))
        tl.store(new + at + i, x, mask=i < size)


@triton.jit
def spectral_finish_kernel(table, sums, old, new, sigma, U_FIRST: tl.constexpr, LAST: tl.constexpr, EPS: tl.constexpr,
                           BLOCK: tl.constexpr, BLOCK_P: tl.constexpr):  # fmt: skip
    """The end of an iteration, a program per layer: divides the norms out of both products, into new.

    The LAST one also stores sigma, and keeps the old vectors where it is not finite. Earlier ones need not: later
    iterations are not finite either.
    """
    layer = tl.program_id(0)
    row = table + layer * FIELDS
    if U_FIRST:
        first, second = row + U, row + V
    else:
        first, second = row + V, row + U
    one = tl.full((), 1.0, sums.dtype.element_ty)
    eps = tl.full((), EPS, sums.dtype.element_ty)
    size = _norm(first, sums, one, BLOCK, BLOCK_P)
    first_factor = _inverse(tl.where(size > eps, size, eps))
    # The second product was computed from the first before its normalization. uᵀ W v is then the norm of the second, or
    # less where eps limits it.
    size = _norm(second, sums, first_factor, BLOCK, BLOCK_P)
    second_factor = _inverse(tl.where(size > eps, size, eps)) * first_factor
    value = tl.where(size > eps, size, size * _divide(size, eps))
    good = _is_finite(value)
    if LAST:
        tl.store(sigma + layer, tl.where(good, value, float("nan")))
    _write(first, sums, first_factor, old, new, good, LAST, BLOCK, BLOCK_P)
    _write(second, sums, second_factor, old, new, good, LAST, BLOCK, BLOCK_P)


@triton.jit
def spectral_sigma_kernel(table, sums, uv, sigma, BLOCK: tl.constexpr, BLOCK_P: tl.constexpr):
    """sigma = uᵀ (W v), a program per layer."""
    layer = tl.program_id(0)
    u = table + layer * FIELDS + U
    first, size, parts = _parts(u, sums)
    at = tl.load(u + AT)
    total = tl.zeros([BLOCK], sums.dtype.element_ty)
    for start in range(0, size.to(tl.int32), BLOCK):
        i = start + tl.arange(0, BLOCK)
        x = tl.load(uv + at + i, mask=i < size, other=0.0)
        total += x * _sum_of_parts(first, size, parts, i, i < size, BLOCK_P)
    value = tl.sum(total, axis=0)
    tl.store(sigma + layer, tl.where(_is_finite(value), value, float("nan")))


@triton.jit
def _scale(row, item, sigma, factor, IS_WIDE: tl.constexpr, CHUNK: tl.constexpr, REPEATS: tl.constexpr):
    w, out = _address(row, W, sigma, IS_WIDE), _address(row, OUT, sigma, IS_WIDE)
    elements = tl.load(row + ROWS) * _length(row, COLUMNS, sigma, IS_WIDE)
    for repeat in range(REPEATS):
        i = (item.to(tl.int64) * REPEATS + repeat) * CHUNK + tl.arange(0, CHUNK)
        x = tl.load(w + i, mask=i < elements, other=0.0)
        tl.store(out + i, x * factor, mask=i < elements)


@triton.jit
def spectral_scale_kernel(table, layers, sigma, LAYERS: tl.constexpr, CHUNK: tl.constexpr, REPEATS: tl.constexpr):
    """OUT = W / sigma"""
    layer, row, item = _find(table, layers, CHUNKS, LAYERS)
    factor = _inverse(tl.load(sigma + layer))
    if _is_wide(row):
        _scale(row, item, sigma, factor, True, CHUNK, REPEATS)
    else:
        _scale(row, item, sigma, factor, False, CHUNK, REPEATS)


@triton.jit
def _inner(row, item, partial, IS_WIDE: tl.constexpr, CHUNK: tl.constexpr, REPEATS: tl.constexpr):
    w, dy = _address(row, W, partial, IS_WIDE), _address(row, DY, partial, IS_WIDE)
    elements = tl.load(row + ROWS) * _length(row, COLUMNS, partial, IS_WIDE)
    total = tl.zeros([CHUNK], partial.dtype.element_ty)
    for repeat in range(REPEATS):
        i = (item.to(tl.int64) * REPEATS + repeat) * CHUNK + tl.arange(0, CHUNK)
        inside = i < elements
        total += tl.load(w + i, mask=inside, other=0.0) * tl.load(dy + i, mask=inside, other=0.0)
    tl.store(partial + tl.program_id(0), tl.sum(total, axis=0))


@triton.jit
def spectral_inner_kernel(table, layers, partial, LAYERS: tl.constexpr, CHUNK: tl.constexpr,
                          REPEATS: tl.constexpr):  # fmt: skip
    """partial[program] = Σ DY · W over the program's chunk; both have the same memory layout."""
    _, row, item = _find(table, layers, CHUNKS, LAYERS)
    if _is_wide(row):
        _inner(row, item, partial, True, CHUNK, REPEATS)
    else:
        _inner(row, item, partial, False, CHUNK, REPEATS)


@triton.jit
def _sum_of_chunks(row, partial, CHUNK: tl.constexpr, REPEATS: tl.constexpr):
    first = partial + tl.load(row + CHUNKS)
    count = tl.cdiv(tl.load(row + ROWS) * tl.load(row + COLUMNS), CHUNK * REPEATS).to(tl.int32)
    total = tl.zeros([CHUNK], partial.dtype.element_ty)
    for start in range(0, count, CHUNK):
        i = start + tl.arange(0, CHUNK)
        total += tl.load(first + i, mask=i < count, other=0.0)
    return tl.sum(total, axis=0)


@triton.jit
def _grad(row, item, uv, scale, factor, IS_WIDE: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
          REPEATS: tl.constexpr):  # fmt: skip
    dy, out = _address(row, DY, uv, IS_WIDE), _address(row, OUT, uv, IS_WIDE)
    u_at, v_at = tl.load(row + U + AT), tl.load(row + V + AT)
    transposed = tl.load(row + TRANSPOSED) != 0
    left_at, right_at = tl.where(transposed, v_at, u_at), tl.where(transposed, u_at, v_at)
    rows, columns = _int(row, ROWS), _length(row, COLUMNS, uv, IS_WIDE).to(tl.int32)
    inner, outer, v_inner, v_outer = _strides(row, uv, IS_WIDE)
    across = tl.cdiv(columns, BLOCK_C * REPEATS)
    r = item // across * BLOCK_R + tl.arange(0, BLOCK_R)
    row_starts = (r * _length(row, PITCH, uv, IS_WIDE))[:, None]
    left = factor * tl.load(uv + left_at + r, mask=r < rows, other=0.0)
    begin = item % across * (BLOCK_C * REPEATS)
    for start in range(begin, tl.minimum(columns, begin + BLOCK_C * REPEATS), BLOCK_C):
        j = start + tl.arange(0, BLOCK_C)
        offsets, positions = _columns(j, inner, outer, v_inner, v_outer)
        right = tl.load(uv + right_at + positions, mask=j < columns, other=0.0)
        inside = (r < rows)[:, None] & (j < columns)[None, :]
        g = tl.load(dy + row_starts + offsets[None, :], mask=inside, other=0.0)
        tl.store(out + row_starts + offsets[None, :], (g - left[:, None] * right[None, :]) * scale, mask=inside)


@triton.jit
def spectral_grad_kernel(table, layers, uv, sigma, partial, LAYERS: tl.constexpr, BLOCK_R: tl.constexpr,
                         BLOCK_C: tl.constexpr, REPEATS: tl.constexpr):  # fmt: skip
    """OUT = (DY − ⟨DY, W⟩ / sigma · u vᵀ) / sigma, in tiles of M."""
    layer, row, item = _find(table, layers, TILES, LAYERS)
    scale = _inverse(tl.load(sigma + layer))
    factor = scale * _sum_of_chunks(row, partial, BLOCK_R * BLOCK_C, REPEATS)
    if _is_wide(row):
        _grad(row, item, uv, scale, factor, True, BLOCK_R, BLOCK_C, REPEATS)
    else:
        _grad(row, item, uv, scale, factor, False, BLOCK_R, BLOCK_C, REPEATS)
