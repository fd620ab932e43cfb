"""Both networks of a game, and how they are called: with labels or without, alone or as one batch, shown what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastgan.losses import AdversarialLoss
from fastgan.train.batches import source_channels
from fastgan.train.config import Config
from fastgan.train.regularization import Draws
from fastgan.train.regularization.augment import augment
from fastgan.train.regularization.features import kept_features
from fastgan.train.regularization.packing import packed

#: Logits, and those of the classes where the discriminator has an auxiliary classifier.
Judged = tuple[Tensor, Tensor | None]


@dataclass(eq=False)
class Pair:
    """A generator, its discriminator, the game between them and its configuration.

    A generator whose attribute `classes` is greater than 0 is called as generator(z, y), and its discriminator as
    discriminator(x, y); one with the attribute `auxiliary` set as discriminator(x), and gives (logits, class logits). y: labels,
    int64 [N].

    A generator whose attribute `source_channels` is greater than 0 is called as generator(source), and makes images of
    sources [N, source_channels, H', W'] instead of latents. A discriminator with the same attribute is called as
    discriminator(x, source), and one without it as discriminator(x). In the steps z is then the source, and so is y where the discriminator
    sees it: as with labels, what the generator made is judged beside what it was made of. Isola et al. 2017
    (arXiv:1611.07004, equations 1 and 2); the sources' size may differ from the images'.

    together: real and fake images go through the discriminator as one batch, which is the same where no layer of it ties the
    samples of a batch together (together.py finds out) and faster.
    """

    generator: nn.Module
    discriminator: nn.Module
    game: AdversarialLoss
    config: Config
    together: bool = False

    def generate(self, z: Tensor, y: Tensor | None) -> Tensor:
        """Images that the generator makes of latents, of the classes y where it is conditional, or of sources."""
        return self.generator(z) if y is None or source_channels(self.generator) else self.generator(z, y)

    def judge(self, images: Tensor, y: Tensor | None, weights: Mapping[str, Tensor] | None = None) -> Judged:
        """What the discriminator says of images [N, C, H, W], in packs where it takes them; with other weights, if given."""
        return judge(self.discriminator, packed(images, self.config.pack), y, weights)

    def judge_with_features(
        self, images: Tensor, y: Tensor | None, weights: Mapping[str, Tensor] | None, wanted: bool
    ) -> tuple[Judged, Any]:
        """As `judge`, and the discriminator's features, or None where they are not wanted."""
        if not wanted:
            return self.judge(images, y, weights), None
        with kept_features(self.discriminator) as found:
            judged = self.judge(images, y, weights)
        return judged, found[0]

    def judge_both(self, real: Tensor, y: Tensor | None, fake: Tensor, fake_y: Tensor | None) -> tuple[Judged, Judged]:
        """What the discriminator says of real and of fake images."""
        if not self.together:
            return self.judge(real, y), self.judge(fake, fake_y)
        labels = None if y is None or fake_y is None else torch.cat([y, fake_y])
        logits, classes = self.judge(torch.cat([real, fake.to(real.dtype)]), labels)
        first, second = logits.chunk(2)
        if classes is None:
            return (first, None), (second, None)
        of_real, of_fake = classes.chunk(2)
        return (first, of_real), (second, of_fake)

    def logits_of_packs(self, packs: Tensor, y: Tensor | None) -> Tensor:
        """The discriminator as penalties know it."""
        return judge(self.discriminator, packs, y)[0]

    def shown(self, images: Tensor, kind: str, draws: Draws) -> Tensor:
        """Images of a kind, real or fake, as the discriminator sees them: augmented and under noise."""
        if f"augment.{kind}" in draws:
            images = augment(images, self.config.augment, draws[f"augment.{kind}"], draws.get("p"))
        if f"noise.{kind}" in draws:
            images = images + draws[f"noise.{kind}"].to(images.dtype)
        return images

    def penalties(self, lazy: bool) -> dict[str, float]:
        """Names and weights of the penalties of a step: the game's own, and on lazy ones those that were asked for."""
        config, found = self.config, self.config.penalties(self.game)
        # Rarer but heavier: the expected gradient stays the same (StyleGAN2's lazy regularization).
        return {
            name: weight if name in self.game.penalties else weight * config.penalty_interval
            for name, weight in found.items()
            if lazy or name in self.game.penalties
        }

    @property
    def lazy(self) -> bool:
        """Whether there are penalties of every so many steps."""
        return len(self.penalties(True)) > len(self.penalties(False))

    def matching(self, lazy: bool) -> tuple[float, float]:
        """Weights of feature matching and L1 in a step of the generator: 0 but on lazy ones."""
        times = self.config.matching_interval if lazy else 0
        return times * self.config.feature_matching, times * self.config.l1_weight

    @property
    def between(self) -> bool:
        """Whether a penalty looks between real and fake images, and d_step so wants epsilon."""
        return bool({"gradient_penalty", "zero_centered_gp"} & self.penalties(True).keys())

    @property
    def beside(self) -> bool:
        """Whether the generator's step sees real images too."""
        config = self.config
        return self.game.paired or config.feature_matching > 0 or config.l1_weight > 0 or config.unroll > 0

    def autocast(self, like: Tensor) -> torch.autocast:
        """How the forward passes on tensors like this compute."""
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.config.precision)
        return torch.autocast(like.device.type, dtype, enabled=dtype is not None)


def judge(
    discriminator: nn.Module, images: Tensor, y: Tensor | None, weights: Mapping[str, Tensor] | None = None
) -> Judged:
    """What a discriminator says of images [N, ...] with labels or sources y, or None where it is told neither.

    weights: in place of its own, by name; its buffers then stay as they are.
    """
    args = (images,) if y is None or getattr(discriminator, "auxiliary", False) else (images, y)
    if weights is None:
        judged: Any = discriminator(*args)
    else:
        buffers = {name: buffer.clone() for name, buffer in discriminator.named_buffers()}
        judged = torch.func.functional_call(discriminator, {**weights, **buffers}, args)
    return judged if isinstance(judged, tuple) else (judged, None)


def learned(network: nn.Module) -> list[nn.Parameter]:
    """The weights that training moves."""
    return [weight for weight in network.parameters() if weight.requires_grad]
