"""Captures a step by running it: every operation that reaches the dispatcher, inner and outer backward included.

For what Dynamo cannot follow (`torch.autograd.Function`s, hooks, and all of it on a PyTorch without autograd tracing).
What is not a tensor is fixed at capture: numbers, branches, `training` flags.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

from fastgan.engine.observe import Surroundings


def trace(
    step: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    compiler: Callable[[Callable[..., Any]], Callable[..., Any]],
) -> Callable[..., Any]:
    """The step as a function of the same arguments, its graph compiled by `compiler`.

    Runs the step twice to learn of it, and undoes both: weights, buffers, gradients and random numbers stay.
    """
    around = Surroundings(step, args, kwargs)
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
    with around.undone(), _compiling():
        traced = make_fx(run)(given, around.tensors)
    compiled = compiler(traced)
    shape, leaves = out_spec[-1], around.leaves

    def call(*args: Any, **kwargs: Any) -> Any:
        values, _ = tree_flatten((args, kwargs))
        with torch.no_grad():
            found = compiled([values[place] for place in places], around.tensors)
            outputs, gradients = found[: shape.num_leaves], found[shape.num_leaves :]
            for leaf, gradient in zip(leaves, gradients, strict=True):
                if gradient is not None:
                    leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient
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
