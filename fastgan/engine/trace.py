"""Captures a step by running it: every operation that reaches the dispatcher, inner and outer backward included.

For what Dynamo cannot follow (`torch.autograd.Function`s, hooks, and all of it on a PyTorch without autograd tracing).
What is not a tensor is fixed at capture: numbers, branches. Where `training` flags or weights are other ones than then,
the step is captured anew (ExternalState.unchanged).
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
    around: ExternalState,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    compiler: Callable[[Callable[..., Any]], Callable[..., Any]],
) -> Callable[..., Any]:
    """The step as a function of the same arguments, its graph compiled by `compiler`.

    Runs the step to learn of it, and undoes that: weights, buffers, gradients and random numbers stay.
    """
    flat, spec = tree_flatten((args, kwargs))
    places = [i for i, value in enumerate(flat) if isinstance(value, Tensor)]
    out_spec: list[Any] = []

    def run(given: list[Tensor], outside: list[Tensor]) -> list[Any]:
        # `outside` are the very tensors that the step finds by itself: tracing knows them by identity.
        values = list(flat)
        for place, tensor in zip(places, given, strict=True):
            values[place] = tensor
        again, more = tree_unflatten(values, spec)
        outputs, shape = tree_flatten(step(*again, **more))
        out_spec.append(shape)
        return [*outputs, *(leaf.grad for leaf in around.leaves)]

    given = [flat[place] for place in places]
    with around.restored(), _compiling():
        traced = make_fx(run)(given, around.tensors)
    compiled = compiler(traced)
    shape = out_spec[-1]

    def call(*args: Any, **kwargs: Any) -> Any:
        values, _ = tree_flatten((args, kwargs))
        with torch.no_grad():
            found = compiled([values[place] for place in places], around.tensors)
            outputs, gradients = found[: shape.num_leaves], found[shape.num_leaves :]
            around.add(gradients)
        return tree_unflatten(outputs, shape)

    return call


@contextmanager
def _compiling() -> Iterator[None]:
    """Let code that looks at values in eager mode know that there are none to look at."""
    before = torch.compiler._is_compiling_flag
    torch.compiler._is_compiling_flag = True
    try:
        yield
    finally:
        torch.compiler._is_compiling_flag = before
