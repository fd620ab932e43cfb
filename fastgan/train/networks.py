"""Networks by name, and trained ones out of a run directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastgan import models
from fastgan._util.memory import require_memory
from fastgan.errors import DataError, UsageError, first_line
from fastgan.train import checkpoint, rundir
from fastgan.train.config import Config


@dataclass(frozen=True)
class Trained:
    """The averaged generator of a run, in eval mode on the CPU, and where it comes from.

    classes: how many it takes labels of beside its latents; 0 where it takes none.
    """

    generator: nn.Module
    latent_shape: tuple[int, ...]
    step: int
    facts: dict[str, Any]
    folder: Path
    classes: int

    @property
    def config(self) -> Config:
        """The configuration of the run."""
        return Config.from_dict(self.facts["config"])


def build_networks(config: Config, image_shape: tuple[int, int, int]) -> tuple[nn.Module, nn.Module]:
    """The networks that a configuration names, for images [C, H, W]. UsageError for images that are not square."""
    channels, height, width = image_shape
    if height != width:
        raise UsageError(
            f"data: the networks here make square images, these are {width}×{height}; crop them with --resolution N"
        )
    model, pack = config.model, config.regularization.pack
    options: dict[str, Any] = {"latent": model.latent, "width": model.width, "d_norm": model.d_norm, **model.options}
    if model.condition != "none":
        options |= {"classes": model.classes, "condition": model.condition}
    _check_size(model.family, resolution=height, channels=pack * channels, **options)
    generator, discriminator = models.build(model.family, resolution=height, channels=channels, **options)
    if pack > 1:  # packs are stacked in channels
        _, discriminator = models.build(model.family, resolution=height, channels=pack * channels, **options)
    return generator, discriminator


def _check_size(family: str, **options: Any) -> None:
    """Raise DataError, before memory is taken, for networks that do not fit into it."""
    with torch.device("meta"):
        try:
            networks = models.build(family, **options)
        except RuntimeError as error:  # sizes that overflow
            raise UsageError(f"model: {family} cannot be built in this size: {first_line(error)}") from error
    tensors = [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]
    require_memory(sum(t.numel() * t.element_size() for t in tensors), f"building these networks ({family})")


def load_generator(run: Path, folder: Path | None = None) -> Trained:
    """The averaged generator of a checkpoint `folder` in a run directory; left out, of the newest whole one.

    Raises UsageError when there is no run, or its networks are not built by name (then they are in the user's code:
    load `checkpoints/STEP/ema.safetensors` into them), CheckpointError when it is damaged, or none is whole.
    """
    facts = rundir.read_config(run)
    shape = facts.get("image_shape")
    if shape is None:
        raise UsageError(
            f"run: the networks of {run} are your own, fastgan cannot build them;"
            " load checkpoints/STEP/ema.safetensors into your generator"
        )
    if folder is None:
        folder, state = checkpoint.newest(run / "checkpoints")
    else:
        state = checkpoint.read_state(folder)
    config = Config.from_dict(facts["config"])
    generator, _ = build_networks(config, tuple(shape))
    checkpoint.load_network(generator, folder, "ema")
    generator = generator.eval().requires_grad_(False)
    classes = int(getattr(generator, "classes", 0))
    latent_shape = tuple(facts.get("latent_shape", ()))
    if latent_shape != (own := (int(getattr(generator, "latent", config.model.latent)),)):
        raise DataError(
            f"run: config.json of {run} states latents of shape {list(latent_shape)}, its generator {list(own)}"
        )
    return Trained(generator, latent_shape, state["step"], facts, folder, classes)


def load_discriminator(trained: Trained) -> nn.Module:
    """The discriminator that the generator was trained against, of the same checkpoint, in eval mode on the CPU.

    Raises UsageError for one that takes more than images, or several at a time.
    """
    config = Config.from_dict(trained.facts["config"])
    compared = config.model.options.get("minibatch_discrimination", 0)
    for name, value, plain in (
        ("condition", config.model.condition, "none"),
        ("pack", config.regularization.pack, 1),
        ("minibatch_discrimination", compared, 0),
    ):
        if value != plain:
            raise UsageError(f"run: its discriminator takes more than one image at a time ({name} is {value})")
    _, discriminator = build_networks(config, tuple(trained.facts["image_shape"]))
    checkpoint.load_network(discriminator, trained.folder, "discriminator")
    return discriminator.eval().requires_grad_(False)
