"""The device of a run, and how it multiplies."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from fastgan._util.memory import peak_host_memory
from fastgan.errors import UsageError


def resolve_device(name: str, index: int | None = None) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:N` as a device. Raises UsageError when it is not there.

    index: which GPU, where the name leaves it open.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and index is not None:
        name = f"cuda:{index}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"device: expected auto, cpu, cuda or cuda:N, got {name!r}") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device: expected auto, cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"device: {name} is not there ({torch.cuda.device_count()} CUDA devices found)")
    return device


def resolve_precision(name: str, device: torch.device) -> str:
    """A precision by name; `auto` is bf16 on a GPU that multiplies in it (from Ampere on), else fp32."""
    if name != "auto":
        return name
    return "bf16" if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"


def why_slow(precision: str, device: torch.device) -> str:
    """ "" where the device computes in that precision itself, else what it does instead."""
    asked = {
        "bf16": torch.ops.mkldnn._is_mkldnn_bf16_supported,
        "fp16": torch.ops.mkldnn._is_mkldnn_fp16_supported,
    }.get(precision)
    if device.type != "cpu" or asked is None or asked():
        return ""
    # A compiled WGAN-GP iteration took 8.6 s in bf16 and 0.40 s in fp32 on a CPU with AVX2 alone (torch 2.13).
    return f"{precision} is emulated on this CPU, and many times slower than fp32"


@contextlib.contextmanager
def float32_products(tf32: bool) -> Iterator[None]:
    """While it lasts, products of float32 matrices and convolutions on a GPU round their operands to TF32, or do not.

    PyTorch's own default rounds in convolutions and not in matrix products.
    """
    restore = _float32_products()
    # By the older switches, which set the newer ones too: PyTorch's compiler reads the older.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        restore()


def _float32_products() -> Callable[[], None]:
    """Returns a function that restores the settings of float32 products as they are now."""
    try:
        older = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    except RuntimeError:  # a program has set the newer switches, after which reading the older ones raises
        cudnn: Any = torch.backends.cudnn
        switches: tuple[Any, ...] = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)
        newer = [(switch, switch.fp32_precision) for switch in switches]

        def restore() -> None:
            for switch, precision in newer:
                switch.fp32_precision = precision
    else:

        def restore() -> None:
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = older

    return restore


def peak_memory(device: torch.device) -> int:
    """Most bytes so far: of the GPU's memory that tensors took, else of the host's memory that the process took."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_host_memory()
