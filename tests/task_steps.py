"""A trainer of small networks and the steps of its task, without updates."""

import torch

from fastgan import Config, Trainer, models
from fastgan.train.step import TaskSteps


def trainer(loss="non-saturating", **options):
    torch.manual_seed(0)
    networks = models.build("dcgan", resolution=28, channels=1, latent=8, width=4)
    return Trainer(*networks, loss, Config.from_flags(latent=8, **options))


def draws(t, n=4):
    """A batch, and the noise of a discriminator's step on it, which is not a lazy one."""
    batch = {"real": torch.rand(n, 1, 28, 28) * 2 - 1}
    return batch, t.task.draw("discriminator", batch, t.state.random, 0) | {"lazy": False}


def d_step(t, batch, noise, lazy=False):
    return TaskSteps(t.task).discriminator(batch, noise | {"lazy": lazy})
