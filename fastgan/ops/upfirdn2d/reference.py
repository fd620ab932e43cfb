"""Specification of upfirdn2d, in plain PyTorch. The other back-ends are tested against it.

x [N, C, H, W] of any floating dtype; filter [taps] (separable), [kh, kw], or None (identity); up and down (y, x);
padding (top, bottom, left, right). The steps, with their rounding points:

1. x and the filter are widened to the accumulation dtype (float32 for the half types, else x's own)
2. up − 1 zeros are inserted after every pixel and after every row: [N, C, H·up, W·up]
3. zeros are added, or pixels cropped where padding is negative
4. each channel is correlated with the filter, which is flipped before unless `flip`, and scaled by gain
5. every down-th row and column is kept: (H·up + top + bottom − kh) // down + 1 rows
6. y is rounded once to x's dtype

The result is dense, contiguous or channels_last as `_memory_format.memory_format` chooses from x. Karras et al. 2020
(arXiv:1912.04958) and 2021 (arXiv:2106.12423) resample with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan.ops._memory_format import dense, memory_format


def filter_size(filter: Tensor | None) -> tuple[int, int]:
    """Rows and columns of the filter."""
    if filter is None:
        return 1, 1
    return filter.shape[0], filter.shape[-1]


def output_size(
    x: Tensor, filter: Tensor | None, up: Sequence[int], down: Sequence[int], padding: Sequence[int]
) -> tuple[int, int]:
    """Height and width of the result; below 1 if the filter is larger than the padded image."""
    height, width = (
        (x.shape[2 + axis] * up[axis] + padding[2 * axis] + padding[2 * axis + 1] - taps) // down[axis] + 1
        for axis, taps in enumerate(filter_size(filter))
    )
    return height, width


def upfirdn2d(
    x: Tensor,
    filter: Tensor | None,
    up: Sequence[int],
    down: Sequence[int],
    padding: Sequence[int],
    flip: bool,
    gain: float,
) -> Tensor:
    """x [N, C, H, W] → y [N, C, OH, OW]."""
    layout = memory_format(x)
    wide = x.to(torch.float32) if x.dtype in (torch.float16, torch.bfloat16) else x
    n, c, h, w = x.shape
    top, bottom, left, right = padding
    y = F.pad(wide.reshape(n, c, h, 1, w, 1), (0, up[1] - 1, 0, 0, 0, up[0] - 1)).reshape(n, c, h * up[0], w * up[1])
    y = F.pad(y, (left, right, top, bottom))
    if filter is None:
        y = y * gain
    else:
        f = filter.to(wide.dtype)
        f = f if flip else f.flip(list(range(f.dim())))
        kernels = [f * gain] if f.dim() == 2 else [f[:, None] * gain, f[None]]
        # Autocast would round to its dtype in between.
        with torch.autocast(x.device.type, enabled=False):
            for kernel in kernels:
                y = F.conv2d(y, kernel.expand(c, 1, *kernel.shape), groups=c)
    return dense(y[:, :, :: down[0], :: down[1]].to(x.dtype), layout)
