"""adam_ema in CUDA C++: launches the kernels of csrc/cuda/adam_ema.cuh, which read addresses from their arguments.

Two launches for up to 48 weights: one over the gradients, one that updates.
"""

from __future__ import annotations

import functools
import math
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from fastgan.ops import _cuda
from fastgan.ops._launch import blocks
from fastgan.ops._library import Kernel
from fastgan.ops.adam_ema import reference
from fastgan.ops.adam_ema.reference import Checked

FAMILY = "adam_ema"
ELEMENTS = {torch.float32: "float", torch.float64: "double"}
THREADS = 256

# Constants and structures of csrc/cuda/adam_ema.cuh.
MAX_GRADIENTS, MAX_WEIGHTS, CHUNK = 160, 48, 4096
_COPY_TYPES = {torch.bfloat16: 1, torch.float16: 2}
_CHECK = struct.Struct("=6Qf5i")
_STEP = struct.Struct("=4Q8d2i")


@dataclass(frozen=True, eq=False)
class LaunchPlan:
    """Adjacent tensors that one launch processes: a function of their sizes."""

    part: slice
    layout: bytes  # sizes, and the first block of each
    grid: int


@functools.lru_cache(maxsize=64)
def make_launch_plans(sizes: tuple[int, ...], most: int) -> tuple[LaunchPlan, ...]:
    """most: tensors in one launch, the length of its arrays."""
    plans = []
    for begin in range(0, len(sizes), most):
        some = sizes[begin : begin + most]
        first = [0, *accumulate(max(1, blocks(size, CHUNK)) for size in some)]
        missing = most - len(some)
        layout = array("q", [*some, *[0] * missing]).tobytes() + array("i", [*first[:-1], *[0] * missing]).tobytes()
        plans.append(LaunchPlan(slice(begin, begin + len(some)), layout, first[-1]))
    return tuple(plans)


def _addresses(tensors: Sequence[Tensor | None], most: int) -> bytes:
    found = array("Q", [0 if tensor is None else tensor.data_ptr() for tensor in tensors])
    return found.tobytes().ljust(8 * most, b"\0")


def _check(
    kernels: _cuda.Kernels, element: str, gradients: list[Tensor], loss: Tensor, divisor: Tensor, clip: float
) -> Checked:
    count, device = len(gradients), gradients[0].device
    plans = make_launch_plans(tuple(g.numel() for g in gradients), MAX_GRADIENTS)
    grid = sum(plan.grid for plan in plans)
    scratch = torch.empty(grid + count, dtype=torch.float64, device=device)
    found = torch.empty(3 + count, dtype=torch.float32, device=device)
    loss, first = loss.float(), 0
    for plan in plans:
        begin, end = plan.part.start, plan.part.stop
        rest = _CHECK.pack(
            scratch.data_ptr(), scratch.data_ptr() + 8 * grid, _cuda.counters.get(device), loss.data_ptr(),
            divisor.data_ptr(), found.data_ptr(), clip, end - begin, begin, count, first, 0,
        )  # fmt: skip
        argument = _addresses(gradients[plan.part], MAX_GRADIENTS) + plan.layout + rest
        kernels.launch(f"check_gradients_{element}", plan.grid, THREADS, THREADS // 4, False, argument)
        first += plan.grid
    return Checked(found[0], found[3:], found[1], found[2])


def _logarithm(beta: float) -> float:
    return math.log(beta) if beta > 0 else -math.inf


def adam_ema(
    weights: list[Tensor],
    gradients: list[Tensor],
    means: list[Tensor],
    squares: list[Tensor],
    steps: list[Tensor],
    averages: list[Tensor | None],
    copies: list[Tensor | None],
    loss: Tensor,
    divisor: Tensor,
    ema_weight: float | Tensor,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    clip: float,
) -> Checked:
    device, element = weights[0].device, ELEMENTS[weights[0].dtype]
    kernels = _cuda.kernels(FAMILY, device)
    checked = _check(kernels, element, gradients, loss, divisor, clip)
    types = {copy.dtype for copy in copies if copy is not None}
    # Others, which nothing needs each step, are a pass of their own.
    together = element == "float" and len(types) == 1 and types <= _COPY_TYPES.keys()
    copy_type = _COPY_TYPES[types.pop()] if together else 0
    moved = ema_weight.float() if isinstance(ema_weight, Tensor) else None
    for plan in make_launch_plans(tuple(w.numel() for w in weights), MAX_WEIGHTS):
        inside = copies[plan.part] if together else []
        lists = [tensors[plan.part] for tensors in (weights, gradients, means, squares, averages)]
        pointers = [_addresses(tensors, MAX_WEIGHTS) for tensors in (*lists, inside, steps[plan.part])]
        rest = _STEP.pack(
            checked.divisor.data_ptr(), checked.bad.data_ptr(), 0 if moved is None else moved.data_ptr(),
            _cuda.counters.get(device), lr, eps, betas[1], 1 - betas[0], 1 - betas[1], _logarithm(betas[0]),
            _logarithm(betas[1]), ema_weight if moved is None else 0.0, len(lists[0]), copy_type,
        )  # fmt: skip
        argument = b"".join([*pointers, plan.layout, rest])
        kernels.launch(f"adam_ema_{element}", plan.grid, THREADS, THREADS // 4, False, argument)
    if not together:
        reference.copy(weights, copies)
    return checked


def _why_not(weights: list[Tensor], *others: object) -> str | None:
    if any(isinstance(lr, Tensor) for lr in others[-4:-3]):
        return "the CUDA C++ kernel takes the learning rate as a number"
    if any(weight.dtype != weights[0].dtype for weight in weights):
        return "the CUDA C++ kernels take weights of one dtype"
    return _cuda.why_not(FAMILY, weights[0], ELEMENTS)


ADAM_EMA = Kernel("cuda", adam_ema, _why_not)
