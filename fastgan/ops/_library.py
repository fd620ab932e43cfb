"""define_op: every operation of fastgan is made by it.

An op is a schema, a reference in plain PyTorch (its specification and its fallback), a fake that allocates by the same
rule, a gradient made of ops, and any number of faster kernels, selected at run time from real tensors. define_op
refuses everything that could make a second derivative silently wrong.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.utils._pytree import tree_leaves

from fastgan._util import env

NAMESPACE = "fastgan"
_library = torch.library.Library(NAMESPACE, "FRAGMENT")


@dataclass(frozen=True)
class Kernel:
    """A back-end of an op.

    run: takes the op's arguments and returns newly allocated tensors. why_not: takes the same arguments and returns
    None if `run` supports them, else the reason in one sentence, which `fastgan doctor` and errors show.
    """

    name: str
    run: Callable[..., Any]
    why_not: Callable[..., str | None]


@dataclass(frozen=True)
class Gradient:
    """The derivative of an op.

    save(ctx, inputs, output): keeps what the formula needs (ctx.save_for_backward, attributes).
    formula(ctx, *cotangents): returns one gradient or None per input, built from differentiable ops, so that
    derivatives of every order exist. Cotangents that are zero arrive as None. A derivative that is zero almost
    everywhere is returned as None: a tensor of zeros would cause a whole backward pass over zeros.
    """

    save: Callable[..., None]
    formula: Callable[..., Any]


@dataclass(frozen=True)
class Op:
    """A defined op. Call it with exactly the arguments of its schema."""

    name: str
    schema: str
    reference: Callable[..., Any]
    kernels: tuple[Kernel, ...]
    overload: torch._ops.OpOverload

    def __call__(self, *args: Any) -> Any:
        return self.overload(*args)


#: Every defined op, by name. A test fails for an op that has no OpCase (fastgan/testing/cases.py).
registry: dict[str, Op] = {}


def define_op(
    schema: str,
    *,
    reference: Callable[..., Any],
    fake: Callable[..., Any],
    gradient: Gradient,
    kernels: tuple[Kernel, ...] = (),
) -> Op:
    """Register `fastgan::<schema>` with PyTorch and return it.

    Raises TypeError or ValueError for a schema that mutates or aliases or has default values, for a reference or fake
    whose parameters are not those of the schema, for an op without a gradient, and for a name used twice.
    """
    parsed = torch._C.parse_schema(f"{NAMESPACE}::{schema}")
    name = parsed.name.split("::")[1]
    if name in registry:
        raise ValueError(f"op {name}: defined twice")
    for value in (*parsed.arguments, *parsed.returns):
        if value.alias_info is not None:
            raise ValueError(f"op {name}: {value.name or 'the output'} is mutated or aliased; return a fresh tensor")
    names = [argument.name for argument in parsed.arguments]
    if any(argument.has_default_value() for argument in parsed.arguments):
        raise ValueError(f"op {name}: the schema has default values; give them in the public function instead")
    for role, function in (("reference", reference), ("fake", fake)):
        if list(inspect.signature(function).parameters) != names:
            raise TypeError(f"op {name}: the parameters of its {role} must be {names}")
    if not isinstance(gradient, Gradient):
        raise TypeError(
            f"op {name}: a Gradient is needed, got {gradient!r}; without one higher orders are silently wrong"
        )

    _library.define(schema)
    overload = getattr(getattr(torch.ops, NAMESPACE), name).default
    op = Op(name, schema, reference, tuple(kernels), overload)
    _library.impl(name, _implementation(op), "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_library)
    setup, formula = _guarded(name, gradient, parsed.arguments)
    torch.library.register_autograd(f"{NAMESPACE}::{name}", formula, setup_context=setup, lib=_library)
    registry[name] = op
    return op


def _implementation(op: Op) -> Callable[..., Any]:
    def run(*args):
        if forward_ad._current_level >= 0:
            # PyTorch would silently continue with a tangent of zero.
            raise RuntimeError(f"op {op.name} has no forward-mode derivative; use reverse mode (torch.autograd.grad)")
        forced = env.read("FASTGAN_BACKEND")
        if not op.kernels:  # PyTorch's own arithmetic is the only back-end
            return op.reference(*args)
        if not forced:
            for kernel in op.kernels:
                if kernel.why_not(*args) is None:
                    return kernel.run(*args)
            return op.reference(*args)
        return forced_backend(op, forced, *args).run(*args)

    return run


def forced_backend(op: Op, name: str, *args: Any) -> Kernel:
    """The back-end of that name. Raises RuntimeError with the reason if it cannot run these arguments."""
    if name == "reference":
        return Kernel("reference", op.reference, lambda *_: None)
    kernel = next((k for k in op.kernels if k.name == name), None)
    if kernel is None:
        known = ", ".join(["reference", *(k.name for k in op.kernels)])
        raise RuntimeError(f"FASTGAN_BACKEND={name}: op {op.name} has no such back-end, only {known}")
    reason = kernel.why_not(*args)
    if reason is not None:
        raise RuntimeError(f"FASTGAN_BACKEND={name}: op {op.name} cannot run there: {reason}")
    return kernel


def _guarded(name: str, gradient: Gradient, arguments: list[Any]) -> tuple[Callable[..., None], Callable[..., Any]]:
    def setup(ctx, inputs, output):
        # Zero cotangents must stay None, or the engine runs a backward pass of zeros (see Gradient).
        ctx.set_materialize_grads(False)
        ctx.edge_of = _edges(inputs)
        gradient.save(ctx, inputs, output)

    def formula(ctx, *cotangents):
        if all(c is None for c in tree_leaves(cotangents)):
            return _no_gradients(ctx)
        gradients = gradient.formula(ctx, *cotangents)
        if not isinstance(gradients, tuple) or len(gradients) != len(arguments):
            raise TypeError(f"op {name}: its gradient must return {len(arguments)} values, one per input")
        return gradients

    return setup, formula


def _edges(inputs: tuple[Any, ...]) -> dict[tuple[int, int], int]:
    """The number of each tensor's graph edge, by (index of the input, index within it if the input is a list)."""
    positions = [
        (i, j)
        for i, value in enumerate(inputs)
        for j, element in enumerate(value if isinstance(value, list | tuple) else [value])
        if isinstance(element, torch.Tensor)
    ]
    return {position: edge for edge, position in enumerate(positions)}


def _no_gradients(ctx: Any) -> tuple[Any, ...]:
    """No gradient for any input, in the structure of the inputs."""
    return tuple([None] * len(needs) if isinstance(needs, list) else None for needs in ctx.needs_input_grad)


def needed(ctx: Any, i: int, j: int = 0) -> bool:
    """Whether the running backward pass uses the gradient of input i (of its j-th tensor, if it is a list).

    ctx.needs_input_grad only says that input i requires a gradient. Under autograd.grad(y, inputs=[x]) most gradients
    are not requested, and computing them is wasted.
    """
    needs = ctx.needs_input_grad[i]
    if not (needs[j] if isinstance(needs, list) else needs):
        return False
    node = ctx.next_functions[ctx.edge_of[i, j]][0]
    if node is None:
        return False
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:  # a leaf that autograd.grad captures, or no backward pass of the engine is running
        return True
