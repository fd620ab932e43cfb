"""Captures a step with make_fx: all operations that reach the dispatcher, inner and outer backward included.

For steps that Dynamo does not support (`torch.autograd.Function`, hooks, and every step on a PyTorch without autograd
tracing). Numbers and branches are fixed at capture. After a change of `training` flags, of weights or of what the step
takes from Python, it is captured anew (ExternalState.unchanged).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

from fastgan.engine.capture import ExternalState


def trace(
    step: Callable[..., Any],
    state: ExternalState,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    compiler: Callable[[Callable[..., Any]], Callable[..., Any]],
) -> Callable[..., Any]:
    """The step as a function of the same arguments, its graph compiled by `compiler`.

    Runs the step once and undoes the effects: weights, buffers, gradients and RNG states stay as they are.
    """
    flat, spec = tree_flatten((args, kwargs))
    tensor_indices = [i for i, value in enumerate(flat) if isinstance(value, Tensor)]
    out_spec: list[Any] = []

    def run(given: list[Tensor], outside: list[Tensor]) -> list[Any]:
        # `outside`: the tensors that the step itself refers to. make_fx recognizes them by identity.
        values = list(flat)
        for index, tensor in zip(tensor_indices, given, strict=True):
            values[index] = tensor
        again, more = tree_unflatten(values, spec)
        outputs, shape = tree_flatten(step(*again, **more))
        out_spec.append(shape)
        return [*outputs, *(leaf.grad for leaf in state.leaves)]

    given = [flat[index] for index in tensor_indices]
    with state.restored(), _compiling():
        traced = make_fx(run)(given, state.tensors)
    compiled = compiler(traced)
    shape = out_spec[-1]

    def call(*args: Any, **kwargs: Any) -> Any:
        values, _ = tree_flatten((args, kwargs))
        with torch.no_grad():
            found = compiled([values[index] for index in tensor_indices], state.tensors)
            outputs, gradients = found[: shape.num_leaves], found[shape.num_leaves :]
            state.add(gradients)
        return tree_unflatten(outputs, shape)

    return call


@contextmanager
def _compiling() -> Iterator[None]:
    """A context in which torch.compiler.is_compiling() is true, for code that reads values in eager mode only."""
    before = torch.compiler._is_compiling_flag
    torch.compiler._is_compiling_flag = True
    try:
        yield
    finally:
        torch.compiler._is_compiling_flag = before
