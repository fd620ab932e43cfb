"""Autoencoders against a discriminator of patches, as VQGAN (Esser et al. 2021, arXiv:2012.09841)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastgan._util.random import Random
from fastgan.errors import UsageError
from fastgan.losses import adaptive_sum
from fastgan.models.autoencoder.base import Reconstruction
from fastgan.tasks import image_losses, measures, sample_grids
from fastgan.tasks.base import Batch, Loss, Noise, trainable
from fastgan.tasks.generation import Generation
from fastgan.tasks.networks import perceptual_for
from fastgan.tasks.terms import randomly_cropped


class Autoencoder(Generation):
    """Batches are {"real": images [N, C, H, W] in [-1, 1]}; the generator reconstructs them.

    generator: has a method reconstruct(images, noise), as those of `fastgan.models.autoencoder`. l1, l2: weights of
    E |x − x̂| and E (x − x̂)². perceptual: features of the perceptual loss, see `fastgan.losses.perceptual_loss`; none
    leaves it out. perceptual_weight: its weight. latent_weight: that of the generator's own loss on its latents:
    codebook loss (1 in VQGAN), or KL divergence (1e-6 in latent diffusion). adversarial_weight: that of the adversarial
    loss; 0 leaves the discriminator out. adaptive: multiply it by λ, which makes both gradients of the last layer
    equally long (equation 7); of several ranks or accumulated batches each has its own, as in public code. start:
    generator steps without the discriminator, in which neither network of its step is run. crop: side of random crops,
    in pixels, 0 for whole images; flip: half of them from left to right.
    """

    updates_on_device = True

    def __init__(
        self, *args: Any, l1: float = 1.0, l2: float = 0.0, perceptual: str = "efficientnet",
        perceptual_weight: float = 1.0, latent_weight: float = 1.0, adversarial_weight: float = 0.8,
        adaptive: bool = True, start: int = 0, crop: int = 0, flip: bool = False, **kwargs: Any,
    ):  # fmt: skip
        super().__init__(*args, **kwargs)
        self.weights = {
            "l1": l1, "l2": l2, "perceptual_weight": perceptual_weight, "latent_weight": latent_weight,
            "adversarial_weight": adversarial_weight, "start": start, "crop": crop,
        }  # fmt: skip
        for name, value in self.weights.items():
            if value < 0:
                raise UsageError(f"{name}: expected a number >= 0, got {value}")
        if l1 == l2 == 0 and (perceptual == "none" or perceptual_weight == 0):
            raise UsageError("l1, l2, perceptual_weight: expected one above 0, by which images are compared, got none")
        if not hasattr(self.generator, "reconstruct"):
            came = type(self.generator).__name__
            raise UsageError(f"generator: expected an autoencoder with a method reconstruct(images, noise), got {came}")
        if self.regularization.config.unroll:
            raise UsageError("unroll: a discriminator of reconstructions is not unrolled; leave it out")
        self.crop, self.flip = crop, flip
        # The last convolution runs in each step: its gradients balance the losses.
        self.shares = bool(getattr(self.generator, "splits", False))
        self.adaptive, self.start, self.against = adaptive, start, adversarial_weight > 0
        self.perceptual = perceptual_for(perceptual if perceptual_weight else "none", self.generator, self.range)

    def discriminator_loss(self, batch: Batch, noise: Noise) -> Loss:
        if noise["adversarial"]:
            return super().discriminator_loss(batch, noise)
        # Weights have gradients of 0, and stay as they are.
        nothing = torch.stack([weight.sum() for weight in trainable(self.discriminator)]).sum() * 0.0
        return Loss(nothing, {"augment/sign": torch.zeros_like(nothing)} if "p" in noise else {})

    def generator_loss(self, batch: Batch, noise: Noise) -> Loss:
        images = batch[self.real]
        found = self.reconstruction(images, noise)
        image = found.image if found.image.dtype == torch.float64 else found.image.float()
        log = {"loss/latent": found.loss, **found.log}
        reconstruction = torch.zeros_like(found.loss)
        for name, weight, term in self.distances(image, images.to(image.dtype)):
            log[f"loss/{name}"], reconstruction = term, reconstruction + weight * term
        log["loss/reconstruction"] = value = reconstruction
        if noise["adversarial"]:
            adversarial, terms = self.adversarial(image, found.latents, batch, noise)
            log, weight = log | terms, self.weights["adversarial_weight"]
            if self.adaptive:
                last, scale = self.generator.last_layer, noise.get("loss_scale", 1.0)
                value, log["weight/adaptive"] = adaptive_sum(image, value, adversarial, last, weight, scale)  # type: ignore[arg-type]
            else:
                value = value + weight * adversarial
        return Loss(value + self.on_latents(found.loss, log), log, found.outputs)

    def distances(self, image: Tensor, target: Tensor) -> list[tuple[str, float, Tensor]]:
        """Name, weight and value of each distance of reconstructions and images."""
        error = image - target
        terms = [("l1", self.weights["l1"], error.abs().mean()), ("l2", self.weights["l2"], error.square().mean())]
        if self.perceptual is not None:
            terms.append(("perceptual", self.weights["perceptual_weight"], self.perceptual(image, target)))
        return [term for term in terms if term[1]]

    def on_latents(self, loss: Tensor, log: dict[str, Tensor]) -> Tensor:
        """The term of the generator's own loss on its latents."""
        return self.weights["latent_weight"] * loss

    def adversarial(self, image: Tensor, latents: Tensor, batch: Batch, noise: Noise) -> image_losses.Terms:
        """The adversarial loss of reconstructions, and what to log of it."""
        condition, (matching, _) = self.beside(latents), self.config.matching(noise.get("lazy", True))
        fake = self.regularization.apply(image, "fake", noise), condition
        compared = self.loss.paired or matching
        real = (self.regularization.apply(batch[self.real], "real", noise), condition) if compared else None
        return image_losses.generator_terms(self, fake, real, None, matching)

    def beside(self, latents: Tensor) -> Tensor | None:
        """What the discriminator sees beside an image with these latents."""
        return None

    def inputs(self, network: str, batch: Batch, noise: Noise) -> tuple[Tensor, Tensor | None]:
        return batch[self.real], None

    def generate(self, z: Tensor, condition: Tensor | None) -> Tensor:
        return self.generator(z)

    def made(self, z: Tensor, condition: Tensor | None, noise: Noise) -> Tensor:
        return self.reconstruction(z, noise).image

    def shared(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        found = self.reconstruction(batch[self.real], noise)
        made = {f"made.{name}": getattr(found, name) for name in ("hidden", "latents", "loss")}
        for name in ("log", "outputs"):
            made |= {f"made.{name}.{key}": value for key, value in getattr(found, name).items()}
        return made

    def reconstruction(self, images: Tensor, noise: Noise) -> Reconstruction:
        """The step's own, or what both steps share, from the last convolution on."""
        generator: Any = self.generator
        if "made.hidden" not in noise:
            found: Reconstruction = generator.reconstruct(images, noise.get("latent"))
            return found
        log, outputs = (
            {key.removeprefix(start): value for key, value in noise.items() if key.startswith(start)}
            for start in ("made.log.", "made.outputs.")
        )
        image = generator.finish(noise["made.hidden"])
        return Reconstruction(image, noise["made.latents"], noise["made.loss"], log, outputs)

    @property
    def sees_real(self) -> bool:
        return self.loss.paired or self.config.feature_matching > 0

    def transform(self, batch: Batch, random: Random | None) -> Batch:
        """Crops and flips; held-out images are cropped in the middle."""
        return batch | {self.real: randomly_cropped(batch[self.real], self.crop, random, self.flip)}

    def draw_inputs(self, network: str, batch: Batch, random: Random) -> Noise:
        images = batch[self.real]
        shape = self.generator.noise_shape(images.shape)  # type: ignore[operator]
        return {"latent": random.normal(len(images), *shape)} if shape else {}

    def draw(self, network: str, batch: Batch, random: Random, step: int) -> Noise:
        return super().draw(network, batch, random, step) | {"adversarial": self.against and step >= self.start}

    def update_after_generator(self, losses: Sequence[Loss]) -> None:
        """What an autoencoder changes beside its gradients, such as a codebook of moving averages."""
        names = losses[0].outputs.keys()
        outputs = {name: torch.stack([loss.outputs[name] for loss in losses]).mean(0) for name in names}
        if outputs:
            self.regularization.mean(list(outputs.values()))
            self.generator.after_update(outputs)  # type: ignore[operator]

    def samples(self, batch: Batch, held_out: Batch | None, step: int) -> dict[str, Any]:
        return dict(sample_grids.of_reconstructions(self.generator, batch, held_out, self.range))

    def measures(self, batch: Batch, held_out: Batch | None, step: int) -> dict[str, Tensor]:
        found = measures.gradient_norms(self, batch)
        if held_out is not None:
            found["auroc/train_held_out"] = measures.train_against_held_out(self, batch, held_out)
            found |= measures.of_reconstructions(self, held_out, len(batch[self.real]))
        return found
