"""Instance norms of torch.nn on fastgan's op, with the activation after them.

The op's kernels are faster than PyTorch's in every run on a CPU, so that they run without a penalty too. On other
devices, in half precision and under autocast, and with parameters or running statistics, PyTorch's run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastgan._util import native
from fastgan.nn.fusion.fused_layers import Fused
from fastgan.nn.fusion.supported import LINEAR, Act, LayerType, activate, original_class
from fastgan.nn.plain_tensor import is_plain_tensor
from fastgan.ops import _backend, instance_norm_act

#: torch.nn's class → the dimensions that its input must have.
_DIMS: dict[Any, int] = {nn.InstanceNorm1d: 3, nn.InstanceNorm2d: 4}
#: Activations that are part of the op.
_JOINED = ("linear", "relu", "leaky_relu")
_DTYPES = (torch.float32, torch.float64)


def why_not_fused(norm: Any) -> str:
    """Why an instance norm runs as in PyTorch, or "" where it can run on our op."""
    if norm.affine or norm.track_running_stats:
        return "runs as in PyTorch: it has parameters or running statistics"
    return ""


def norm_type(module: nn.Module, x: Any) -> LayerType | None:
    """How an instance norm runs on x with the activation after it; None for other modules and inputs."""
    dims = _DIMS.get(original_class(module))
    if dims is None or not is_plain_tensor(x) or x.dim() != dims:
        return None
    good = x.is_cpu and x.dtype in _DTYPES and x.shape[1] == module.num_features and x.shape[2:].numel() > 1
    if not good or why_not_fused(module) or torch.is_autocast_enabled("cpu"):
        return None
    if _backend.forced not in ("", "cpp", "reference"):
        return None
    if not torch.compiler.is_compiling() and native.why_not("_cpu"):
        return None
    return _TYPES[dims]


def _block(norm: Any, x: Tensor, act: Act) -> Tensor:
    if act.name in _JOINED:
        return instance_norm_act(x, act.name, alpha=act.alpha, epsilon=norm.eps)
    return activate(instance_norm_act(x, epsilon=norm.eps), act)


_TYPES = {dims: LayerType("instance norm", dims, _block) for dims in _DIMS.values()}


def _forward(norm: Any, plain: Any, x: Tensor) -> Tensor:
    return plain.forward(norm, x) if norm_type(norm, x) is None else _block(norm, x, LINEAR)


class InstanceNorm1d(Fused, nn.InstanceNorm1d):
    _fastgan_original = nn.InstanceNorm1d

    def forward(self, input: Tensor) -> Tensor:
        return _forward(self, nn.InstanceNorm1d, input)


class InstanceNorm2d(Fused, nn.InstanceNorm2d):
    _fastgan_original = nn.InstanceNorm2d

    def forward(self, input: Tensor) -> Tensor:
        return _forward(self, nn.InstanceNorm2d, input)


#: torch.nn's class → the fused class that replaces it.
FUSED_NORMS: dict[type[nn.Module], type[nn.Module]] = {
    nn.InstanceNorm1d: InstanceNorm1d,
    nn.InstanceNorm2d: InstanceNorm2d,
}
