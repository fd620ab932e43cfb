"""What the studies on handwritten digits share: MNIST, a classifier of it, and metrics in its features."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import fastgan
from fastgan.data import ImageSet, open_source
from fastgan.data.stream import BatchStream
from fastgan.metrics.evaluate import evaluate
from fastgan.metrics.extractors import digits
from fastgan.metrics.features import Extractor
from fastgan.models import build
from fastgan.report.images import to_uint8

SIDE = 28
#: Flags of all runs: eager steps, no sample grids and no checkpoints.
QUIET: dict[str, Any] = {"compile": "off", "sample_every": 10**9, "checkpoint_every": 10**9}


@cache
def mnist(split: str = "") -> ImageSet:
    """60,000 images [1, 28, 28], or the 10,000 of "test". `fastgan data fetch mnist` gets them once."""
    return open_source(f"mnist:{split}" if split else "mnist")


@cache
def classifier() -> Extractor:
    """The classifier of `fastgan eval --extractor digits`; its penultimate layer gives the features of FID."""
    return digits.train(mnist())


def trained(
    *,
    loss: str,
    seed: int = 0,
    batch: int = 64,
    latent: int = 64,
    width: int = 64,
    resolution: int = SIDE,
    model: str = "dcgan",
    d_norm: str = "none",
    options: dict[str, Any] | None = None,
    **flags: Any,
) -> fastgan.Trainer:
    """Networks of that family trained on MNIST, whose images get a black frame where the resolution is larger.

    options: of the family, see `fastgan.models.build`. flags: more flags of `fastgan train`.
    """
    images, side = mnist(), resolution
    edge = (side - SIDE) // 2
    if edge:
        frame = np.pad(images.images, [(0, 0), (0, 0), (edge, edge), (edge, edge)])
        images = dataclasses.replace(images, images=frame, pack=None)
    torch.manual_seed(seed)
    networks = build(
        model, resolution=side, channels=1, latent=latent, width=width, d_norm=d_norm, **(options or {})
    )  # fmt: skip
    config = fastgan.Config.from_flags(loss=loss, seed=seed, batch=batch, latent=latent, **flags)
    trainer = fastgan.Trainer(*networks, loss, config)
    trainer.fit(BatchStream(images, batch, seed, trainer.device))
    return trainer


@torch.no_grad()
def samples(generator: nn.Module, count: int, batch: int = 500) -> Iterator[Tensor]:
    """count images on the CPU, in batches [batch, C, 28, 28] in [-1, 1]: the centers of the generator's images."""
    source, device = torch.Generator().manual_seed(1), next(generator.parameters()).device
    for _ in range(count // batch):
        z = torch.randn(batch, int(generator.latent), generator=source)  # type: ignore[arg-type]
        made = generator(z.to(device)).cpu()
        edge = (made.shape[-1] - SIDE) // 2
        yield made[..., edge : edge + SIDE, edge : edge + SIDE].clamp(-1, 1)


def pixels(generator: nn.Module, count: int) -> np.ndarray:
    """Samples as uint8 [count, C, 28, 28]."""
    return np.concatenate([to_uint8(part.numpy()) for part in samples(generator, count)])


def figures(made: np.ndarray) -> dict[str, float]:
    """FID, precision and recall of 5,000 samples against 5,000 images of the test set."""
    found = evaluate(made, mnist("test"), classifier(), metrics=["fid", "pr"], n=5000)
    return {word: float(found[word].value or 0.0) for word in ("fid", "precision", "recall")}
