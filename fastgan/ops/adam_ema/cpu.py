"""adam_ema on the CPU: one pass for the norms and one for steps 4 and 5 by fastgan._cpu, float and double."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan._util import native
from fastgan.ops._launch import CPP_DTYPES, why_no_cpp
from fastgan.ops._library import Kernel
from fastgan.ops.adam_ema import reference
from fastgan.ops.adam_ema.reference import Checked


def _why_not(weights, *_) -> str | None:
    if any(weight.dtype != weights[0].dtype for weight in weights):
        return "the C++ kernel takes weights of one dtype"
    return why_no_cpp(weights[0])


def _check(gradients, loss, divisor, clip) -> Checked:
    if clip > 0:  # the bits of the update depend on the order of PyTorch's sums
        return reference.check_gradients(gradients, loss, divisor, clip)
    found, loss = torch.empty(2 + len(gradients), dtype=torch.float32, device="cpu"), loss.float()
    native.cpu().check_gradients(
        [g.data_ptr() for g in gradients], [g.numel() for g in gradients], CPP_DTYPES[gradients[0].dtype],
        torch.get_num_threads(), loss.data_ptr(), divisor.data_ptr(), found.data_ptr(),
    )  # fmt: skip
    return Checked(found[0], found[2:], divisor, found[1])


def adam_ema(
    weights, gradients, means, squares, steps, averages, copies, loss, divisor, ema_weight, lr, betas, eps, clip
):
    checked = _check(gradients, loss, divisor, clip)
    addresses = [
        (w.data_ptr(), g.data_ptr(), m.data_ptr(), v.data_ptr(), 0 if a is None else a.data_ptr(), t.data_ptr())
        for w, g, m, v, a, t in zip(weights, gradients, means, squares, averages, steps, strict=True)
    ]
    native.cpu().adam_ema(
        addresses, [w.numel() for w in weights], CPP_DTYPES[weights[0].dtype], torch.get_num_threads(), float(lr),
        betas, eps,
        ema_weight.item() if isinstance(ema_weight, Tensor) else ema_weight,
        checked.divisor.data_ptr(), checked.bad.data_ptr(),
    )  # fmt: skip
    reference.copy(weights, copies)
    return checked


ADAM_EMA = Kernel("cpp", adam_ema, _why_not)
