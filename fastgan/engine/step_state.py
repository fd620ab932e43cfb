"""The state that `fastgan.benchmark` restores between contestants: that of capture.py, and optimizers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from fastgan.engine.capture import _ExternalTensors, _restore_buffers, _SavedGrad, preserved
from fastgan.engine.host_state import HostState
from fastgan.ops._capture import before_capture

_SEED = 0


@dataclass(frozen=True)
class Results:
    """What a run of a step leaves, by kind: what it returned, gradients, and other tensors that it changed."""

    returned: list[Tensor]
    gradients: list[Tensor | None]
    changed: list[Tensor]


class StepState:
    """Lets a step run many times from the same state, and restores the state that it had before.

    Found by two runs of the step: weights, buffers, `.grad`, optimizers, the tensors in the arguments, RNG states,
    values in Python. The states of optimizers are created by the first run, so every later run starts from weights and
    buffers as they were, and optimizers with one step behind them. optimizers: that the step calls. tensors: that it
    uses. leaves: whose `.grad` it fills.
    """

    def __init__(self, step: Callable[..., Any], args: tuple[Any, ...]):
        self._step, self._args = step, args
        self._given = [t for t in tree_leaves(args) if isinstance(t, Tensor)]
        self.optimizers: dict[Optimizer, tuple[dict[Any, Any], list[dict[str, Any]]]] = {}
        self._buffers: dict[int, tuple[nn.Module, dict[str, Tensor | None]]] = {}
        self.tensors: list[Tensor] = []
        self._assigned = _AssignedGrads()
        self._start: list[tuple[Tensor, Tensor]] = []
        self._changed: list[Tensor] = []
        self.leaves: list[Tensor] = []
        self._generators: dict[torch.Generator, Tensor] = {}
        self._host = HostState(step, args, strict=False)

    @contextmanager
    def held(self) -> Iterator[None]:
        """A context in which `begin` works. At its end all state is restored, also after an exception."""
        first = _ExternalTensors(self._given, strict=False)
        given = [(tensor, tensor.detach().clone()) for tensor in self._given]
        gradients = [(tensor, tensor.grad) for tensor in self._given if tensor.is_leaf]

        def back() -> None:
            # Values at first use, which are those from before the step.
            first.restore()
            _copy(given)
            # A `.grad` that was assigned was as before until then, also if the tensor was used only later.
            for saved in (*first.gradients, *self._assigned.first.values()):
                saved.restore()
            for tensor, gradient in gradients:
                tensor.grad = gradient
            _restore_buffers(list(self._buffers.values()))

        with preserved(self._given):
            try:
                with self._host.watched():
                    self._run(first)
                back()
                second = _ExternalTensors(self._given, strict=False)
                self._run(second)
                self._find(second, given)
                yield
            finally:
                back()
                self._host.restore()
                for optimizer, (states, groups) in self.optimizers.items():
                    optimizer.state = defaultdict(dict, states)
                    for group, before in zip(optimizer.param_groups, groups, strict=True):
                        group.clear()
                        group.update(before)

    def begin(self) -> None:
        """Set everything that the step uses to the state that all contestants start from, and seed RNGs."""
        _copy(self._start)
        _restore_buffers(list(self._buffers.values()))
        for leaf in self.leaves:
            leaf.grad = None
        self._host.restore()
        before_capture()
        torch.manual_seed(_SEED)
        for generator, state in self._generators.items():
            generator.set_state(state)

    def results(self, run: Callable[[], Any]) -> Results:
        """Run a contestant from the start and copy what it leaves."""
        self.begin()
        returned = [t.detach().clone() for t in tree_leaves(run()) if isinstance(t, Tensor)]
        gradients = [None if leaf.grad is None else leaf.grad.detach().clone() for leaf in self.leaves]
        return Results(returned, gradients, [tensor.detach().clone() for tensor in self._changed])

    def why_not_captured(self) -> str:
        """Why a CUDA graph cannot hold the step, as far as one can tell without a capture, or ""."""
        for optimizer in self.optimizers:
            if any(not group.get("capturable", True) for group in optimizer.param_groups):
                return f"its {type(optimizer).__name__} has capturable=False"
        self.begin()
        try:
            with _ExternalTensors(self._given, strict=True):
                self._step(*self._args)
        except RuntimeError as error:
            return str(error)
        return ""

    def _run(self, mode: _ExternalTensors) -> None:
        def module(called: nn.Module, inputs: Any) -> None:
            if id(called) not in self._buffers:
                self._buffers[id(called)] = called, dict(called._buffers)

        def optimizer(called: Optimizer, *_: Any) -> None:
            # Tensors in the states are restored in place, with all others.
            if called not in self.optimizers:
                states = {key: dict(value) for key, value in called.state.items()}
                self.optimizers[called] = states, [dict(group) for group in called.param_groups]

        handles = [register_module_forward_pre_hook(module), register_optimizer_step_pre_hook(optimizer)]
        torch.manual_seed(_SEED)
        try:
            with self._assigned, mode:
                self._step(*self._args)
        finally:
            for handle in handles:
                handle.remove()

    def _find(self, seen: _ExternalTensors, given: list[tuple[Tensor, Tensor]]) -> None:
        """Take over what a run has found. A `.grad` from before the step is no state that it starts from."""
        previous = {id(saved.previous) for saved in seen.gradients if saved.previous is not None}
        self.leaves = [saved.tensor for saved in seen.gradients if saved.changed or saved.previous is not None]
        self._start = [(tensor, value) for tensor, value in seen.outside if id(tensor) not in previous]
        self._start += given
        self._generators = dict(seen.generators)
        self.tensors = [tensor for tensor, _ in self._start]
        self._changed = [t for t, value in self._start if t.is_floating_point() and not torch.equal(t, value)]


class _AssignedGrads(TorchFunctionMode):
    """Keeps the `.grad` of each tensor to whose `.grad` Python assigns, as `zero_grad` does, from before the first."""

    def __init__(self) -> None:
        super().__init__()
        self.first: dict[int, _SavedGrad] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == Tensor.grad.__set__:  # type: ignore[union-attr]  # each read is another object
            self.first.setdefault(id(args[0]), _SavedGrad(args[0]))
        return func(*args, **(kwargs or {}))


def _copy(values: list[tuple[Tensor, Tensor]]) -> None:
    with torch.no_grad():
        for tensor, value in values:
            tensor.copy_(value)
