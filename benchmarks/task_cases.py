"""The tasks that tasks.py times: networks, options of the Trainer, and the plain PyTorch of the same step."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import public_steps
import torch
from public_steps import Batch, PublicStep
from safetensors.torch import save_file
from torch import Tensor, nn

from fastgan import models

Networks = tuple[nn.Module, nn.Module]


@dataclass(frozen=True)
class Case:
    """A task in a size that the device can train.

    build: both networks for images of `side` pixels. sizes: (side, batch) by device. config: options of the Trainer.
    options: of the public step. inputs: the entries of a batch, and by how much smaller than `side` their images are.
    """

    name: str
    build: Callable[[int], Networks]
    public: type[PublicStep]
    sizes: dict[str, tuple[int, int]]
    config: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, int] = field(default_factory=lambda: {"source": 1, "target": 1})

    def batch(self, side: int, count: int, device: str, seed: int = 0) -> Batch:
        """Noise in place of images."""
        source = torch.Generator().manual_seed(seed)
        shapes = {name: (count, 3, side // factor, side // factor) for name, factor in self.inputs.items()}
        return {name: (torch.rand(shape, generator=source) * 2 - 1).to(device) for name, shape in shapes.items()}

    def config_for(self, side: int) -> dict[str, Any]:
        """The options of the Trainer for images of `side` pixels."""
        if self.config["task"] != "super-resolution":
            return self.config
        return self.config | {"task_options": self.config["task_options"] | {"crop": side}}


def _family(name: str, **options: Any) -> Callable[[int], Networks]:
    options = {"latent": 64, "width": 64} | options
    return lambda side: models.build(name, resolution=side, channels=3, **options)


@functools.cache
def vgg() -> tuple[dict[str, Tensor], str]:
    """Random weights of VGG-19, and a file of them in torchvision's layout."""
    source, weights, channels, place = torch.Generator().manual_seed(0), dict[str, Tensor](), 3, 0
    for size in public_steps.VGG.plan:
        if size != "M":
            deviation = (2 / (9 * channels)) ** 0.5
            weights[f"features.{place}.weight"] = torch.randn(size, channels, 3, 3, generator=source) * deviation
            weights[f"features.{place}.bias"] = torch.zeros(size)
            channels, place = size, place + 1
        place += 1
    path = Path(tempfile.mkdtemp()) / "vgg19.safetensors"
    atexit.register(shutil.rmtree, path.parent, ignore_errors=True)
    save_file(weights, path)
    return weights, str(path)


def cases() -> list[Case]:
    """In the order of the table."""
    weights, file = vgg()
    unpaired: dict[str, Any] = {"loss": "least-squares", "ema_images": 0, "task_options": {"flip": False}}
    both = {"a": 1, "b": 1}
    enlarging = {"flip": False, "perceptual": file, "adversarial_weight": 0.1}
    return [
        Case(
            "pix2pix", _family("pix2pix", norm="batch"), public_steps.Pix2Pix, {"cpu": (128, 1), "cuda": (256, 1)},
            {"task": "paired", "l1_weight": 100.0, "ema_images": 0}, {"l1_weight": 100.0, "d_scale": 1.0},
        ),
        Case(
            "cyclegan", _family("cyclegan", width=32, blocks=6), public_steps.CycleGAN,
            {"cpu": (64, 1), "cuda": (256, 1)}, {"task": "unpaired"} | unpaired, inputs=both,
        ),
        Case(
            "cut", _family("cut", width=32, blocks=6), public_steps.CUT, {"cpu": (64, 1), "cuda": (256, 1)},
            {"task": "contrastive"} | unpaired, inputs=both,
        ),
        Case(
            "real-esrgan", _family("esrgan", width=64, blocks=6), public_steps.RealESRGAN,
            {"cpu": (64, 2), "cuda": (256, 12)},
            {"task": "super-resolution", "l1_weight": 1.0, "ema_images": 1400, "task_options": enlarging},
            {"vgg": weights}, {"source": 4, "target": 1},
        ),
        Case(
            "vqgan", _family("vqgan", width=32, codes=256, codebook="gradient", d_width=32, restart=0.0),
            public_steps.Taming, {"cpu": (64, 2), "cuda": (256, 4)},
            {"task": "autoencoder", "loss": "hinge", "ema_images": 0, "task_options": {"perceptual": file}},
            {"vgg": weights, "d_scale": 1.0}, {"real": 1},
        ),
    ]  # fmt: skip
