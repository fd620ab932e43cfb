"""Builds the state of a new run: average, updates and the task around two networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import nn

from fastgan._util.random import Random
from fastgan.errors import UsageError
from fastgan.losses import AdversarialLoss
from fastgan.regularization import Regularization
from fastgan.regularization.freeze import freeze
from fastgan.tasks import Generation, Task
from fastgan.tasks.registry import task_for
from fastgan.train.config import Config
from fastgan.train.distributed import World
from fastgan.train.ema import Ema
from fastgan.train.growth import Growth
from fastgan.train.optim import Update, optimizer_of
from fastgan.train.state import TrainState
from fastgan.train.sync_batch_norm import synchronize


def train_state(
    config: Config,
    loss: AdversarialLoss,
    generator: nn.Module,
    discriminator: nn.Module,
    world: World,
    device: torch.device,
    task: Callable[[nn.Module, nn.Module], Task] | None = None,
    latent_shape: tuple[int, ...] | None = None,
) -> TrainState:
    """The state before the first step, on a device. config: settled. task, latent_shape: as for Trainer."""
    generator, discriminator = generator.to(device).train(), discriminator.to(device).train()
    optim = config.optim
    freeze(discriminator, config.regularization.freeze_d)
    ema = Ema(generator, optim.ema_images, optim.ema_rampup)
    growth = Growth(config.grow_images, generator, ema.module, discriminator)
    if config.sync_statistics and world.size > 1:
        for network in (generator, discriminator):
            synchronize(network, world)
    updates = {
        name: Update(
            network, optimizer_of(optim, network.parameters(), rate), world, optim.clip, config.precision == "fp16",
            weight_clip, config.regularization.historical_averaging,
        )
        for name, network, rate, weight_clip in (
            ("generator", generator, optim.lr_g or 0.0, 0.0),
            ("discriminator", discriminator, optim.lr_d or 0.0, optim.weight_clip or 0.0),
        )
    }  # fmt: skip
    own = task(generator, discriminator) if task is not None else None
    if task is not None and not isinstance(own, Task):
        raise UsageError(f"task: expected a Task, or a function that returns one, got {type(own).__name__} of it")
    random = Random(config.seed, device, world.rank, world.size)
    state = TrainState(
        config, own or Task(generator, discriminator), ema, updates, random, world, device, growth, None, {},
        loss.name if own is None else type(own).__name__,
    )  # fmt: skip
    if own is None:
        state.task = _built_in(state, loss, latent_shape)
    return state


def _built_in(state: TrainState, loss: AdversarialLoss, latent_shape: tuple[int, ...] | None) -> Task:
    """The task by its name, or as the generator asks for."""
    config, world, generator = state.config, state.world, state.task.generator
    for name in ("unroll", "history"):
        if getattr(config.regularization, name) and world.size > 1:
            raise UsageError(f"{name}: it uses one rank's images alone, so it needs one rank, got {world.size}")
    regularization = Regularization(config.regularization, state.device, config.steps, world.mean_)
    regularization.optimizer = state.updates["discriminator"].optimizer
    shape = latent_shape or (int(getattr(generator, "latent", config.model.latent)),)
    # The constructors of all built-in tasks take what that of Generation takes.
    kind = cast(type[Generation], task_for(config.task.name, generator))
    options, discriminator = config.task.options, state.task.discriminator
    task = kind(generator, discriminator, loss, config.loss, regularization, shape, config.seed, **options)
    if isinstance(task, Generation):
        task.enlarge = state.growth.enlarged
    return task
