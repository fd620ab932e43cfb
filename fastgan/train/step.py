"""The step of each network: a task's loss and its gradients, as functions of tensors that can be compiled whole.

Nothing here draws random numbers or changes a weight. The loop around it is in trainer.py, the update in optim.py.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fastgan.errors import UsageError
from fastgan.tasks.base import Batch, Loss, Noise, Task, trainable

Gradients = tuple[Tensor | None, ...]
Result = tuple[Loss, Gradients]

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TaskSteps:
    """discriminator(batch, noise) and generator(batch, noise) return the loss, detached, and the gradients.

    Tensors of the noise that require gradients, as `Shared.leaves` does, get theirs after those of the weights.

    precision: of the forward passes: fp32, tf32, bf16 or fp16. Gradients carry noise["loss_scale"] where it is given.
    """

    def __init__(self, task: Task, precision: str = "fp32"):
        self.task, self.precision, self._dtype = task, precision, _HALF.get(precision)

    def discriminator(self, batch: Batch, noise: Noise) -> Result:
        with self.autocast(batch):
            loss = self.task.discriminator_loss(batch, noise)
        return _detached(loss, "discriminator"), _gradients(loss.value, self.task.discriminator, noise, "discriminator")

    def generator(self, batch: Batch, noise: Noise) -> Result:
        with self.autocast(batch):
            loss = self.task.generator_loss(batch, noise)
        return _detached(loss, "generator"), _gradients(loss.value, self.task.generator, noise, "generator")

    def shared(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """What the generator makes for both steps of an iteration, with its graph."""
        with self.autocast(batch):
            return self.task.shared(batch, noise)

    def autocast(self, batch: Batch) -> torch.autocast:
        """How the forward passes on a batch compute."""
        device = next(iter(batch.values())).device.type
        return torch.autocast(device, self._dtype, enabled=self._dtype is not None)


class Shared:
    """What the generator made once for both steps of an iteration: `Task.shared`.

    made: by name, with the graph from the generator's weights. Each step takes it as a leaf, so that the steps stay
    functions of tensors; `gradients` goes on from there to the weights.
    """

    def __init__(self, made: Mapping[str, Tensor]):
        self._made = made
        #: For the noise of the discriminator's step.
        self.constants = {name: tensor.detach() for name, tensor in made.items()}
        #: For that of the generator's.
        self.leaves = {name: t.detach().requires_grad_(t.requires_grad) for name, t in made.items()}

    def gradients(self, found: Gradients, network: nn.Module) -> Gradients:
        """The gradients of the weights. found: what the generator's step returned, with those of the leaves."""
        if not self._made:
            return found
        weights = trainable(network)
        own, of_leaves = found[: len(weights)], found[len(weights) :]
        live = [tensor for tensor in self._made.values() if tensor.requires_grad]
        pairs = [(tensor, g) for tensor, g in zip(live, of_leaves, strict=True) if g is not None]
        if not pairs:
            return own
        outputs, cotangents = map(list, zip(*pairs, strict=True))
        through = torch.autograd.grad(outputs, weights, cotangents, allow_unused=True)
        return tuple(_sum(a, b) for a, b in zip(own, through, strict=True))


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return other if one is None else one if other is None else one + other


def _detached(loss: Loss, network: str) -> Loss:
    """The loss for the log: "loss/NETWORK" is the whole value where the task logs no part of it by that name."""
    log = {f"loss/{network}": loss.value, **loss.log}
    for name, value in log.items():
        if value.numel() != 1:
            raise UsageError(f"{name}: expected a scalar to log, got {list(value.shape)}")
    return Loss(
        loss.value.detach(),
        {name: value.detach().reshape(()) for name, value in log.items()},
        {name: value.detach() for name, value in loss.outputs.items()},
    )


def _gradients(value: Tensor, network: nn.Module, noise: Noise, name: str) -> Gradients:
    gradients: Gradients = ()
    if value.requires_grad and (weights := trainable(network)):
        scaled = value * noise["loss_scale"] if "loss_scale" in noise else value
        # autograd.grad asks for this network's weights alone: backward() would also fill the other's.
        leaves = [given for given in noise.values() if isinstance(given, Tensor) and given.requires_grad]
        gradients = torch.autograd.grad(scaled, [*weights, *leaves], allow_unused=True)
    if all(gradient is None for gradient in gradients):
        raise UsageError(
            f"{name}: expected one whose output depends on its weights, got {type(network).__name__}, of which no"
            " weight takes a gradient; is its output detached, or made under no_grad?"
        )
    return gradients
