"""Options that conflict with each other or with the networks: each an error that says what to do instead."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fastgan._util.options import option
from fastgan.errors import UsageError
from fastgan.losses import AdversarialLoss
from fastgan.losses.config import LossConfig
from fastgan.models.registry import option_types
from fastgan.regularization import RegularizationConfig
from fastgan.tasks.generation import Generation
from fastgan.tasks.networks import source_channels
from fastgan.tasks.registry import task_for

if TYPE_CHECKING:
    from fastgan.train.config import Config


def check_options(config: Config, loss: AdversarialLoss) -> None:
    """Raise UsageError where options cannot be used together with this adversarial loss."""
    if why := _conflict(config, loss):
        raise UsageError(why)
    config.regularization.check(loss, config.data.batch)


def _conflict(config: Config, loss: AdversarialLoss) -> str:
    model, regularization = config.model, config.regularization

    def value(name: str) -> Any:
        asked = getattr(config.optim, name)
        return getattr(loss.defaults, name) if asked is None else asked

    penalties = config.loss.all_penalties(loss)
    # Gulrajani et al. 2017 (arXiv:1704.00028, section 4) of batch norm; it holds for whatever compares samples.
    couples = "couples the samples of a batch, so a penalty on each sample's gradient has no meaning"
    if model.d_norm == "batch" and penalties:
        return f"d_norm: batch norm {couples}; use {option('d_norm', 'none')} or spectral with wgan-gp and R1"
    known = [name for name in option_types(model.family) if name != "condition"]
    for name in model.options:
        if name not in known:
            return f"model.{name}: {model.family} takes {', '.join(known) or 'no options of its own'}; leave it out"
    if (kernels := model.options.get("minibatch_discrimination", 0)) < 0:
        return f"minibatch_discrimination: expected a number >= 0, got {kernels}"
    if kernels and penalties:
        with_them = f"{option('pack')} with them"
        return f"minibatch_discrimination: it {couples}; use it with losses without penalties, or {with_them}"
    if model.family in ("progan", "stylegan", "stylegan2", "stylegan3") and value("weight_clip") > 0:
        return (
            f"weight_clip: {model.family} draws its weights from N(0, 1) and scales them where they are used, so that "
            f"clipping destroys the discriminator; use another loss than {loss.name}, or {option('weight_clip', 0)}"
        )
    if regularization.pack > 1 and model.condition != "none":
        return "pack: a conditional discriminator takes one label for each image, not for a pack; use one of both"
    if regularization.history and config.grow_images:
        return "history: past fakes are too small for networks that have grown (grow_images); leave one of both out"
    if regularization.unroll:
        # The unrolled steps must be the discriminator's own updates, or their gradient is that of another network.
        others = {
            "penalties": bool(penalties),
            "consistency": regularization.consistency > 0 or regularization.consistency_fake > 0,
            "historical averaging": regularization.historical_averaging > 0,
            "a history": regularization.history > 0,
            "gradient clipping": config.optim.clip > 0,
            "weight clipping": value("weight_clip") > 0,
            "rmsprop": value("optimizer") != "adam",
            "fp16": config.precision == "fp16",
            "spectral norms": model.d_norm == "spectral",
        }
        if found := [name for name, there in others.items() if there]:
            return (
                f"unroll: the unrolled steps are plain Adam steps on the adversarial loss, without {found[0]};"
                " leave one of both out"
            )
    return ""


def check_networks(
    config: Config, generator: nn.Module, discriminator: nn.Module, latent_shape: tuple[int, ...] | None
) -> None:
    """Raise UsageError where networks do not fit each other, or options of the built-in tasks do not fit them."""
    if not issubclass(task_for(config.task.name, generator), Generation):
        loss = dataclasses.replace(config.loss, adversarial="non-saturating")  # which all built-in tasks take
        check_own_task(
            dataclasses.replace(config, loss=loss), f"the task {config.task.name} has no such term; leave {{}} out"
        )
        return
    if why := _misfit(config, generator, discriminator, latent_shape):
        raise UsageError(why)


_OWN = "the built-in tasks compute it, and this task is your own; leave {} out and add it to its losses"


def check_own_task(config: Config, why: str = _OWN) -> None:
    """Raise UsageError for options that only generation has, and tasks built on it, beside another task."""
    # Without instance noise, its length has no meaning, and is set in the configuration of a run.
    regularization = dataclasses.replace(config.regularization, historical_averaging=0.0, instance_noise_steps=None)
    for options in (dataclasses.replace(config.loss, adversarial="non-saturating"), regularization):
        for field in dataclasses.fields(options):
            usual = RegularizationConfig if options is regularization else LossConfig
            if (value := getattr(options, field.name)) != getattr(usual(), field.name):
                raise UsageError(f"{field.name}: {why.format(repr(value))}")


def check_trainable(generator: nn.Module, discriminator: nn.Module) -> None:
    """Raise UsageError for what is no module, and for a network without a parameter to train."""
    for name, network in (("generator", generator), ("discriminator", discriminator)):
        if not isinstance(network, nn.Module):
            came = f"the class {network.__name__}" if isinstance(network, type) else type(network).__name__
            raise UsageError(f"{name}: expected a torch.nn.Module, got {came}")
        if not any(weight.requires_grad for weight in network.parameters()):
            raise UsageError(
                f"{name}: expected a network with a parameter that requires a gradient, got {type(network).__name__}"
            )


def _misfit(
    config: Config, generator: nn.Module, discriminator: nn.Module, latent_shape: tuple[int, ...] | None
) -> str:
    for name, network in (("generator", generator), ("discriminator", discriminator)):
        dtypes = {weight.dtype for weight in network.parameters()}
        if half := dtypes & {torch.float16, torch.bfloat16}:
            return (
                f"{name}: expected weights in float32, got {str(half.pop()).removeprefix('torch.')}; use"
                f" {name}.float(), and for forward passes in half precision {option('precision', 'bf16')} or fp16"
            )
    channels, seen = source_channels(generator), source_channels(discriminator)
    if seen not in (0, channels):
        return (
            f"source_channels: expected the generator's {channels} in the discriminator too, or none in a discriminator"
            f" that sees images alone, got {seen}"
        )
    if not channels:
        if config.loss.l1_weight:
            return (
                "l1_weight: it weighs the distance to a target, and images made of latents have none; give a generator"
                " of source images (with the attribute source_channels), or leave it out"
            )
        return _without_styles(config, generator)
    if config.regularization.style_mixing or config.regularization.path_length:
        return "style_mixing, path_length: a generator of source images has no styles; leave them out"
    if config.grow_images:
        return "grow_images: only generators of latents grow, from 4×4; leave it out with source_channels"
    if latent_shape is not None:
        return "latent_shape: a generator with source_channels takes sources in place of latents; leave it out"
    if getattr(generator, "classes", 0) or getattr(discriminator, "auxiliary", False):
        return (
            "classes: pairs of sources and targets have no labels; leave `classes` and `auxiliary` out, and let the"
            " sources show the class"
        )
    regularization = config.regularization
    if seen:
        if regularization.pack > 1:
            return (
                "pack: a discriminator that sees the source classifies it with one image, not with a pack; leave it"
                " out, or give a discriminator of images alone (without source_channels)"
            )
        changed = {
            "augment": regularization.augment != "none",
            "consistency": regularization.consistency > 0,
            "consistency_fake": regularization.consistency_fake > 0,
        }
        if found := [name for name, there in changed.items() if there]:
            return (
                f"{found[0]}: it would change the image and not the source beside it; leave it out and augment your"
                " pairs, or give a discriminator of images alone (without source_channels)"
            )
    return ""


def _without_styles(config: Config, generator: nn.Module) -> str:
    """Why options that need styles do not fit a generator, or ""."""
    regularization = config.regularization
    for name in ("style_mixing", "path_length"):
        if getattr(regularization, name) and not (hasattr(generator, "mapping") and hasattr(generator, "synthesis")):
            return (
                f"{name}: expected a generator with `mapping` from latents to styles and `synthesis` from styles to"
                f" images, as stylegan2's, got {type(generator).__name__}; leave it out"
            )
    intervals = {config.loss.matching_interval, regularization.path_length_interval, 1}
    if regularization.path_length and config.loss.matching_interval > 1 and len(intervals) > 2:
        return (
            f"matching_interval: path length regularization comes every {regularization.path_length_interval} steps;"
            f" give {option('matching_interval', regularization.path_length_interval)} or 1"
        )
    return ""
