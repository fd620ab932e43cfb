"""The eager fast path of ops: plain tensors go straight to a kernel, without PyTorch's dispatcher.

A registered op costs two dispatches through Python and a walk over its schema in each call, several times the cost of
one of PyTorch's own operations. Tracing, compiling, modes, torch.func, and tensors that are not plain still take the
registered op. Both paths run the same kernels and the same gradient formulas.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._pytree import tree_leaves

from fastgan.ops import _backend

#: More distinct arguments than this, of one op, are no repetition: the plans are made anew.
CAPACITY = 4096

Key = tuple[Any, ...]

_SEQUENCES = frozenset((list, tuple, torch.Size))
_PLAIN = frozenset((Tensor, nn.Parameter))
_dispatch_modes = torch._C._len_torch_dispatch_stack
_function_modes = torch._C._len_torch_function_stack
# True also while a transform runs the operations of the level below.
_in_transform = torch._C._are_functorch_transforms_active
_tracing = torch._C._get_tracing_state
_mkldnn_enabled = torch._C._get_mkldnn_enabled
_is_grad_enabled = torch.is_grad_enabled
_num_threads = torch.get_num_threads
_static = operator.attrgetter("shape", "dtype", "device", "layout")
_strides, _is_negated, _is_zero = Tensor.stride, Tensor.is_neg, Tensor._is_zerotensor


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything about a call that depends on its key only.

    run: computes the op's result from its arguments. edge_of: the number of each tensor's edge in the autograd graph,
    by (index of the argument, index within it if it is a list, else 0). memo: what the gradient's formula wants to keep
    for calls with the same key; it must hold no tensor.
    """

    run: Callable[..., Any]
    edge_of: dict[tuple[int, int], int]
    memo: dict[Any, Any] = field(default_factory=dict)


def edges(args: Sequence[Any]) -> dict[tuple[int, int], int]:
    """The number of each tensor's edge in the autograd graph, as in `Plan`."""
    positions = (
        (i, j)
        for i, value in enumerate(args)
        for j, element in enumerate(value if type(value) in _SEQUENCES else [value])
        if isinstance(element, Tensor)
    )
    return {position: edge for edge, position in enumerate(positions)}


def is_eager() -> bool:
    """Whether operations run at once, without a mode, a transform or a trace that would see them."""
    return not (
        torch.compiler.is_compiling()  # first: a compiler cannot trace the others
        or _dispatch_modes()
        or _function_modes()
        or _in_transform()
        or _tracing() is not None
        or forward_ad._current_level >= 0
    )


def describe(args: Sequence[Any]) -> tuple[Key | None, list[Tensor]]:
    """The key of a call's plan, and its tensors. The key is None where the registered op must run.

    The key holds all that a kernel's selection and launch depend on: shapes, strides, dtypes, devices, options, and
    PyTorch's settings.
    """
    if not is_eager():
        return None, []
    key: list[Any] = [_backend.forced, _num_threads(), _mkldnn_enabled()]
    tensors: list[Tensor] = []
    for arg in args:
        kind = type(arg)
        if kind in _PLAIN:
            tensors.append(arg)
            key.append(Tensor)
        elif kind in _SEQUENCES:
            key.append(len(arg))
            if arg and isinstance(arg[0], Tensor):
                tensors += arg
            else:
                key += arg
        elif isinstance(arg, Tensor):
            return None, []
        else:
            key.append(arg)
    # Subclasses, and a lazy negation or a tensor of zeros without memory, which PyTorch's dispatcher makes real.
    if not _PLAIN.issuperset(map(type, tensors)) or True in map(_is_negated, tensors) or True in map(_is_zero, tensors):
        return None, []
    key += map(_static, tensors)
    try:
        key += map(_strides, tensors)
    except RuntimeError:  # a sparse tensor
        return None, []
    if tensors and tensors[0].is_cuda:
        key += _cuda_settings(tensors)
    return tuple(key), tensors


def _cuda_settings(tensors: list[Tensor]) -> tuple[Any, ...]:
    """What kernels on a GPU depend on besides: the settings of cuDNN, and the alignment of the tensors."""
    return (
        torch._C._get_cudnn_deterministic(),
        torch._C._get_cudnn_benchmark(),
        torch._C._get_cudnn_enabled(),
        torch._C._get_fp32_precision_getter("cuda", "conv"),
        *(tensor.data_ptr() % 16 for tensor in tensors),
    )


def differentiable(tensors: list[Tensor]) -> bool:
    """Whether autograd records a call with these tensors."""
    if _is_grad_enabled():
        for tensor in tensors:
            if tensor.requires_grad:
                return True
    return False


class EagerFunction(torch.autograd.Function):
    """The node of any op in the autograd graph of an eager run."""

    @staticmethod
    def forward(ctx: Any, op: Any, plan: Plan, args: Sequence[Any], *tensors: Tensor) -> Any:
        # Zero cotangents must stay None, or the engine runs a backward pass of zeros (see Gradient).
        ctx.set_materialize_grads(False)
        output = plan.run(*args)
        ctx.op, ctx.edge_of, ctx.memo = op, plan.edge_of, plan.memo
        op.gradient.save(ctx, args, output)
        return tuple(output) if isinstance(output, list) else output

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
        op = ctx.op
        if all(cotangent is None for cotangent in cotangents):
            return (None,) * (3 + len(ctx.edge_of))
        gradients = op.gradients(ctx, list(cotangents) if op.returns_list else cotangents)
        flat = [gradients[i][j] if op.takes_list[i] else gradients[i] for i, j in ctx.edge_of]
        return (None, None, None, *flat)


def all_none(cotangents: Any) -> bool:
    """Whether no output has a cotangent."""
    return all(cotangent is None for cotangent in tree_leaves(cotangents))
