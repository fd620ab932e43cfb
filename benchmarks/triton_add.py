"""The smallest Triton kernel, for the host time of a launch (host.py)."""

import triton
import triton.language as tl


@triton.jit
def add_kernel(x, size, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + at, tl.load(x + at, mask=at < size) + 1, mask=at < size)
