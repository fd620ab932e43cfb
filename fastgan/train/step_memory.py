"""What a training step takes of memory, before the first one: both steps run on fake tensors, which have sizes alone.

It is a lower bound: libraries take workspaces beside it.
"""

from __future__ import annotations

import copy
import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from fastgan._util.files import amount
from fastgan._util.memory import free_host_memory
from fastgan._util.options import option
from fastgan.tasks.base import Batch, Noise
from fastgan.tasks.generation import Generation
from fastgan.train.state import TrainState
from fastgan.train.step import TaskSteps

#: Bytes for each number of an image beyond which a step is not measured: its memory can hold more than that.
_PER_NUMBER = 16_000


def too_little(state: TrainState, batch: Batch, noise: dict[str, Noise]) -> str:
    """A sentence if the memory that is free is less than the steps of a run take; "" also where that is not known."""
    free, task = free_memory(state.device), state.task
    if not isinstance(task, Generation) or batch[task.real].numel() * _PER_NUMBER < free:
        return ""
    needed = of_steps(TaskSteps(task, state.config.precision), batch, noise)
    if needed is None:
        return ""
    moments = sum(
        2 * weight.numel() * weight.element_size()
        for update in state.updates.values()
        for group in update.optimizer.param_groups
        for weight in group["params"]
        if weight not in update.optimizer.state
    )
    if needed + moments <= free:
        return ""
    images = batch[task.real]
    return (
        f"a step with {len(images)} images of {' × '.join(map(str, images.shape[1:]))} takes at least"
        f" {amount(needed + moments)} of memory, and {amount(free)} are free on {state.device}; give"
        f" {option('batch', max(len(images) // 2, 1))} with {option('accumulate', 2)}, or a smaller resolution or width"
    )


def of_steps(steps: TaskSteps, batch: Batch, noise: dict[str, Noise]) -> int | None:
    """Bytes at the peak of the larger step, lazy terms included and weights not; None if it cannot run on fake tensors.

    Nothing is computed, and nothing changes: neither networks nor random numbers.
    """
    peak, task = 0, copy.copy(steps.task)
    for network, own in noise.items():
        mode, tracker = FakeTensorMode(allow_non_fake_inputs=True), _Peak()
        given = tree_map_only(Tensor, mode.from_tensor, (batch, own | {"lazy": True}))
        try:
            # Copies, for layers may keep what they compute.
            task.generator, task.discriminator = _fake([steps.task.generator, steps.task.discriminator], mode)
            with mode, tracker:
                getattr(TaskSteps(task, steps.precision), network)(*given)
        except Exception:  # a network that looks at its values, or does not fit the batch, which is said elsewhere
            return None
        peak = max(peak, tracker.peak)
    return peak


def _fake(networks: list[nn.Module], mode: FakeTensorMode) -> list[nn.Module]:
    """Copies whose parameters and buffers are fake."""
    fake: dict[int, Any] = {}
    for network in networks:
        for tensor in (leaf for module in network.modules() for leaf in tree_leaves(vars(module))):
            if isinstance(tensor, Tensor):
                fake[id(tensor)] = mode.from_tensor(tensor.detach()).requires_grad_(tensor.requires_grad)
    return copy.deepcopy(networks, fake)


def free_memory(device: torch.device) -> int:
    """Bytes that new tensors may take on a device."""
    if device.type != "cuda":
        return free_host_memory()
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


class _Peak(TorchDispatchMode):
    """The most bytes of tensors, made while it lasts, that live at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._known:
                    self._known.add(storage._cdata)
                    self._now += storage.nbytes()
                    weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self._now)
        return result

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._now -= size
