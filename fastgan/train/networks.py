"""Networks by name, and trained ones out of a run directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastgan import models
from fastgan._util.memory import require_memory
from fastgan._util.options import option
from fastgan.errors import DataError, UsageError, first_line
from fastgan.models.backbones import without_weights
from fastgan.tasks.networks import declared_range
from fastgan.train import checkpoint, rundir
from fastgan.train.config import Config


@dataclass(frozen=True)
class Trained:
    """The averaged generator of a run, in eval mode on the CPU, and where it comes from.

    latent_shape: () where it makes images of other things than latents. classes: how many it takes labels of beside its
    latents; 0 where it takes none.
    """

    generator: nn.Module
    latent_shape: tuple[int, ...]
    step: int
    facts: dict[str, Any]
    folder: Path
    classes: int

    @property
    def range(self) -> tuple[float, float]:
        """In which its images are: its attribute, else [-1, 1]."""
        return declared_range(self.generator) or (-1.0, 1.0)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes in order, or () where the run does not state them."""
        dataset = self.facts.get("dataset")
        names = dataset.get("class_names") if isinstance(dataset, dict) else None
        return tuple(map(str, names)) if isinstance(names, list) and len(names) == self.classes else ()

    def require_latents(self) -> None:
        """Raise UsageError for a generator that does not make images from latents."""
        if not self.latent_shape:
            raise UsageError(
                f"run: the generator of {self.folder.parent.parent} makes images from images, not from latents; run it"
                " with `fastgan translate` or `fastgan upscale`"
            )

    @property
    def config(self) -> Config:
        """The configuration of the run."""
        return Config.from_dict(self.facts["config"])


def build_networks(config: Config, image_shape: tuple[int, int, int]) -> tuple[nn.Module, nn.Module]:
    """The networks that a configuration names, for images [C, H, W]. UsageError for images that are not square."""
    channels, height, width = image_shape
    if height != width:
        raise UsageError(
            f"data: the networks here make square images, these are {width}×{height}; crop them with"
            f" {option('resolution')}"
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


def load_generator(run: Path, folder: Path | None = None, network: nn.Module | None = None, part: str = "") -> Trained:
    """The averaged generator of a checkpoint `folder` in a run directory; left out, of the newest whole one.

    part: the name of one of its modules, such as one of several generators, or the decoder of an autoencoder.

    network: of a run whose networks are not built by name, a generator like the one it trained, which gets its weights.
    Raises UsageError when there is no run, or its networks are the user's and `network` is left out, CheckpointError
    when it is damaged, or none is whole.
    """
    facts = rundir.read_config(run)
    shape = facts.get("image_shape")
    if shape is None and network is None:
        raise UsageError(
            f"run: the networks of {run} are your own, fastgan cannot build them; give the code that builds the"
            f" generator ({option('network', 'file.py:make')}, a module or a function without arguments that returns"
            " one), or load checkpoints/STEP/ema.safetensors into it"
        )
    if shape is not None and network is not None:
        raise UsageError(f"network: the networks of {run} are built by name; leave it out")
    if network is not None and "latent_shape" not in facts:
        raise UsageError(
            f"run: the generator of {run} is not called with latents alone (its task is"
            f" {facts.get('task', 'not stated')}); load checkpoints/STEP/ema.safetensors into it and call it yourself"
        )
    if folder is None:
        folder, state = checkpoint.newest(run / "checkpoints")
    else:
        state = checkpoint.read_state(folder)
    config = Config.from_dict(facts["config"])
    if network is None:
        with without_weights():
            generator = build_networks(config, tuple(shape or ()))[0]
    else:
        generator = network
    checkpoint.load_network(generator, folder, "ema")
    generator = _part_of(generator.eval().requires_grad_(False), part, run)
    classes = int(getattr(generator, "classes", 0))
    latent_shape = tuple(facts.get("latent_shape", ()))
    own = (int(getattr(generator, "latent", config.model.latent)),)
    if network is None and latent_shape and latent_shape != own:
        raise DataError(
            f"run: config.json of {run} states latents of shape {list(latent_shape)}, its generator {list(own)}"
        )
    return Trained(generator, latent_shape, state["step"], facts, folder, classes)


def _part_of(generator: nn.Module, part: str, run: Path) -> nn.Module:
    # An autoencoder's halves are more than its modules of these names.
    parts: dict[str, nn.Module] = generator.parts() if hasattr(generator, "parts") else dict(generator.named_children())  # type: ignore[operator]
    names = list(parts)
    if part:
        if part not in names:
            raise UsageError(f"run: expected one of {', '.join(names)} behind {run}:, got {part!r}")
        return parts[part].eval()
    if isinstance(generator, nn.ModuleDict):
        raise UsageError(f"run: {run} has several generators, {', '.join(names)}; choose one: {run}:{names[0]}")
    return generator


def load_discriminator(trained: Trained) -> nn.Module:
    """The discriminator that the generator was trained against, of the same checkpoint, in eval mode on the CPU.

    Raises UsageError for one that takes more than images, or several at a time.
    """
    if "image_shape" not in trained.facts:
        raise UsageError(f"run: the discriminator of {trained.folder} is your own, fastgan cannot build it")
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
