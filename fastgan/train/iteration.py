"""A whole training iteration as one CUDA graph: steps, updates and the average, in one memory pool.

The inputs, batches and noise of all steps, are copied into the graph's own tensors before each replay, and the scalars
to log come out as one tensor. Nothing else is copied.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from fastgan.engine.cuda_graphs import CaptureError, Recorder

if TYPE_CHECKING:
    from fastgan.train.compile_policy import Inputs, Steps
    from fastgan.train.state import TrainState

_logger = logging.getLogger(__name__)

Logs = list[dict[str, Tensor]]


def why_not(state: TrainState, steps: Steps) -> str:
    """Why an iteration of this run cannot be one CUDA graph, or ""."""
    from fastgan.tasks import Generation, Task

    if state.device.type != "cuda":
        return f"the device is {state.device}"
    if state.world.size > 1:
        return f"{state.world.size} ranks exchange gradients"
    if steps.inner is None:
        return "its steps run eagerly"
    if state.config.grow_images:
        return "networks that grow change between iterations"
    for name, when in (("update", "each step"), ("update_after_generator", "the generator's step")):
        known = getattr(Task, name), getattr(Generation, name)
        if getattr(type(state.task), name) not in known and not state.task.updates_on_device:
            return f"{type(state.task).__name__}.{name} runs after {when}"
    return state.task.draws_depend_on_steps


class IterationGraph:
    """Calls `step` as it is a few times, then captures it, then replays the graph.

    step(d_inputs, g_inputs, ema, watch) is Trainer.train_step. Nothing is run twice or undone. Iterations with and
    without lazy penalties, and those whose updates are watched, are graphs of their own. If an iteration cannot be
    captured, `reason` says why, and iterations go on as they are; too_many: because their inputs come in too many
    kinds. captured: whether there is a graph.
    """

    #: Kinds of iterations by shapes and flags of their inputs, each with a graph in memory.
    MOST = 12

    def __init__(self, step: Callable[..., Logs], state: TrainState):
        self._step, self._state = step, state
        self._variants: dict[Hashable, tuple[Recorder, list[list[str]]]] = {}
        self.reason = ""
        self.captured = self.too_many = False

    def __call__(self, d_inputs: list[list[Inputs]], g_inputs: list[Inputs], ema: float, watch: bool = False) -> Logs:
        if self.reason:
            return self._step(d_inputs, g_inputs, ema, watch)
        flat, structure = tree_flatten((d_inputs, g_inputs))
        # A batch is the input of the discriminator's step and of the generator's: one tensor in the graph too.
        tensors = {id(value): value for value in flat if isinstance(value, Tensor)}
        order = {key: i for i, key in enumerate(tensors)}
        variant = repr(structure), watch, *(_fixed(value, order) for value in flat)
        if variant not in self._variants and len(self._variants) == self.MOST:
            self.too_many = True
            return self._give_up(f"its inputs come in more than {self.MOST} kinds", d_inputs, g_inputs, ema, watch)
        recorder, names = self._variants.setdefault(variant, (Recorder(self._pool), []))

        def run(given: list[Tensor]) -> Tensor:
            inputs = [given[order[id(value)]] if id(value) in order else value for value in flat]
            logs = self._step(*tree_unflatten(inputs, structure), given[-1], watch)
            names[:] = [list(log) for log in logs]
            return torch.stack([value.float() for log in logs for value in log.values()])

        weight = torch.full((), ema, device=self._state.device)
        updates = tuple(fixed for update in self._state.updates.values() for fixed in update.addresses())
        try:
            values = recorder(updates, run, [*tensors.values(), weight])
        except CaptureError as error:
            return self._give_up(str(error), d_inputs, g_inputs, ema, watch)
        if recorder.full:
            self._set_reason("the GPU's memory does not hold its graph")
        self.captured = self.captured or recorder.replays
        split = iter(values.unbind())
        return [{name: next(split) for name in step} for step in names]

    @functools.cached_property
    def _pool_handle(self) -> Any:
        return torch.cuda.graph_pool_handle()

    def _pool(self) -> Any:
        """The one memory pool of all graphs of the run."""
        return self._pool_handle

    def _give_up(self, reason: str, *inputs: Any) -> Logs:
        self._set_reason(reason)
        return self._step(*inputs)

    def _set_reason(self, reason: str) -> None:
        self.reason, self._variants = reason, {}
        _logger.warning("an iteration cannot be one CUDA graph: %s", reason)


def _fixed(value: Any, order: dict[int, int]) -> Hashable:
    """What a captured iteration takes as fixed of an input."""
    if isinstance(value, Tensor):
        return order[id(value)], value.shape, value.stride(), value.dtype
    return value
