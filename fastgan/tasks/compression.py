"""Compression against a discriminator that sees the latents: HiFiC (Mentzer et al. 2020, arXiv:2006.09965)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastgan._util.random import Random
from fastgan.errors import UsageError
from fastgan.tasks.autoencoder import Autoencoder
from fastgan.tasks.base import Batch, Loss, Noise


class Compression(Autoencoder):
    """An `Autoencoder` whose loss on latents is a rate in bits per pixel, as that of `fastgan.models.autoencoder`.

    target_rate: bits per pixel; the rate of a batch above it has the weight rate_weight, one below it
    rate_weight_below (section 3.3). discriminator: called as discriminator(images, latents), both of real images
    beside their latents and of reconstructions (equation 4). The other options are those of `Autoencoder`, of which
    the preset sets the paper's: squared errors, a perceptual loss, and a fixed adversarial weight.
    """

    def __init__(
        self, *args: Any, target_rate: float = 0.3, rate_weight: float = 1.0, rate_weight_below: float = 0.0625,
        **kwargs: Any,
    ):  # fmt: skip
        super().__init__(*args, **kwargs)
        for name, value in (
            ("target_rate", target_rate), ("rate_weight", rate_weight), ("rate_weight_below", rate_weight_below),
        ):  # fmt: skip
            if value < 0:
                raise UsageError(f"{name}: expected a number >= 0, got {value}")
        self.shares = False
        config = self.regularization.config
        changed = {
            "augment": config.augment != "none", "consistency": config.consistency > 0,
            "consistency_fake": config.consistency_fake > 0, "history": config.history > 0, "pack": config.pack > 1,
        }  # fmt: skip
        if found := [name for name, there in changed.items() if there]:
            raise UsageError(f"{found[0]}: the discriminator sees an image's own latents beside it; leave it out")
        self.target_rate, self.rates = target_rate, (rate_weight, rate_weight_below)

    def on_latents(self, loss: Tensor, log: dict[str, Tensor]) -> Tensor:
        above, below = (torch.full_like(loss, weight) for weight in self.rates)
        log["weight/rate"] = torch.where(loss.detach() > self.target_rate, above, below)
        return log["weight/rate"] * loss

    def beside(self, latents: Tensor) -> Tensor:
        return latents.detach()

    def inputs(self, network: str, batch: Batch, noise: Noise) -> tuple[Any, Tensor]:
        """The reconstruction, and the latents that the discriminator sees."""
        with torch.no_grad():
            found = self.generator.reconstruct(batch[self.real], noise.get("latent"))  # type: ignore[operator]
        return found, found.latents

    def generate(self, z: Any, condition: Tensor | None) -> Tensor:
        image: Tensor = z.image
        return image

    def made(self, z: Any, condition: Tensor | None, noise: Noise) -> Tensor:
        return self.generate(z, condition)

    def draw_inputs(self, network: str, batch: Batch, random: Random) -> Noise:
        images = batch[self.real]
        return {"latent": random.uniform(len(images), *self.generator.noise_shape(images.shape)) - 0.5}  # type: ignore[operator]

    def update(self, loss: Loss, batch: Batch, images: int, random: Random) -> None:
        """Nothing: no regularization that this task has keeps a state."""
