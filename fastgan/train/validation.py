"""Options that contradict each other: found before anything runs, each a sentence with its remedy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from fastgan.losses import AdversarialLoss
from fastgan.models.registry import option_types
from fastgan.train.batches import source_channels
from fastgan.train.regularization.augment import KINDS

if TYPE_CHECKING:
    from fastgan.train.config import Config


def why_not_networks(
    config: Config, generator: nn.Module, discriminator: nn.Module, latent_shape: tuple[int, ...] | None
) -> str:
    """Why these networks cannot play with these options, or ""."""
    for name, network in (("generator", generator), ("discriminator", discriminator)):
        if not any(weight.requires_grad for weight in network.parameters()):
            return f"{name}: expected a network with a parameter that requires a gradient, got {type(network).__name__}"
    channels, told = (source_channels(network) for network in (generator, discriminator))
    if told not in (0, channels):
        return (
            f"source_channels: expected the generator's {channels} in the discriminator too, or none in a discriminator that sees"
            f" images alone, got {told}"
        )
    if not channels:
        if config.l1_weight:
            return (
                "l1_weight: it weighs the distance to a target, and what is made of latents has none; give a generator"
                " of sources (with the attribute source_channels), or leave it out"
            )
        return ""
    if config.grow_images:
        return "grow_images: only generators of latents grow, from 4×4; leave it out with source_channels"
    if latent_shape is not None:
        return "latent_shape: a generator with source_channels is given sources in place of latents; leave it out"
    if getattr(generator, "classes", 0) or getattr(discriminator, "auxiliary", False):
        return (
            "classes: pairs of sources and targets bring no labels; leave `classes` and `auxiliary` out, and let the"
            " sources show which class it is"
        )
    if told:
        if config.pack > 1:
            return (
                "pack: a discriminator that sees the source judges it with one image, not with a pack; leave it out, or give a"
                " discriminator of images alone (without source_channels)"
            )
        changed = {"augment": config.augment != "none", "consistency": config.consistency > 0,
                   "consistency_fake": config.consistency_fake > 0}  # fmt: skip
        if found := [name for name, there in changed.items() if there]:
            return (
                f"{found[0]}: it would move the image and leave the source beside it where it is; leave it out and"
                " augment your pairs, or give a discriminator of images alone (without source_channels)"
            )
    return ""


def why_not(config: Config, game: AdversarialLoss) -> str:
    """Why these options cannot be used together in this game, or ""."""

    def value(name: str) -> Any:
        asked = getattr(config, name)
        return getattr(game.defaults, name) if asked is None else asked

    penalties = config.penalties(game)
    # Gulrajani et al. 2017 (arXiv:1704.00028, section 4) of batch norm; it holds for whatever looks at other samples.
    ties = "ties the samples of a batch together, so a penalty on each sample's gradient has no meaning"
    if config.d_norm == "batch" and penalties:
        return f"d_norm: batch norm {ties}; use --d-norm none or spectral with wgan-gp and R1"
    if config.minibatch_discrimination and penalties:
        return f"minibatch_discrimination: it {ties}; use it in games without penalties, or --pack with them"
    if config.minibatch_discrimination and "minibatch_discrimination" not in option_types(config.model):
        return (
            f"minibatch_discrimination: the discriminators of dcgan and mlp take it, that of {config.model} does not; leave it"
            " out"
        )
    if config.model == "progan" and value("weight_clip") > 0:
        return (
            "weight_clip: progan draws its weights from N(0, 1) and scales them where they are used, so that clipping"
            f" leaves nothing of the discriminator; use another game than {game.name}, or --weight-clip 0"
        )
    if config.classes is not None and config.condition == "none":
        return "classes: unconditional networks take no labels; say how they enter with --condition"
    if config.batch % config.pack:
        return (
            f"pack: a batch of {config.batch} cannot be put in packs of {config.pack}; give a --batch that is divisible"
        )
    if config.pack > 1 and config.condition != "none":
        return "pack: a conditional discriminator takes one label for each image, not for a pack; use one of both"
    if config.label_smoothing and not game.labels:
        return f"label_smoothing: {game.name} knows no labels; use it with minimax, non-saturating or least-squares"
    kinds = config.augment.split("+")
    if config.augment != "none" and (set(kinds) - set(KINDS) or len(set(kinds)) < len(kinds)):
        return f"augment: expected none, or some of {', '.join(KINDS)} joined by +, each once, got {config.augment!r}"
    if config.ada_target and config.augment == "none":
        return "ada_target: there is nothing to adapt; give --augment, color+translation+cutout for instance"
    if config.ada_target and game.undecided is None:
        return f"ada_target: the sign of a logit has no meaning in {game.name}; use --augment alone, or another game"
    if 0 < config.history < config.batch // 2:
        return (
            f"history: half of a batch of {config.batch} comes from it, so it must hold as many, got {config.history}"
        )
    if config.history and config.grow_images:
        return "history: past fakes are too small for networks that have grown (grow_images); leave one of both out"
    if config.unroll:
        # The look-ahead must do what the discriminator's update does, or its gradient is that of another discriminator.
        others = {
            "penalties": bool(penalties), "consistency": config.consistency > 0 or config.consistency_fake > 0,
            "historical averaging": config.historical_averaging > 0, "a history": config.history > 0,
            "gradient clipping": config.clip > 0, "weight clipping": value("weight_clip") > 0,
            "rmsprop": value("optimizer") != "adam", "fp16": config.precision == "fp16",
            "spectral norms": config.d_norm == "spectral",
        }  # fmt: skip
        if found := [name for name, there in others.items() if there]:
            return (
                f"unroll: the look-ahead takes plain Adam steps on the game's loss, without {found[0]};"
                " leave one of both out"
            )
    return ""
