"""define_op: every operation of fastgan is made by it.

An op is a schema, a reference in plain PyTorch (its specification and its fallback), a fake that allocates by the same
rule, a gradient made of ops, and any number of faster kernels, selected at run time from real tensors. define_op
refuses everything that could make a second derivative silently wrong.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastgan.errors import ForcedBackendError
from fastgan.ops import _backend
from fastgan.ops._eager import (
    CAPACITY,
    EagerFunction,
    Key,
    Plan,
    all_none,
    describe,
    differentiable,
    edges,
)

NAMESPACE = "fastgan"
_library = torch.library.Library(NAMESPACE, "FRAGMENT")


@dataclass(frozen=True)
class Kernel:
    """A back-end of an op.

    run: takes the op's arguments and returns newly allocated tensors. why_not: takes the same arguments and returns
    None if `run` supports them, else the reason in one sentence, which `fastgan doctor` and errors show. plan: takes
    the same arguments and returns a faster `run` for all arguments with the same key (fastgan/ops/_eager.py); what it
    returns keeps no tensor. None where there is nothing to prepare.
    """

    name: str
    run: Callable[..., Any]
    why_not: Callable[..., str | None]
    plan: Callable[..., Callable[..., Any]] | None = None


def planned(name: str, plan: Callable[..., Callable[..., Any]], why_not: Callable[..., str | None]) -> Kernel:
    """A back-end that always runs by a plan."""
    return Kernel(name, lambda *args: plan(*args)(*args), why_not, plan)


@dataclass(frozen=True)
class Gradient:
    """The derivative of an op.

    save(ctx, inputs, output): keeps what the formula needs (ctx.save_for_backward, attributes). ctx.memo is a dict
    for what the formula derives from shapes, dtypes and options alone.
    formula(ctx, *cotangents): returns one gradient or None per input, built from differentiable ops, so that
    derivatives of every order exist. Cotangents that are zero arrive as None. A derivative that is zero almost
    everywhere is returned as None: a tensor of zeros would cause a whole backward pass over zeros.
    """

    save: Callable[..., None]
    formula: Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Op:
    """A defined op. Call it with exactly the arguments of its schema."""

    name: str
    schema: str
    reference: Callable[..., Any]
    kernels: tuple[Kernel, ...]
    gradient: Gradient
    overload: torch._ops.OpOverload
    takes_list: tuple[bool, ...]
    """Whether each input is a list of tensors."""
    returns_list: bool
    weight_inputs: frozenset[int] = frozenset()
    """The inputs that the gradient of the first one contains: weights of a convolution, and scales."""
    check: Callable[..., None] | None = None
    function: type[EagerFunction] = EagerFunction
    plans: dict[Key, Plan] = field(default_factory=dict, repr=False)

    def __call__(self, *args: Any) -> Any:
        if not torch.compiler.is_compiling():
            key, tensors = describe(args)
            if key is not None:
                plan = self.plans.get(key) or self._new_plan(key, args, tensors)
                if plan is not None:
                    if differentiable(tensors):
                        output = self.function.apply(self, plan, args, *tensors)
                        return list(output) if self.returns_list else output
                    return plan.run(*args)
        if self.check is not None:
            self.check(*args)
        return self.overload(*args)

    def run(self, *args: Any) -> Any:
        """The op's result without a gradient: what the registered op calls, for example from a compiled graph."""
        key, tensors = describe(args)
        plan = None if key is None else self.plans.get(key) or self._new_plan(key, args, tensors)
        return self.select(*args).run(*args) if plan is None else plan.run(*args)

    def _new_plan(self, key: Key, args: tuple[Any, ...], tensors: list[Tensor]) -> Plan | None:
        """The plan of these arguments, kept for the next call. None where the registered op must run."""
        if any(t.device.type not in ("cpu", "cuda") or t.layout is not torch.strided for t in tensors):
            return None
        if self.check is not None:
            self.check(*args)
        kernel = self.select(*args)
        plan = Plan(kernel.run if kernel.plan is None else kernel.plan(*args), edges(args))
        if len(self.plans) >= CAPACITY:
            self.plans.clear()
        self.plans[key] = plan
        return plan

    def select(self, *args: Any) -> Kernel:
        """The back-end that runs these arguments: the forced one, or the first that can."""
        if _backend.forced and self.kernels:  # an op without kernels is PyTorch's own arithmetic on every back-end
            return forced_backend(self, _backend.forced, *args)
        for kernel in self.kernels:
            if kernel.why_not(*args) is None:
                return kernel
        return Kernel("reference", self.reference, lambda *_: None)

    def gradients(self, ctx: Any, cotangents: Any) -> tuple[Any, ...]:
        """One gradient or None per input, lists for lists. cotangents: one per output; not all are None."""
        found = self.gradient.formula(ctx, *([cotangents] if self.returns_list else cotangents))
        inputs = len(self.takes_list)
        if not isinstance(found, tuple) or len(found) != inputs:
            raise TypeError(f"op {self.name}: its gradient must return {inputs} values, one per input")
        if any(self.takes_list):
            lengths = Counter(i for i, _ in ctx.edge_of)
            return tuple(
                [None] * lengths[i] if is_list and gradient is None else gradient
                for i, (is_list, gradient) in enumerate(zip(self.takes_list, found, strict=True))
            )
        return found


