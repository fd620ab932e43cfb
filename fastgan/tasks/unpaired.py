"""Unpaired translation: images of one domain made of images of another, and back (CycleGAN, arXiv:1703.10593)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastgan._util.random import Random
from fastgan.losses import AdversarialLoss, l1
from fastgan.losses.config import LossConfig
from fastgan.regularization import Regularization
from fastgan.tasks import measures, sample_grids
from fastgan.tasks.base import Batch, Loss, Noise
from fastgan.tasks.image_pool import ImagePools
from fastgan.tasks.networks import coupling_layer, source_channels
from fastgan.tasks.terms import (
    adversarial_d,
    adversarial_g,
    check_options,
    check_parts,
    like,
    refuse_unknown,
)
from fastgan.tasks.two_domains import TwoDomains

#: Generator → the domain that it takes, and that it makes.
WAYS = {"a_to_b": ("a", "b"), "b_to_a": ("b", "a")}


class Unpaired(TwoDomains):
    """Batches are {"a": [N, C, H, W], "b": [N, C', H, W]}, float in [-1, 1]: images of two domains, in no order.

    generator: an nn.ModuleDict of "a_to_b" and "b_to_a", each called with images of the domain that it takes.
    discriminator: an nn.ModuleDict of "a" and "b", each called with images of that domain. Options:

    cycle_weight: of E |G_ba(G_ab(a)) − a| and the same from b (equation 2). identity_weight: times cycle_weight, of
    E |G_ab(b) − b| and the same of a (section 5.2); only where both domains have as many channels. pool: earlier fakes
    of each domain that its discriminator may see (see `fastgan.tasks.image_pool`). crop: side of the
    squares at random places that images are cropped to; 0 takes whole images. flip: mirror images at random.

    Real images and those of the identity loss go through a generator as one batch, and real and fake ones through a
    discriminator, where its layers treat each image by itself. The discriminators of an iteration see fakes of the
    generator step before it, which need not be made again: the order of steps of the public code.
    """

    def __init__(
        self, generator: nn.Module, discriminator: nn.Module, loss: AdversarialLoss, config: LossConfig,
        regularization: Regularization, latent_shape: tuple[int, ...] = (), seed: int = 0, *,
        cycle_weight: float = 10.0, identity_weight: float = 0.5, pool: int = 50, crop: int = 0, flip: bool = True,
    ):  # fmt: skip
        super().__init__(generator, discriminator)
        refuse_unknown("unpaired", loss, config, regularization)
        check_parts("unpaired", "generator", generator, {*WAYS})
        check_parts("unpaired", "discriminator", discriminator, {"a", "b"})
        check_options(cycle_weight=cycle_weight, identity_weight=identity_weight, pool=pool, crop=crop)
        self.loss, self.cycle_weight, self.crop, self.flip = loss, cycle_weight, crop, flip
        self.unbounded = loss.unbounded
        ways: Any = generator
        self.channels = {taken: source_channels(ways[way]) or 3 for way, (taken, _) in WAYS.items()}
        same = self.channels["a"] == self.channels["b"]
        self.identity_weight = identity_weight * cycle_weight if same else 0.0
        self.pools = ImagePools("ab", pool, regularization.mean)
        networks = {**dict(generator.named_children()), **dict(discriminator.named_children())}
        self.apart = {name: bool(coupling_layer(network)) for name, network in networks.items()}

    def discriminator_loss(self, batch: Batch, noise: Noise) -> Loss:
        """Each discriminator by itself: its images against fakes of the pool."""
        discriminators: Any = self.discriminator
        values, logs = [], []
        for domain in ("a", "b"):
            real, fake = batch[domain], like(batch[domain], noise[f"fake.{domain}"])
            of_real, of_fake = self.through(domain, discriminators[domain], real, fake)
            values.append(adversarial_d(self.loss, of_real, of_fake))
            logs.append(measures.statistics(real, fake, of_real, of_fake) | {"loss/discriminator": values[-1]})
        log = {name: (logs[0][name] + logs[1][name]) / 2 for name in logs[0]}
        log |= {f"auroc/{domain}": of["auroc/real_fake"] for domain, of in zip("ab", logs, strict=True)}
        return Loss(values[0] + values[1], log)

    def generator_loss(self, batch: Batch, noise: Noise) -> Loss:
        """Equation 3, both ways, with the identity loss."""
        ways: Any = self.generator
        discriminators: Any = self.discriminator
        made, same, log = {}, {}, {}
        for way, (taken, to) in WAYS.items():
            if self.identity_weight:
                made[to], same[to] = self.through(way, ways[way], batch[taken], batch[to])
            else:
                made[to] = ways[way](batch[taken])
        value = torch.zeros((), device=batch["a"].device)
        for way, (taken, to) in WAYS.items():
            back = ways[way](made[taken])  # images of `to` again, which had become images of `taken`
            terms = {"generator": (1.0, adversarial_g(self.loss, discriminators[to], made[to], batch[to]))}
            terms["cycle"] = self.cycle_weight, l1(back.float(), batch[to].float())
            if same:
                terms["identity"] = self.identity_weight, l1(same[to].float(), batch[to].float())
            for name, (weight, term) in terms.items():
                log[f"loss/{name}_{to}"] = term
                value = value + weight * term
        log["loss/generator"] = log.pop("loss/generator_a") + log.pop("loss/generator_b")
        return Loss(value, log, self.pools.outputs(made, batch, noise))

    def through(self, name: str, network: nn.Module, first: Tensor, second: Tensor) -> Sequence[Tensor]:
        """A network's outputs for two batches of N, as one batch where its layers treat each image by itself."""
        return [network(first), network(second)] if self.apart[name] else network(torch.cat([first, second])).chunk(2)

    def draw(self, network: str, batch: Batch, random: Random, step: int) -> Noise:
        if network == "generator":
            return self.pools.draw(len(batch["a"]), random, step)
        ways: Any = self.generator
        source = {to: (ways[way], batch[taken]) for way, (taken, to) in WAYS.items()}
        return self.pools.fakes(batch, lambda domain: source[domain][0](source[domain][1]))

    def samples(self, batch: Batch, held_out: Batch | None, step: int) -> dict[str, Any]:
        return dict(sample_grids.of_cycles(self.generator, batch, held_out))

    def measures(self, batch: Batch, held_out: Batch | None, step: int) -> dict[str, Tensor]:
        return {} if held_out is None else measures.cycles(self.generator, held_out, len(batch["a"]))
