"""One-sided unpaired translation: patches stay recognizable (CUT and FastCUT, Park et al. 2020, arXiv:2007.15651)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fastgan._util.random import Random
from fastgan.errors import UsageError
from fastgan.losses import AdversarialLoss
from fastgan.losses.config import LossConfig
from fastgan.regularization import Regularization
from fastgan.tasks import measures, sample_grids
from fastgan.tasks.base import Batch, Loss, Noise
from fastgan.tasks.image_pool import ImagePools
from fastgan.tasks.networks import coupling_layer
from fastgan.tasks.terms import (
    adversarial_d,
    adversarial_g,
    check_options,
    check_parts,
    like,
    refuse_unknown,
)
from fastgan.tasks.two_domains import TwoDomains


class Contrastive(TwoDomains):
    """Batches are {"a": [N, C, H, W], "b": [N, C', H, W]}, float in [-1, 1]; images of b are made of those of a.

    generator: an nn.ModuleDict of "a_to_b", a network with `features` as `ResNetGenerator` has them, and "heads", which
    are called as heads(features, locations): see `fastgan.models.translation.cut`. discriminator: called with images of
    b. Options:

    nce_weight: of the contrastive loss of patches (equation 3): a patch of G(a) is to be nearer to the patch of a at
    the same place than to others of a. patches: of each layer of an image. temperature: of their similarities.
    identity: the same loss of G(b) and b, half of each (section 3). equivariance: the generator gets images of a
    mirrored with probability 0.5 (FastCUT). crop, flip: as in `Unpaired`.

    The features of real images come from the pass that makes the fakes. The discriminator sees fakes of the generator
    step before, which need not be made again.
    """

    def __init__(
        self, generator: nn.Module, discriminator: nn.Module, loss: AdversarialLoss, config: LossConfig,
        regularization: Regularization, latent_shape: tuple[int, ...] = (), seed: int = 0, *,
        nce_weight: float = 1.0, patches: int = 256, temperature: float = 0.07, identity: bool = True,
        equivariance: bool = False, crop: int = 0, flip: bool = True,
    ):  # fmt: skip
        super().__init__(generator, discriminator)
        refuse_unknown("contrastive", loss, config, regularization)
        check_parts("contrastive", "generator", generator, {"a_to_b", "heads"})
        check_options(nce_weight=nce_weight, crop=crop)
        if patches < 2:
            raise UsageError(f"patches: expected a number >= 2, got {patches}")
        if not temperature > 0:
            raise UsageError(f"temperature: expected a number > 0, got {temperature}")
        self.loss, self.nce_weight, self.patches, self.temperature = loss, nce_weight, patches, temperature
        self.equivariance, self.crop, self.flip, self.unbounded = equivariance, crop, flip, loss.unbounded
        parts: Any = generator
        self.channels = {"a": parts["a_to_b"].channels, "b": parts["a_to_b"].out_channels}
        self.identity = identity and self.channels["a"] == self.channels["b"]
        self.pools = ImagePools("b", 0, regularization.mean)
        self.apart = bool(coupling_layer(discriminator))

    def discriminator_loss(self, batch: Batch, noise: Noise) -> Loss:
        real, fake = batch["b"], like(batch["b"], noise["fake.b"])
        if self.apart:
            of_real, of_fake = self.discriminator(real), self.discriminator(fake)
        else:
            of_real, of_fake = self.discriminator(torch.cat([real, fake])).chunk(2)
        value = adversarial_d(self.loss, of_real, of_fake)
        return Loss(value, measures.statistics(real, fake, of_real, of_fake) | {"loss/discriminator": value})

    def generator_loss(self, batch: Batch, noise: Noise) -> Loss:
        """Equation 5: adversarial loss, and the contrastive loss of G(a) with a, and of G(b) with b."""
        parts: Any = self.generator
        network, a, b = parts["a_to_b"], batch["a"], batch["b"]
        turned = noise["mirrored"][:, None, None, None] if self.equivariance else None
        shown = a if turned is None else torch.where(turned, a.flip(3), a)
        made, keys = network.features(torch.cat([shown, b]) if self.identity else shown, image=True)
        _, queries = network.features(made)
        if turned is not None:
            keys = self.straight_keys(network, a, keys)
            queries = [torch.cat([torch.where(turned, q[: len(a)].flip(3), q[: len(a)]), q[len(a) :]]) for q in queries]
        fake = made[: len(a)]
        log = {"loss/generator": adversarial_g(self.loss, self.discriminator, fake, b)}
        domains = ("a", "b") if self.identity else ("a",)
        places = [torch.cat([noise[f"patches.{d}.{i}"] for d in domains]) for i in range(len(keys))]
        with torch.no_grad():
            near = parts["heads"]([key.detach() for key in keys], places)
        terms = [self.nce(query, key) for query, key in zip(parts["heads"](queries, places), near, strict=True)]
        per_image = torch.stack(terms).mean(0)
        for domain, term in zip(domains, per_image.split(len(a)), strict=True):
            log[f"loss/nce_{domain}"] = term.mean()
        value = log["loss/generator"] + self.nce_weight * per_image.mean()
        return Loss(value, log, self.pools.outputs({"b": fake}, batch, noise))

    def straight_keys(self, network: Any, a: Tensor, keys: list[Tensor]) -> list[Tensor]:
        """Features of images of a as they are, where the generator got mirrored ones."""
        with torch.no_grad():
            _, straight = network.features(a)
        return [torch.cat([own, key[len(a) :]]) for own, key in zip(straight, keys, strict=True)]

    def nce(self, query: Tensor, key: Tensor) -> Tensor:
        """Cross-entropy of each patch's similarity with its own key among those of its image: [N, P, D] → [N]."""
        similar = query @ key.transpose(1, 2) / self.temperature
        own = torch.arange(similar.shape[1], device=similar.device).expand(similar.shape[:2])
        return cross_entropy(similar.flatten(0, 1), own.flatten(), reduction="none").view(own.shape).mean(1)

    def draw(self, network: str, batch: Batch, random: Random, step: int) -> Noise:
        parts: Any = self.generator
        n = len(batch["a"])
        if network == "discriminator":
            return self.pools.fakes({"b": batch["b"]}, lambda _: parts["a_to_b"](batch["a"]))
        noise: Noise = dict(self.pools.draw(n, random, step))
        if self.equivariance:
            noise["mirrored"] = random.uniform(n) < 0.5
        for domain in ("a", "b") if self.identity else ("a",):
            for i, (height, width) in enumerate(parts["a_to_b"].feature_sizes(*batch["a"].shape[2:])):
                order = random.uniform(n, height * width).argsort(1)
                noise[f"patches.{domain}.{i}"] = order[:, : self.patches].contiguous()
        return noise

    def samples(self, batch: Batch, held_out: Batch | None, step: int) -> dict[str, Any]:
        parts: Any = self.generator
        return dict(sample_grids.of_translations(parts["a_to_b"], batch, held_out, self.identity))
