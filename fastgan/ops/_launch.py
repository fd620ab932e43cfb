"""Functions that the launchers of the C++ and Triton kernels share. Imports no triton."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterable

import torch
from torch import Tensor

from fastgan._util import env, native

#: Passed explicitly, because Triton's default changes in 3.10 and 3.9 warns about that.
FP_FUSION = {"enable_fp_fusion": True}

#: Element types as the C++ kernels number them.
CPP_DTYPES = {getattr(torch, name): code for name, code in native.DTYPE_CODES.items()}


def why_no_cpp(x: Tensor) -> str | None:
    """None if the C++ kernels can run on this tensor, else the reason."""
    if x.device.type != "cpu":
        return f"the tensor is on {x.device.type}, not on the CPU"
    if x.dtype not in CPP_DTYPES:
        return f"the C++ kernels take float32 and float64, not {x.dtype}"
    return native.why_not("_cpu")


def why_no_triton(x: Tensor, dtypes: Iterable[torch.dtype]) -> str | None:
    """None if Triton can run on this tensor, else the reason."""
    if not x.is_cuda and not env.flag("TRITON_INTERPRET"):
        return f"the tensor is on {x.device.type}, not on a GPU, and TRITON_INTERPRET is not set"
    if x.dtype not in dtypes:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        return f"the Triton kernels take {names}, not {x.dtype}"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    return None


def on(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """A context in which x's GPU is the current device, on which kernels are launched."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def blocks(size: int, block: int) -> int:
    """How many blocks of `block` elements cover `size` elements."""
    return -(-size // block)


def power_of_two(n: int) -> int:
    """The least power of two >= n."""
    return 1 << max(0, n - 1).bit_length()
