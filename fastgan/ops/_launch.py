"""Functions that the launchers of the C++ and Triton kernels share. Imports no triton."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterable
from typing import Any

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


#: Compiled Triton kernels, by all that they depend on, with the names of the parameters that were given by name.
_compiled: dict[Any, tuple[Any, list[str]]] = {}


def launch(kernel: Any, grid: tuple[int, ...]) -> Callable[..., None]:
    """kernel[grid] of a Triton kernel, without Triton's front end from the second launch on.

    The front end binds some 25 arguments in each call and inspects them. The key here holds all that it specializes
    for: a pointer's type and whether it is a multiple of 16, and the values of numbers.
    """

    def run(*args: Any, **named: Any) -> None:
        """args: the kernel's first parameters. named: its other parameters, and launch options."""
        device = next((arg.get_device() for arg in args if isinstance(arg, Tensor)), None)
        values = named.values()
        key = id(kernel), device, *map(_specialization, args), *named, *map(_specialization, values)
        known = _compiled.get(key)
        if known is not None:
            compiled, names = known
            compiled[(*grid, 1, 1)[:3]](*args, *[named[name] for name in names])
            return
        compiled = kernel[grid](*args, **named)
        if compiled is not None:  # the interpreter compiles nothing
            _compiled[key] = compiled, kernel.arg_names[len(args) :]

    return run


def _specialization(arg: Any) -> Any:
    return (arg.dtype, arg.data_ptr() % 16 == 0) if isinstance(arg, Tensor) else arg


def blocks(size: int, block: int) -> int:
    """How many blocks of `block` elements cover `size` elements."""
    return -(-size // block)


def power_of_two(n: int) -> int:
    """The least power of two >= n."""
    return 1 << max(0, n - 1).bit_length()
