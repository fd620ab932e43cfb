"""The state outside its arguments that a step reads or changes: weights, buffers, gradients, RNG states."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastgan.engine.host_state import HostState, Unfollowable
from fastgan.ops._capture import before_capture


class ExternalState:
    """The state outside its arguments that a step reads or changes, found by one run whose effects are undone.

    tensors: the outside tensors that the step reads or changes, in the order of first use. leaves: those among them
    whose `.grad` the step fills. replaces_grad: for each leaf, whether the step discards the previous `.grad` instead
    of adding to it. changed: the indices of the tensor arguments that the step changes in place. changes: whether it
    changes an outside tensor. draws: whether it draws random numbers. draws_on: the types of the devices on
    which it does. dtypes: of all that it computes. modules: those that run. host: what it takes from Python.

    Raises RuntimeError for a step with effects that a graph cannot have: it fills the `.grad` of an argument, takes an
    optimizer step, replaces a buffer or `.data`, synchronizes with a GPU, or changes or draws something in Python. Such
    a step must not be captured, because a failed capture leaves PyTorch's allocator in an inconsistent state.
    refuse=False: do not raise for the last three, which prevent a graph but not running the step and undoing its
    effects.
    """

    def __init__(self, step: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], refuse: bool = True):
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        seen, modules = _ExternalTensors(given, refuse), dict[int, tuple[nn.Module, dict[str, Tensor | None]]]()
        before = [(_version(tensor), _SavedGrad(tensor)) for tensor in given]
        constants = [tensor for tensor in given if not tensor.requires_grad]
        self.host = HostState(step, (args, kwargs), refuse)
        with preserved(given), _watched_modules(modules, refuse):
            try:
                with self.host.watched(), _DataKept(), seen:
                    step(*args, **kwargs)
                self.changed = [i for i, (version, _) in enumerate(before) if _version(given[i]) != version]
                filled = [gradient for _, gradient in before if gradient.changed]
                leaves = [gradient for gradient in seen.gradients if gradient.changed]
                seen.changed = any(_version(tensor) != version for tensor, version in seen.versions)
            finally:
                # Also after an exception: the step runs again, captured or eagerly.
                for gradient in (*(gradient for _, gradient in before), *seen.gradients):
                    gradient.restore()
                for tensor in constants:
                    if tensor.requires_grad and tensor.is_leaf:
                        tensor.requires_grad_(False)
                seen.restore()
        if filled:
            raise Unfollowable(
                "it fills the .grad of an argument, which a graph does not; write x = x.detach().requires_grad_()"
            )
        if refuse and self.host.changed:
            raise Unfollowable(self.host.changed)
        self.changes, self.draws = seen.changed, bool(seen.draws)
        self.draws_on, self.dtypes = seen.draws, seen.dtypes
        previous_grads = {id(gradient.previous) for gradient in leaves}
        self.tensors = [tensor for tensor, _ in seen.outside if id(tensor) not in previous_grads]
        self.leaves = [gradient.tensor for gradient in leaves]
        self._given, self._generators = given, seen.generators
        self.modules = [module for module, _ in modules.values()]
        self._buffers = list(modules.values())
        self.replaces_grad = self._find_replaced_grads(step, args, kwargs)
        self._captured_flags = self._flags()

    @property
    def unchanged(self) -> bool:
        """Whether a graph captured with this state is still valid: same modes, weights, requires_grad flags and values
        in Python."""
        return self._flags() == self._captured_flags and self.host.unchanged

    @contextmanager
    def restored(self) -> Iterator[None]:
        """A context that restores all state, gradients included, at its end. In it the leaves start without `.grad`."""
        gradients = [leaf.grad for leaf in self.leaves]
        for leaf in self.leaves:
            leaf.grad = None
        states = [generator.get_state() for generator in self._generators]
        try:
            with preserved([*self.tensors, *(self._given[i] for i in self.changed)]):
                yield
        finally:
            _restore_buffers(self._buffers)
            self.host.restore()
            for generator, state in zip(self._generators, states, strict=True):
                generator.set_state(state)
            for leaf, gradient in zip(self.leaves, gradients, strict=True):
                leaf.grad = gradient

    def add(self, gradients: list[Tensor | None]) -> None:
        """Update the leaves' `.grad` as the step does. gradients: what it stores in leaves without previous `.grad`."""
        for leaf, gradient, replaces_grad in zip(self.leaves, gradients, self.replaces_grad, strict=True):
            if replaces_grad or leaf.grad is None:
                leaf.grad = gradient
            elif gradient is not None:
                leaf.grad = leaf.grad + gradient

    def _find_replaced_grads(
        self, step: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[bool]:
        if not self.leaves:
            return []
        with self.restored():
            for leaf in self.leaves:
                leaf.grad = torch.full_like(leaf, float("nan"))  # stays NaN if the step adds to it
            step(*args, **kwargs)
            return [leaf.grad is None or not bool(leaf.grad.isnan().all()) for leaf in self.leaves]

    def _flags(self) -> tuple[Any, ...]:
        modules = [(module.training, *map(id, module._parameters.values())) for module in self.modules]
        return modules, [(t.requires_grad, t.data_ptr() if t.is_cuda else 0) for t in self.tensors]


@contextmanager
def preserved(tensors: list[Tensor]) -> Iterator[None]:
    """A context that restores these tensors and the RNG states of the default generators at its end."""
    held, versions = [tensor.detach().clone() for tensor in tensors], list(map(_version, tensors))
    restore_listeners = before_capture()
    try:
        with torch.random.fork_rng(_devices()):
            yield
    finally:
        restore_listeners()
        _restore(tensors, held, versions)


def _restore(tensors: list[Tensor], held: list[Tensor], versions: list[int]) -> None:
    """Give tensors the values that they had. A new version only where the run gave one: otherwise autograd would take
    weights to have changed that a loss before the run has saved for its backward pass."""
    with torch.no_grad():
        for tensor, value, version in zip(tensors, held, versions, strict=True):
            same = _version(tensor) == version and not tensor.is_inference()
            (tensor.data if same else tensor).copy_(value)


def _devices() -> list[int]:
    """All GPUs if CUDA is in use: a step may draw random numbers on a GPU that holds none of the tensors."""
    return list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


@contextmanager
def _watched_modules(modules: dict[int, tuple[nn.Module, dict[str, Tensor | None]]], strict: bool) -> Iterator[None]:
    """A context that collects the modules that run in it, each with the buffers that it had.

    Raises RuntimeError if an optimizer steps, whose Python state could not be restored.
    """

    def run(module: nn.Module, inputs: Any) -> None:
        if id(module) not in modules:
            modules[id(module)] = module, dict(module._buffers)

    def refuse(*_: Any) -> None:
        raise Unfollowable("it contains an optimizer step; call the optimizer outside of the compiled step")

    handles = [register_module_forward_pre_hook(run), register_optimizer_step_pre_hook(refuse)]
    replaced = ""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        replaced = _restore_buffers(list(modules.values()))
    if replaced and strict:
        raise Unfollowable(f"it replaces the buffer {replaced}, which a graph does not; change it in place")


_COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
_INDEXED = (
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
    torch.ops.aten._index_put_impl_.default,
)


def _refuse_synchronization(func: Any, args: Any, tensors: list[Tensor]) -> None:
    """Raises RuntimeError if an operation waits for a GPU: for a value, a size, or a copy to or from the host."""
    kinds = {tensor.device.type for tensor in tensors}
    if "cuda" not in kinds:
        return
    if func in _INDEXED:
        # Boolean masks are turned into indices, whose number only the GPU knows; indices on the host are copied.
        indices = [index for index in args[1] if index is not None]
        waits = any(index.dtype in (torch.bool, torch.uint8) or not index.is_cuda for index in indices)
    else:
        looks = torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags
        waits = looks or (func in _COPIES and len(kinds) > 1)
    if waits:
        raise RuntimeError(f"it waits for the GPU, at {func}, which a graph cannot")


def _restore_buffers(buffers: list[tuple[nn.Module, dict[str, Tensor | None]]]) -> str:
    """Restore the buffers of modules. Returns the name of one that had been replaced, or ""."""
    replaced = ""
    for module, held in buffers:
        for name, buffer in held.items():
            if module._buffers.get(name) is not buffer:
                module._buffers[name] = buffer
                replaced = f"{type(module).__name__}.{name}"
    return replaced


class _SavedGrad:
    """The `.grad` of a tensor as it is now, to be compared and restored later."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor
        self.previous = tensor.grad if tensor.is_leaf else None
        self._version = 0 if self.previous is None else _version(self.previous)

    @property
    def changed(self) -> bool:
        now = self.tensor.grad if self.tensor.is_leaf else None
        return now is not self.previous or (now is not None and _version(now) != self._version)

    def restore(self) -> None:
        if self.tensor.is_leaf:
            self.tensor.grad = self.previous


class _DataKept(TorchFunctionMode):
    """Raises Unfollowable where a tensor is given other data, before that is done: a graph would not do it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == Tensor.data.__set__:  # type: ignore[attr-defined]
            raise Unfollowable("it assigns .data of a tensor, which a graph does not; change it with copy_()")
        return func(*args, **(kwargs or {}))


class _ExternalTensors(TorchDispatchMode):
    """Collects the tensors that are used but were not created inside the mode, each with a copy of its first value."""

    def __init__(self, arguments: list[Tensor], strict: bool):
        super().__init__()
        self._strict = strict
        self._known = {id(tensor) for tensor in arguments}
        self._kept: list[Any] = list(arguments)  # keeps their ids from being used again
        self.outside: list[tuple[Tensor, Tensor]] = []
        self.versions: list[tuple[Tensor, int]] = []
        self.changed = False
        self.draws: set[str] = set()
        self.dtypes: set[torch.dtype] = set()
        self.gradients: list[_SavedGrad] = []
        self.generators: dict[torch.Generator, Tensor] = {}

    def restore(self) -> None:
        """Give the tensors and generators the values that they had at first use."""
        tensors, held = [tensor for tensor, _ in self.outside], [held for _, held in self.outside]
        _restore(tensors, held, [version for _, version in self.versions])
        for generator, state in self.generators.items():
            generator.set_state(state)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for value in tree_leaves((args, kwargs)):
            if func is torch.ops.aten.lift_fresh.default:  # a new tensor of Python numbers
                self._note(value)
            if isinstance(value, torch.Generator):
                self.generators.setdefault(value, value.get_state())
            if isinstance(value, Tensor) and id(value) not in self._known:
                if self._strict and func is torch.ops.aten._local_scalar_dense.default:
                    raise RuntimeError("it reads the value of a tensor on the host, which a graph would keep")
                self._note(value)
                self.outside.append((value, value.detach().clone()))
                self.versions.append((value, _version(value)))
                if value.requires_grad and value.is_leaf:
                    self.gradients.append(_SavedGrad(value))
        result = func(*args, **kwargs)
        made = [tensor for tensor in tree_leaves(result) if isinstance(tensor, Tensor)]
        for tensor in made:
            self._note(tensor)
            self.dtypes.add(tensor.dtype)
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.draws.update(tensor.device.type for tensor in made)
        if self._strict:
            _refuse_synchronization(func, args, [v for v in tree_leaves((args, kwargs, made)) if isinstance(v, Tensor)])
        return result

    def _note(self, tensor: Tensor) -> None:
        self._known.add(id(tensor))
        self._kept.append(tensor)
