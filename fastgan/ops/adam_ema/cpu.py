"""adam_ema on the CPU: steps 4 and 5 in one pass by fastgan._cpu, float and double.

Steps 1 to 3 are PyTorch's: its norm reads the gradients once, and the bits of a clipped update depend on its order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan._util import native
from fastgan.ops._launch import CPP_DTYPES, why_no_cpp
from fastgan.ops._library import Kernel
from fastgan.ops.adam_ema import reference


def _why_not(weights, *_) -> str | None:
    if any(weight.dtype != weights[0].dtype for weight in weights):
        return "the C++ kernel takes weights of one dtype"
    return why_no_cpp(weights[0])


def adam_ema(
    weights, gradients, means, squares, steps, averages, copies, loss, divisor, ema_weight, lr, betas, eps, clip
):
    checked = reference.check_gradients(gradients, loss, divisor, clip)
    addresses = [
        (w.data_ptr(), g.data_ptr(), m.data_ptr(), v.data_ptr(), 0 if a is None else a.data_ptr(), t.data_ptr())
        for w, g, m, v, a, t in zip(weights, gradients, means, squares, averages, steps, strict=True)
    ]
    native.cpu().adam_ema(
        addresses, [w.numel() for w in weights], CPP_DTYPES[weights[0].dtype], torch.get_num_threads(), lr, betas, eps,
        ema_weight.item() if isinstance(ema_weight, Tensor) else ema_weight,
        checked.divisor.data_ptr(), checked.bad.data_ptr(),
    )  # fmt: skip
    reference.copy(weights, copies)
    return checked


ADAM_EMA = Kernel("cpp", adam_ema, _why_not)
