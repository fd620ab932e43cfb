"""A whole training iteration as one CUDA graph: steps, updates and the average, in one memory pool.

The inputs, batches and noise of all steps, are copied into the graph's own tensors before each replay, and the scalars
to log come out as one tensor. Nothing else is copied.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from fastgan.engine.cuda_graphs import Recorder

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
    if type(state.task).update not in (Task.update, Generation.update):
        return f"{type(state.task).__name__}.update runs after each step"
    return state.task.draws_depend_on_steps


class IterationGraph:
    """Calls `step` as it is a few times, then captures it, then replays the graph.

    step(d_inputs, g_inputs, ema) is Trainer.train_step. Nothing is run twice or undone. If the capture fails, `reason`
    says why, and iterations go on as they are.
    """

    def __init__(self, step: Callable[..., Logs], state: TrainState):
        self._step, self._state = step, state
        self._recorder = Recorder()
        self._names: list[list[str]] = []
        self.reason = ""

    def __call__(self, d_inputs: list[list[Inputs]], g_inputs: list[Inputs], ema: float) -> Logs:
        if self.reason:
            return self._step(d_inputs, g_inputs, ema)
        flat, structure = tree_flatten((d_inputs, g_inputs))
        # A batch is the input of the discriminator's step and of the generator's: one tensor in the graph too.
        tensors = {id(value): value for value in flat if isinstance(value, Tensor)}
        order = {key: i for i, key in enumerate(tensors)}

        def run(given: list[Tensor]) -> Tensor:
            inputs = [given[order[id(value)]] if id(value) in order else value for value in flat]
            logs = self._step(*tree_unflatten(inputs, structure), given[-1])
            self._names = [list(log) for log in logs]
            return torch.stack([value.float() for log in logs for value in log.values()])

        weight = torch.full((), ema, device=self._state.device)
        try:
            values = self._recorder(self._key(flat, structure, order), run, [*tensors.values(), weight])
        except (RuntimeError, NotImplementedError) as error:
            self.reason = str(error).splitlines()[0]
            _logger.warning("an iteration cannot be one CUDA graph: %s", self.reason)
            return self._step(d_inputs, g_inputs, ema)
        split = iter(values.unbind())
        return [{name: next(split) for name in names} for names in self._names]

    def _key(self, flat: list[Any], structure: Any, order: dict[int, int]) -> tuple[object, ...]:
        """What a captured iteration takes as fixed."""
        inputs = [(order[id(v)], v.shape, v.stride(), v.dtype) if isinstance(v, Tensor) else v for v in flat]
        updates = [fixed for update in self._state.updates.values() for fixed in update.addresses()]
        return structure, *inputs, *updates
