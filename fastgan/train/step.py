"""The step of each network: a task's loss and its gradients, as functions of tensors that can be compiled whole.

Nothing here draws random numbers or changes a weight. The loop around it is in trainer.py, the update in optim.py.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastgan.errors import UsageError
from fastgan.tasks.base import Batch, Loss, Noise, Task, trainable

Gradients = tuple[Tensor | None, ...]
Result = tuple[Loss, Gradients]

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TaskSteps:
    """discriminator(batch, noise) and generator(batch, noise) return the loss, detached, and the gradients.

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

    def autocast(self, batch: Batch) -> torch.autocast:
        """How the forward passes on a batch compute."""
        device = next(iter(batch.values())).device.type
        return torch.autocast(device, self._dtype, enabled=self._dtype is not None)


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
        gradients = torch.autograd.grad(scaled, weights, allow_unused=True)
    if all(gradient is None for gradient in gradients):
        raise UsageError(
            f"{name}: expected one whose output depends on its weights, got {type(network).__name__}, of which no"
            " weight takes a gradient; is its output detached, or made under no_grad?"
        )
    return gradients
