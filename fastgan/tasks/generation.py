"""Generation: images from latents, and from labels where the networks are conditional."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastgan._util.random import Random
from fastgan.errors import UsageError
from fastgan.losses import AdversarialLoss, FeatureDistance, PerceptualLoss
from fastgan.losses.config import LossConfig
from fastgan.nn.moving_averages import averages_kept
from fastgan.regularization import Regularization
from fastgan.regularization.history import with_past
from fastgan.regularization.packing import packed
from fastgan.regularization.path_length import SHRINK, path_lengths
from fastgan.regularization.style_mixing import mixed_styles
from fastgan.tasks import image_losses, measures, sample_grids
from fastgan.tasks.base import Batch, Loss, Noise, Task
from fastgan.tasks.batches import images_and_labels
from fastgan.tasks.networks import Output, declared_range, discriminate, dtype_of


class Generation(Task):
    """Batches are {"real": images [N, C, H, W] in [-1, 1]}, with "labels" int64 [N] for conditional networks.

    A generator whose attribute `classes` is greater than 0 is called as generator(z, labels) and its discriminator as
    discriminator(images, labels); one with the attribute `auxiliary` as discriminator(images), which returns (logits,
    class logits). latent_shape: of one z. joint: real and fake images go through the discriminator as one batch.
    """

    passes = ("real images", "generated images")
    #: Counts modes, finds nearest training images, enlarges images of networks that grow; set by the trainer.
    classifier: nn.Module | None = None
    #: A perceptual distance of images and their targets, in tasks that have targets.
    perceptual: PerceptualLoss | FeatureDistance | None = None
    neighbors: Any = None
    enlarge: Callable[[Tensor], Tensor] = staticmethod(lambda images: images)
    #: Weight of the distance of all discriminator features, of tasks that have targets.
    layer_matching = 0.0

    def __init__(
        self, generator: nn.Module, discriminator: nn.Module, loss: AdversarialLoss, config: LossConfig,
        regularization: Regularization, latent_shape: tuple[int, ...] = (), seed: int = 0,
    ):  # fmt: skip
        super().__init__(generator, discriminator)
        self.loss, self.config, self.regularization = loss, config, regularization
        self.latent_shape, self.seed = latent_shape, seed
        self.classes = int(getattr(generator, "classes", 0))
        #: Of the images of data and generator; the trainer knows more from the first batch.
        self.range = declared_range(generator) or (-1.0, 1.0)
        self.unbounded = loss.unbounded
        added = config.penalties(loss, True).keys() - config.penalties(loss, False).keys()
        rare = config.penalty_interval if added else 1
        paths = regularization.config.path_length_interval if regularization.config.path_length else 0
        self.intervals = {"discriminator": rare, "generator": paths or config.matching_interval}

    def discriminator_loss(self, batch: Batch, noise: Noise) -> Loss:
        images, (z, condition) = batch[self.real], self.inputs("discriminator", batch, noise)
        with torch.no_grad(), averages_kept(self.generator):
            made = self.made(z, condition, noise)
        if made.shape != images.shape:
            raise UsageError(f"generator: expected images like the real ones {[*images.shape]}, got {[*made.shape]}")
        past, fake_condition = with_past(made, condition, noise)
        real = self.regularization.apply(images, "real", noise), condition
        fake = self.regularization.apply(past, "fake", noise), fake_condition
        of_real, of_fake = image_losses.outputs(self, real, fake)
        value, log = image_losses.discriminator_terms(self, of_real, condition, of_fake, fake_condition)
        log |= measures.statistics(images, made, of_real.logits, of_fake.logits)
        if "p" in noise:
            log["augment/sign"] = (of_real.logits.float() - (self.loss.undecided or 0.0)).sign().mean()
        for name, weight, term in image_losses.added_terms(self, real, of_real, fake, of_fake, noise):
            log[name] = term
            value = value + weight * term
        return Loss(value, log, {"fakes": made} if self.regularization.config.history else {})

    def generator_loss(self, batch: Batch, noise: Noise) -> Loss:
        z, condition = self.inputs("generator", batch, noise)
        # First: what follows moves the averages of layers, which ranks exchange after the step.
        lengths = self.path_lengths(noise)
        made = self.made(z, condition, noise)
        fake = self.regularization.apply(made, "fake", noise), condition
        real = None
        if self.sees_real:
            _, real_condition = self.inputs("discriminator", batch, noise)
            real = self.regularization.apply(batch[self.real], "real", noise), real_condition
        matching, l1_weight = self.config.matching(noise.get("lazy", True))
        weights = image_losses.unrolled_weights(self, real or fake, fake, noise)
        compared = real if self.loss.paired or matching or self.layer_matching else None
        value, log = image_losses.generator_terms(self, fake, compared, weights, matching)
        loss = Loss(value, log) if lengths is None else self.with_path_length(Loss(value, log), lengths, noise)
        return self.with_reconstruction(loss, made, batch, l1_weight)

    def inputs(self, network: str, batch: Batch, noise: Noise) -> tuple[Tensor, Tensor | None]:
        """What the generator is called with in the step of a network: z, and labels or None."""
        return noise["z"], (batch if network == "discriminator" else noise).get("labels")

    def generate(self, z: Tensor, condition: Tensor | None) -> Tensor:
        """Images for z [N, *latent_shape] and labels int64 [N] or None."""
        return self.generator(z) if condition is None else self.generator(z, condition)

    def made(self, z: Tensor, condition: Tensor | None, noise: Noise) -> Tensor:
        """Generated images of a step, of mixed styles where the step mixes them; those that both steps share."""
        if "made" in noise:
            return noise["made"]
        if "mix.z" not in noise:
            return self.generate(z, condition)
        generator: Any = self.generator
        probability = self.regularization.config.style_mixing
        w = mixed_styles(generator.mapping, z, condition, noise["mix.z"], noise["mix.u"], probability)
        images: Tensor = generator.synthesis(w)
        return images

    def path_lengths(self, noise: Noise) -> Tensor | None:
        """|J^T y| of latents of their own, in the steps that have path length regularization."""
        if not self.regularization.config.path_length or not noise["lazy"]:
            return None
        generator: Any = self.generator
        with averages_kept(generator):
            w = generator.mapping(noise["path.z"], noise.get("path.labels"))
            return path_lengths(generator.synthesis, w, noise["path.y"], noise.get("loss_scale", 1.0))

    def with_path_length(self, loss: Loss, lengths: Tensor, noise: Noise) -> Loss:
        """The generator's loss with path length regularization: (|J^T y| − a)²."""
        config = self.regularization.config
        term = (lengths - noise["path.mean"]).square().mean() * (config.path_length * config.path_length_interval)
        log = loss.log | {"penalty/path_length": term, "path_length/mean": noise["path.mean"].clone()}
        return Loss(loss.value + term, log, loss.outputs | {"path_length": lengths.mean()})

    def discriminate(
        self, images: Tensor, condition: Tensor | None, weights: Mapping[str, Tensor] | None = None
    ) -> Output:
        """What the discriminator returns for images [N, C, H, W], in packs where it takes packs."""
        return discriminate(self.discriminator, self.packed(images), condition, weights)

    def packed(self, images: Tensor) -> Tensor:
        """Images as the discriminator takes them: `pack` of them stacked in channels."""
        return packed(images, self.regularization.config.pack)

    def with_reconstruction(self, loss: Loss, made: Tensor, batch: Batch, weight: float) -> Loss:
        """The generator's loss with a distance to targets, where there are targets."""
        return loss

    @property
    def sees_real(self) -> bool:
        """Whether the generator's loss depends on real images."""
        return self.loss.paired or self.config.feature_matching > 0 or self.regularization.config.unroll > 0

    def collate(self, batch: Any, name: str = "batches") -> Batch:
        return images_and_labels(batch, self.classes, name, dtype_of(self.discriminator))

    def draw(self, network: str, batch: Batch, random: Random, step: int) -> Noise:
        real = batch[self.real]
        noise: Noise = {"lazy": step % self.intervals[network] == 0} | self.draw_inputs(network, batch, random)
        noise |= self.draw_styles(network, real, random)
        if network == "generator":
            return noise | self.regularization.draw_for_generator(real, random, step, self.sees_real)
        if {"gradient_penalty", "zero_centered_gp"} & self.config.penalties(self.loss, True).keys():
            packs = len(real) // self.regularization.config.pack
            noise["epsilon"] = random.uniform(packs, *[1] * (real.dim() - 1))
        return noise | self.regularization.draw_for_discriminator(real, random, step)

    def draw_inputs(self, network: str, batch: Batch, random: Random) -> Noise:
        """Latents, and for the generator's step labels."""
        count = len(batch[self.real])
        noise: Noise = {"z": random.normal(count, *self.latent_shape)}
        return noise | (
            {"labels": random.labels(count, self.classes)} if network == "generator" and self.classes else {}
        )

    def draw_styles(self, network: str, real: Tensor, random: Random) -> Noise:
        """What style mixing takes, and in the generator's step path length regularization, for part of a batch."""
        config, noise = self.regularization.config, Noise()
        if config.style_mixing:
            noise |= {"mix.z": random.normal(len(real), *self.latent_shape), "mix.u": random.uniform(len(real), 2)}
        if network == "generator" and self.regularization.path_length is not None:
            count = max(len(real) // SHRINK, 1)
            noise |= {
                "path.z": random.normal(count, *self.latent_shape),
                "path.y": random.normal(count, *real.shape[1:]),
                "path.mean": self.regularization.path_length.mean,
            }
            if self.classes:
                noise["path.labels"] = random.labels(count, self.classes)
        return noise

    def update(self, loss: Loss, batch: Batch, images: int, random: Random) -> None:
        _, condition = self.inputs("discriminator", batch, {"z": None})
        self.regularization.update(loss.log, loss.outputs.get("fakes"), condition, images, random)

    def update_after_generator(self, losses: Sequence[Loss]) -> None:
        if self.regularization.path_length is not None:
            found = [loss.outputs["path_length"] for loss in losses if "path_length" in loss.outputs]
            self.regularization.path_length.update(found)

    @property
    def draws_depend_on_steps(self) -> str:
        return self.regularization.draws_depend_on_steps

    def samples(self, batch: Batch, held_out: Batch | None, step: int) -> dict[str, Any]:
        return sample_grids.of_generation(self, batch, step)

    def measures(self, batch: Batch, held_out: Batch | None, step: int) -> dict[str, Tensor]:
        return measures.of_generation(self, batch, held_out, step)

    def tensors(self) -> dict[str, Tensor]:
        return self.regularization.tensors()

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.regularization.load_tensors(tensors)
