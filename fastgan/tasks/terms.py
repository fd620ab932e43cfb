"""Parts of the losses of tasks whose discriminators see images alone: unpaired and contrastive translation."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from fastgan._util.options import option
from fastgan._util.random import Random
from fastgan.degradation import random_crop
from fastgan.errors import UsageError
from fastgan.losses import AdversarialLoss
from fastgan.losses.config import LossConfig
from fastgan.regularization import Regularization, RegularizationConfig


def adversarial_d(loss: AdversarialLoss, of_real: Tensor, of_fake: Tensor) -> Tensor:
    """The discriminator's loss for its logits."""
    return loss.d_loss(of_real.float(), of_fake.float())


def adversarial_g(loss: AdversarialLoss, discriminator: nn.Module, fake: Tensor, real: Tensor) -> Tensor:
    """The generator's loss for fakes [N, C, H, W]; real ones are compared with where the loss compares.

    Least squares are E (D(G(x)) − 1)² as in CycleGAN (section 4) and CUT, without the factor ½ of
    `fastgan.losses`, so that the weights of other terms are those of the papers.
    """
    of_fake = discriminator(fake).float()
    value = loss.g_loss(of_fake, discriminator(real).float()) if loss.paired else loss.g_loss(of_fake)
    return 2 * value if loss.name == "least-squares" else value


def like(real: Tensor, images: Tensor) -> Tensor:
    """Images in the dtype and memory format of real ones."""
    last = images.dim() == 4 and real.is_contiguous(memory_format=torch.channels_last)
    return images.to(real.dtype).contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def randomly_cropped(images: Tensor, crop: int, random: Random | None, flip: bool) -> Tensor:
    """Squares of side `crop`, or whole images where that is 0, mirrored at random; see `random_crop`."""
    height, width = images.shape[2:]
    if crop > min(height, width):
        raise UsageError(f"crop: expected at most the side of the images, {width}×{height}, got {crop}")
    if not (crop or (flip and random is not None)):
        return images
    size = crop or (height, width)
    return random_crop({"images": images}, size, random, flip=flip, rotate=False)["images"]


def refuse_unknown(task: str, loss: AdversarialLoss, config: LossConfig, regularization: Regularization) -> None:
    """Raise UsageError for options of losses and regularization that a task does not compute."""
    if loss.penalties:
        raise UsageError(f"loss: {task} computes no penalties, and {loss.name} has one; take least-squares or hinge")
    # These are the trainer's: of weights, and of layers that are not trained; and a length without instance noise.
    given = dataclasses.replace(regularization.config, historical_averaging=0.0, freeze_d=0, instance_noise_steps=None)
    of_loss = dataclasses.replace(config, adversarial="non-saturating", penalty_interval=1, matching_interval=1)
    for options, usual in ((of_loss, LossConfig()), (given, RegularizationConfig())):
        for field in dataclasses.fields(options):
            if (value := getattr(options, field.name)) != getattr(usual, field.name):
                hint = f"leave {option(field.name)} out"
                raise UsageError(f"{field.name}: {task} does not compute it, got {value}; {hint}")


def check_parts(task: str, name: str, network: nn.Module, wanted: set[str]) -> None:
    """Raise UsageError where a network, the argument `name`, is no nn.ModuleDict with these names among its own."""
    if not isinstance(network, nn.ModuleDict) or not wanted <= {*network}:
        came = f"one of {', '.join(network)}" if isinstance(network, nn.ModuleDict) else type(network).__name__
        raise UsageError(f"{name}: {task} expects an nn.ModuleDict of {' and '.join(sorted(wanted))}, got {came}")


def check_options(**options: float) -> None:
    """Raise UsageError for numbers below 0."""
    for name, value in options.items():
        if not value >= 0:
            raise UsageError(f"{name}: expected a number >= 0, got {value}")
