"""The interface of a task: two pure functions of tensors. The trainer does everything else."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from torch import Tensor, nn

from fastgan._util.random import Random
from fastgan.tasks.batches import any_tensors

#: Tensors by name, all of one length along their first axis.
Batch = dict[str, Tensor]
#: What a step takes beside its batch: random numbers and other tensors by name, and flags by which steps differ. In
#: fp16 "loss_scale" is the factor that the loss is multiplied by before the backward pass.
Noise = dict[str, Any]

AnyTask = TypeVar("AnyTask", bound="Task")


class Loss(NamedTuple):
    """value: the scalar that is differentiated. log: scalars to log, by name. outputs: tensors for `Task.update`."""

    value: Tensor
    log: dict[str, Tensor] = {}  # noqa: RUF012 (never changed)
    outputs: dict[str, Tensor] = {}  # noqa: RUF012


class Task:
    """Two pure functions of tensors; everything else is the trainer's.

    generator, discriminator: any modules; a ModuleDict for several. A subclass defines `discriminator_loss` and
    `generator_loss`, and where its steps need random numbers `draw`. Neither loss may draw random numbers itself,
    change a weight or wait for the device, so that a step can be compiled whole or become a CUDA graph.
    """

    #: The entry of a batch that holds the real images: its length counts as the number of images.
    real = "real"
    #: Whether the losses have no lower bound, as Wasserstein losses: a large value does not show divergence then.
    unbounded = False
    #: For a task whose `draw` sets noise["lazy"] in every so many steps of a network: how many. Then both are timed.
    intervals: Mapping[str, int] = MappingProxyType({"discriminator": 1, "generator": 1})
    #: Whether real and fake images go through the discriminator as one batch, in tasks that know both ways.
    joint = False
    #: Whether both steps of an iteration may take what the generator makes of their one batch once, by `shared`.
    shares = False
    #: What the forward passes of the discriminator in its step are of, in order: for messages about what is not finite.
    passes: tuple[str, ...] = ()
    #: How `fastgan train` opens its data: a name in `fastgan.data.kinds.KINDS`.
    data = "images"
    #: Whether `update` and `update_after_generator` only compute with tensors in place, so that a whole iteration with
    #: them may become a CUDA graph.
    updates_on_device = False
    #: Whether its batches have labels whatever the networks take.
    labeled = False

    def __init__(self, generator: nn.Module, discriminator: nn.Module):
        self.generator, self.discriminator = generator, discriminator

    # --- a subclass defines ---------------------------------------------------------------------------------------

    def discriminator_loss(self, batch: Batch, noise: Noise) -> Loss:
        """What the discriminator minimizes on a batch."""
        raise NotImplementedError(f"{type(self).__name__} defines no discriminator_loss(batch, noise)")

    def generator_loss(self, batch: Batch, noise: Noise) -> Loss:
        """What the generator minimizes on a batch, with a discriminator that stays as it is."""
        raise NotImplementedError(f"{type(self).__name__} defines no generator_loss(batch, noise)")

    # --- a subclass may define ------------------------------------------------------------------------------------

    def collate(self, batch: Any, name: str = "batches") -> Batch:
        """A batch as the data gives it, as a dictionary. Raises UsageError, which begins with `name`.

        Here: a mapping of tensors as it is, a tensor as {"real": ...}, a pair as {"real": ..., "labels": ...}.
        """
        return any_tensors(batch, self.real, name)

    def transform(self, batch: Batch, random: Random | None) -> Batch:
        """A collated batch on the device as the steps use it: crops, flips, degradations. No part of compiled steps.

        Called once for each batch. Draw only from `random`; None stands for held-out batches, which have to come out
        the same each time.
        """
        return batch

    def draw(self, network: str, batch: Batch, random: Random, step: int) -> Noise:
        """The noise of one step. network: "generator" or "discriminator", whose step it is. step: counts from 0.

        Draw only from `random`, so that resumed runs and several ranks see the same numbers. Where the discriminator's
        has {"adversarial": False}, its step is left out.
        """
        return {}

    def shared(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """What the generator makes of a batch for both steps of an iteration, by name, for tasks with `shares`.

        noise: of the discriminator's step. The results are joined to the noise of both steps, in the discriminator's
        without a graph; through those of the generator's step the generator's weights get gradients. Not called where
        an iteration has several discriminator steps or accumulates batches: without these entries in its noise a step
        makes its own.
        """
        return {}

    def update(self, loss: Loss, batch: Batch, images: int, random: Random) -> None:
        """After each discriminator step, for tasks with state of their own. images: how many all ranks saw."""

    def update_after_generator(self, losses: Sequence[Loss]) -> None:
        """After each update of the generator, for tasks with state of their own. losses: of its batches."""

    @property
    def draws_depend_on_steps(self) -> str:
        """Why the noise of an iteration cannot be drawn before its first step, or ""."""
        return ""

    def samples(self, batch: Batch, held_out: Batch | None, step: int) -> dict[str, Any]:
        """Sample grids by name: images [N, C, H, W] in [-1, 1], or pairs of those and the columns of their grid.

        The generator is the averaged one, in eval mode; random numbers are restored afterwards.
        """
        return {}

    def measures(self, batch: Batch, held_out: Batch | None, step: int) -> dict[str, Tensor]:
        """Scalars by name, once a log interval. The generator is the averaged one; random numbers are restored after
        it."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """The state of the task for a checkpoint, beside the networks."""
        return {}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""

    # --- the same for all -----------------------------------------------------------------------------------------

    def with_generator(self: AnyTask, generator: nn.Module) -> AnyTask:
        """The same task with another generator, such as the averaged one."""
        other = copy.copy(self)
        other.generator = generator
        return other


def trainable(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that training changes."""
    return [weight for weight in network.parameters() if weight.requires_grad]