#: Every defined op, by name. A test fails for an op that has no OpCase (fastgan/testing/cases.py).
registry: dict[str, Op] = {}


def define_op(
    schema: str,
    *,
    reference: Callable[..., Any],
    fake: Callable[..., Any],
    gradient: Gradient,
    kernels: tuple[Kernel, ...] = (),
    check: Callable[..., None] | None = None,
) -> Op:
    """Register `fastgan::<schema>` with PyTorch and return it.

    check(arguments): raises TypeError or ValueError for arguments that the op does not take. It runs once for each
    combination of shapes, dtypes and options, so that a training loop does not pay for it in each iteration.

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
    returns_list = len(parsed.returns) == 1 and str(parsed.returns[0].type) == "List[Tensor]"
    takes_list = tuple(str(argument.type) == "List[Tensor]" for argument in parsed.arguments)
    # A class of its own, whose name profilers and autograd graphs show.
    function = type(f"fastgan_{name}", (EagerFunction,), {})
    weights = frozenset(i for i, argument in enumerate(names) if argument in ("weight", "weights", "scale"))
    op = Op(
        name, schema, reference, tuple(kernels), gradient, overload, takes_list, returns_list, weights, check, function
    )
    _library.impl(name, _implementation(op), "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_library)
    setup, formula = _registered_gradient(op)
    torch.library.register_autograd(f"{NAMESPACE}::{name}", formula, setup_context=setup, lib=_library)
    registry[name] = op
    return op


def _implementation(op: Op) -> Callable[..., Any]:
    def run(*args):
        if forward_ad._current_level >= 0:
            # PyTorch would silently continue with a tangent of zero.
            raise RuntimeError(f"op {op.name} has no forward-mode derivative; use reverse mode (torch.autograd.grad)")
        return op.run(*args)

    return run


def forced_backend(op: Op, name: str, *args: Any) -> Kernel:
    """The back-end of that name. Raises ForcedBackendError with the reason if it cannot run these arguments."""
    if name == "reference":
        return Kernel("reference", op.reference, lambda *_: None)
    kernel = next((k for k in op.kernels if k.name == name), None)
    if kernel is None:
        known = ", ".join(["reference", *(k.name for k in op.kernels)])
        raise ForcedBackendError(f"FASTGAN_BACKEND={name}: op {op.name} has no such back-end, only {known}")
    reason = kernel.why_not(*args)
    if reason is not None:
        raise ForcedBackendError(f"FASTGAN_BACKEND={name}: op {op.name} cannot run there: {reason}")
    return kernel


def _registered_gradient(op: Op) -> tuple[Callable[..., None], Callable[..., Any]]:
    def setup(ctx, inputs, output):
        # Zero cotangents must stay None, or the engine runs a backward pass of zeros (see Gradient).
        ctx.set_materialize_grads(False)
        ctx.op, ctx.edge_of, ctx.memo = op, edges(inputs), {}
        op.gradient.save(ctx, inputs, output)

    def formula(ctx, *cotangents):
        if all_none(cotangents):
            # No gradient for any input, in the structure of the inputs.
            return tuple([None] * len(needs) if isinstance(needs, list) else None for needs in ctx.needs_input_grad)
        return op.gradients(ctx, cotangents[0] if op.returns_list else cotangents)

    return setup, formula


def needed(ctx: Any, i: int, j: int = 0) -> bool:
    """Whether the running backward pass uses the gradient of input i (of its j-th tensor, if it is a list).

    ctx.needs_input_grad only says that input i requires a gradient. Under autograd.grad(y, inputs=[x]) most gradients
    are not requested, and computing them is wasted.
    """
    edge = ctx.edge_of.get((i, j))
    if edge is None:  # an optional tensor that is not given
        return False
    node = ctx.next_functions[edge][0]
    if node is None:  # the input requires no gradient
        return False
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:  # a leaf that autograd.grad captures, or no backward pass of the engine is running
        return True
