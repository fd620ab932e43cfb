"""The precisions of exported networks, and PyTorch's computation of a network in one of them."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from fastgan.errors import ExportError, UsageError, first_line


@dataclass(frozen=True)
class Precision:
    """dtype: of weights and arithmetic; inputs and outputs are always float32.

    opset: bf16 convolutions need opset 22; 18 is read by every runtime. floor: the least PSNR in dB, over all compared
    images, against the network in float64. For 8 bits per channel, 48 dB is an error of one level everywhere.
    roundings: an error of so many units in the last place (of `dtype`, at the largest output) is always allowed,
    because PyTorch's own error may be smaller by chance: in float32, ONNX Runtime's tanh is off by 2.2 units, PyTorch's
    by 0.3.
    """

    name: str
    dtype: torch.dtype
    opset: int
    floor: float
    roundings: int


PRECISIONS = {
    row.name: row
    for row in (
        Precision("fp32", torch.float32, 18, 80.0, 8),
        Precision("fp16", torch.float16, 18, 40.0, 2),
        Precision("bf16", torch.bfloat16, 22, 30.0, 2),
        Precision("int8", torch.float32, 18, 30.0, 8),  # traced in float32, then quantized
    )
}


def find_precision(name: str) -> Precision:
    """The row of PRECISIONS. Raises UsageError."""
    if name not in PRECISIONS:
        raise UsageError(f"precision: expected one of {', '.join(PRECISIONS)}, got {name!r}")
    return PRECISIONS[name]


def compute(network: nn.Module, inputs: Sequence[Tensor], dtype: str) -> Any:
    """network(*inputs), without gradients. Raises ExportError, which names dtype, where it does not run.

    dtype "float64" computes in float64 also where the network casts to float32 inside.
    """
    try:
        with torch.no_grad(), _InFloat64() if dtype == "float64" else contextlib.nullcontext():
            return network(*inputs)
    except Exception as error:  # the network is the user's code
        shape = list(inputs[0].shape)
        raise ExportError(f"the network does not run on {shape} in {dtype}: {first_line(error)}") from error


class _InFloat64(TorchDispatchMode):
    """Replaces float32 by float64: in what a network casts to and creates, and in constants that double() leaves."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = {k: torch.float64 if v is torch.float32 else v for k, v in (kwargs or {}).items()}
        given = [leaf.dtype for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if torch.float64 in given and torch.float32 in given:
            written = [a.alias_info is not None and a.alias_info.is_write for a in func._schema.arguments]
            args = tuple(a if w else tree_map(_widened, a) for a, w in zip(args, written, strict=False))
            kwargs = tree_map(_widened, kwargs)
        return func(*args, **kwargs)


def _widened(x: Any) -> Any:
    return x.double() if isinstance(x, Tensor) and x.dtype is torch.float32 else x


def to_float64(inputs: Sequence[Tensor]) -> list[Tensor]:
    """Floating-point tensors in float64; others as they are."""
    return [x.double() if x.is_floating_point() else x for x in inputs]


def at_precision(network: nn.Module, precision: Precision) -> nn.Module:
    """A copy with float32 inputs and outputs that computes in `precision.dtype`, as the file will.

    Weights and activations are of that type. The functions that PyTorch's autocast computes in float32 are computed in
    float32 here too: norms and softmax, whose results are cast to the half type, and the sums, powers and exponentials
    of norms written out by the user, whose results stay in float32 until the next layer.
    """
    if precision.dtype is torch.float32:
        return network
    half = copy.deepcopy(network).to(precision.dtype)
    for module, exact in zip(half.modules(), network.modules(), strict=True):
        if isinstance(module, _NORMS):
            module.float().load_state_dict(exact.state_dict())  # a running variance may exceed the range of float16
    return _Cast(half, precision.dtype)


class _Cast(nn.Module):
    def __init__(self, network: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.network, self.dtype = network, dtype

    # Not *others: for these the exporters want the dynamic sizes nested.
    def forward(self, x: Tensor, second: Tensor | None = None, third: Tensor | None = None) -> Tensor:
        # Entered here and not around the call, so that it is active while the module is traced too.
        with _Autocast(self.dtype):
            given = [t.to(self.dtype) if t.is_floating_point() else t for t in (x, second, third) if t is not None]
            return self.network(*given).float()


_NORMS = (
    nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm, nn.RMSNorm,
)  # fmt: skip

#: Computed in float32, the result cast to the half type.
_FLOAT32_INSIDE = {
    F.batch_norm, F.instance_norm, F.group_norm, F.layer_norm, F.local_response_norm, F.rms_norm, F.normalize,
    torch.batch_norm, torch.instance_norm, torch.group_norm, torch.layer_norm, torch.rms_norm,
    F.softmax, torch.softmax, Tensor.softmax, F.log_softmax, torch.log_softmax, Tensor.log_softmax,
}  # fmt: skip
#: Computed in float32, the result stays float32.
_FLOAT32 = {
    getattr(home, name)
    for home in (torch, Tensor)
    for name in (
        "sum", "mean", "var", "std", "var_mean", "std_mean", "norm", "prod", "cumsum", "cumprod", "logsumexp", "dist",
        "exp", "expm1", "log", "log2", "log10", "log1p", "pow", "__pow__", "__rpow__", "square", "rsqrt", "reciprocal",
    )
    if hasattr(home, name)
}  # fmt: skip
#: Computed in the half type, float32 inputs cast to it.
_HALF = {
    F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d, F.linear, F.bilinear,
    torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm, torch.bmm, Tensor.bmm, torch.addmm,
    torch.baddbmm, torch.einsum, F.prelu, torch.prelu, F.scaled_dot_product_attention,
}  # fmt: skip


class _Autocast(TorchFunctionMode):
    """Applies the three lists above, as autocast does, to a network whose weights are of the half type already."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self._half = dtype

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _HALF:
            return func(*self._cast(args, torch.float32, self._half), **self._cast(kwargs, torch.float32, self._half))
        if func not in _FLOAT32_INSIDE and func not in _FLOAT32:
            return func(*args, **kwargs)
        given = any(isinstance(value, Tensor) and value.dtype is self._half for value in (*args, *kwargs.values()))
        result = func(*self._cast(args, self._half, torch.float32), **self._cast(kwargs, self._half, torch.float32))
        return result.to(self._half) if given and func in _FLOAT32_INSIDE and kwargs.get("dtype") is None else result

    def _cast(self, values: Any, old: torch.dtype, new: torch.dtype) -> Any:
        if isinstance(values, dict):
            return {name: self._cast(value, old, new) for name, value in values.items()}
        if isinstance(values, tuple | list):
            return type(values)(self._cast(value, old, new) for value in values)
        return values.to(new) if isinstance(values, Tensor) and values.dtype is old else values
