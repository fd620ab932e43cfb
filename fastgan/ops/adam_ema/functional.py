"""The public function adam_ema: it checks its arguments and picks a back-end.

It changes its arguments and has no derivative, so it is not made by define_op, and steps that are compiled do not call
it: the trainer's updates run between them. Triton has no kernel of it: CUDA C++ serves the GPUs, and PyTorch's fused
kernels serve where that is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastgan.errors import ForcedBackendError
from fastgan.ops import _backend
from fastgan.ops._check import bad
from fastgan.ops.adam_ema import cpu, cuda, reference
from fastgan.ops.adam_ema.reference import Checked

KERNELS = (cpu.ADAM_EMA, cuda.ADAM_EMA)
#: Back-ends that run only where they are forced: no GPU has run and timed this one yet.
ONLY_FORCED = ("cuda",)


@torch.no_grad()
def adam_ema(
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor],
    means: Sequence[Tensor],
    squares: Sequence[Tensor],
    steps: Sequence[Tensor],
    *,
    loss: Tensor,
    divisor: Tensor,
    lr: float | Tensor,
    betas: tuple[float, float],
    eps: float = 1e-8,
    clip: float = 0.0,
    averages: Sequence[Tensor | None] | None = None,
    ema_weight: float | Tensor = 0.0,
    copies: Sequence[Tensor | None] | None = None,
) -> Checked:
    """Adam's step with a check of the gradients, clipping by the global norm, and the moving average of the weights.

    weights, means, squares: changed in place; dense tensors of one device, float32 or float64 (others by PyTorch's own
    kernels). gradients: like the weights; their values are undefined afterwards. steps: float32 scalars, the updates so
    far. loss: scalar; divisor: float32 scalar by which the gradients are divided first, such as a loss scale. lr: a
    number, or a float32 scalar on the device, for which CUDA C++ has no kernel. clip: largest L2 norm of the whole
    divided gradient, 0 for none. averages: None or a tensor like it for each weight, moved toward it by ema_weight, a
    number or a scalar on the device. copies: None or a tensor of any dtype for each weight, of its shape and strides,
    which gets its new value. Where the norm or the loss is not finite, weights, means, squares and steps stay.

    Nothing waits for the device, and a CUDA graph may capture the call; numbers, such as betas, are then constants.
    Raises TypeError or ValueError naming the argument. The exact arithmetic: fastgan/ops/adam_ema/reference.py.
    """
    weights, gradients, means, squares, steps = map(list, (weights, gradients, means, squares, steps))
    averages = [None] * len(weights) if averages is None else list(averages)
    copies = [None] * len(weights) if copies is None else list(copies)
    _check(weights, gradients=gradients, means=means, squares=squares, averages=averages, copies=copies)
    _check_scalars(weights, steps, loss, divisor, lr)
    args = weights, gradients, means, squares, steps, averages, copies, loss, divisor, ema_weight, lr, betas, eps, clip
    checked = _back_end(*args)(*args)
    # Kernels write to addresses; autograd has to refuse a backward pass that needs the weights as they were.
    torch.autograd.graph.increment_version([*weights, *(own for own in (*averages, *copies) if own is not None)])
    return checked


def _back_end(*args: Any) -> Callable[..., Checked]:
    forced = _backend.forced
    for kernel in KERNELS:
        if forced not in ("", kernel.name) or (not forced and kernel.name in ONLY_FORCED):
            continue
        reason = kernel.why_not(*args)
        if reason is None:
            return kernel.run
        if forced:
            raise ForcedBackendError(f"FASTGAN_BACKEND={forced}: adam_ema cannot run there: {reason}")
    return reference.adam_ema


def _check(weights: list[Tensor], **lists: Sequence[Tensor | None]) -> None:
    if not weights:
        raise bad("weights", "one tensor or more", "none")
    for name, tensors in lists.items():
        if len(tensors) != len(weights):
            raise bad(name, f"one for each of {len(weights)} weights", len(tensors))
    device = weights[0].device
    for i, (weight, *others) in enumerate(zip(weights, *lists.values(), strict=True)):
        shape, stride, dtype = weight.shape, weight.stride(), weight.dtype
        if not dtype.is_floating_point or weight.device != device:
            raise bad(f"weights[{i}]", f"a floating tensor on {device}", f"{dtype} on {weight.device}", TypeError)
        if not _dense(weight):
            raise bad(f"weights[{i}]", "a dense tensor", f"{list(shape)} with strides {list(stride)}")
        for name, other in zip(lists, others, strict=True):
            if other is None:
                if name not in ("averages", "copies"):
                    raise bad(f"{name}[{i}]", "a tensor", None, TypeError)
            elif other.device != device or (other.dtype is not dtype and name != "copies"):
                got = f"{other.dtype} on {other.device}"
                raise bad(f"{name}[{i}]", f"{dtype} on {device}, as its weight", got, TypeError)
            elif other.shape != shape or (other.stride() != stride and not _same_order(other, weight)):
                like = f"{list(shape)} with strides {list(stride)}, as its weight"
                raise bad(f"{name}[{i}]", like, f"{list(other.shape)} with {list(other.stride())}")


def _check_scalars(
    weights: list[Tensor], steps: list[Tensor], loss: Tensor, divisor: Tensor, lr: float | Tensor
) -> None:
    device = weights[0].device
    if len(steps) != len(weights):
        raise bad("steps", f"one for each of {len(weights)} weights", len(steps))
    named = {"divisor": divisor, "loss": loss} | ({"lr": lr} if isinstance(lr, Tensor) else {})
    for name, value in [*((f"steps[{i}]", step) for i, step in enumerate(steps)), *named.items()]:
        if value.device != device or value.numel() != 1 or (value.dtype != torch.float32 and value is not loss):
            raise bad(name, f"a float32 scalar on {device}", f"{value.dtype} {list(value.shape)} on {value.device}")


def _same_order(one: Tensor, other: Tensor) -> bool:
    """Whether elements follow each other alike in memory: the strides of dimensions of size 1 do not matter."""
    strides = zip(one.shape, one.stride(), other.stride(), strict=True)
    return all(size == 1 or a == b for size, a, b in strides)


def _dense(x: Tensor) -> bool:
    """Whether x's elements fill its memory, in any order of the dimensions."""
    if x.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in zip(x.stride(), x.shape, strict=True) if size > 1):
        if stride != expected:
            return False
        expected *= size
    return True
