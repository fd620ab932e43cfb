"""Variation: other images of the class of a given one, learned from pairs of images of one class (DAGAN)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, pad

from fastgan._util.random import Random
from fastgan.degradation import random_crop
from fastgan.errors import UsageError
from fastgan.tasks import measures
from fastgan.tasks.base import Batch, Loss, Noise
from fastgan.tasks.batches import any_tensors, class_labels, described
from fastgan.tasks.generation import Generation
from fastgan.tasks.networks import dtype_of, source_channels
from fastgan.tasks.sample_grids import Grid, latents, shown

#: Images that a sample grid varies, and how often.
_VARIED, _TIMES = 8, 7


class Variation(Generation):
    """Batches are {"source": [N, C, H, W], "real": others of the same classes}, with "labels" int64 [N] for a
    discriminator with `classes`.

    Antoniou et al. 2017 (arXiv:1711.04340), section 3. generator: called as generator(source, z). discriminator: called
    as discriminator(image, source), with source and the other image, or with source and what was made of it, so that it
    learns what two images of one class have in common and in what they differ. With `classes` labels are further,
    one-hot channels of the source. Options:

    shift: pixels by which all images are shifted at random, each by itself, their borders mirrored. flip: mirror them
    at random. Both show the discriminator more images than there are. diversity: weight of
    −E |G(x, z) − G(x, z')| / |z − z'|, without which a generator may ignore z (Mao et al. 2019, arXiv:1903.05628); it
    takes a second forward pass.
    """

    data = "classes"
    labeled = True

    def __init__(
        self, generator: nn.Module, discriminator: nn.Module, *args: Any, shift: int = 0, flip: bool = False,
        diversity: float = 0.0, **kwargs: Any,
    ):  # fmt: skip
        super().__init__(generator, discriminator, *args, **kwargs)
        self.label_channels = int(getattr(discriminator, "classes", 0))
        self.shift, self.flip, self.diversity = shift, flip, diversity
        for name, value in (("shift", shift), ("diversity", diversity)):
            if not value >= 0:
                raise UsageError(f"{name}: expected a number >= 0, got {value}")
        if self.config.l1_weight:
            raise UsageError("l1_weight: a variation has no target to be like; leave it out")
        if not source_channels(generator) or not source_channels(discriminator):
            raise UsageError(
                "generator, discriminator: expected networks that take images beside z and beside the image, with the"
                " attribute source_channels, such as those of the family variation"
            )

    def inputs(self, network: str, batch: Batch, noise: Noise) -> tuple[Any, Tensor]:
        """The source and z, and the source with its labels as the discriminator sees it."""
        source = condition = batch["source"]
        if self.label_channels:
            hot = one_hot(batch["labels"], self.label_channels).to(source.dtype)
            condition = torch.cat([source, hot[:, :, None, None].expand(-1, -1, *source.shape[2:])], 1)
        z = noise["z"]
        return (source, z if z is None else z.to(source.dtype)), condition

    def generate(self, z: Any, condition: Tensor | None) -> Tensor:
        """Images for z, a pair of sources [N, C, H, W] and latents [N, *latent_shape]."""
        return self.generator(*z)

    def generator_loss(self, batch: Batch, noise: Noise) -> Loss:
        # with_reconstruction sees the batch, and not the noise.
        return super().generator_loss(batch | {name: noise[name] for name in ("z", "z.other") if name in noise}, noise)

    def with_reconstruction(self, loss: Loss, made: Tensor, batch: Batch, weight: float) -> Loss:
        """Adds the weighted diversity of what is made of each image."""
        if not self.diversity:
            return loss
        source, z, other = batch["source"], batch["z"], batch["z.other"]
        again = self.generator(source, other.to(source.dtype))
        # The ratio of each image, not of the means: those of two ranks would not add up to that of both.
        changes = [(a - b).abs().flatten(1).float().mean(1) for a, b in ((made, again), (z, other))]
        apart = (changes[0] / changes[1]).mean()
        return loss._replace(value=loss.value - self.diversity * apart, log=loss.log | {"diversity": apart})

    def collate(self, batch: Any, name: str = "batches") -> Batch:
        found, dtype = any_tensors(batch, self.real, name), dtype_of(self.generator)
        images = [found.get(entry) for entry in ("source", "real")]
        if not all(isinstance(each, Tensor) and each.is_floating_point() for each in images):
            raise UsageError(
                f"{name}: expected a dictionary of images, float [N, C, H, W], 'source' and 'real', two of each class,"
                f" got {described(found)}"
            )
        joined = {entry: found[entry].to(dtype) for entry in ("source", "real")}
        if not self.label_channels:
            return joined
        return joined | {"labels": class_labels(found.get("labels"), len(joined["real"]), self.label_channels, name)}

    def transform(self, batch: Batch, random: Random | None) -> Batch:
        """Shifts and flips, of each image by itself; none of held-out images."""
        if random is None or not (self.shift or self.flip):
            return batch
        moved: Batch = {}
        for name in ("source", "real"):
            wider = pad(batch[name], [self.shift] * 4, mode="reflect")
            height, width = batch[name].shape[2:]
            moved |= random_crop({name: wider}, (height, width), random, flip=self.flip, rotate=False)
        return batch | moved

    def draw_inputs(self, network: str, batch: Batch, random: Random) -> Noise:
        """Latents, and a second set for the diversity of the generator's images."""
        count = len(batch[self.real])
        noise: Noise = {"z": random.normal(count, *self.latent_shape)}
        if self.diversity and network == "generator":
            noise["z.other"] = random.normal(count, *self.latent_shape)
        return noise

    @torch.no_grad()
    def samples(self, batch: Batch, held_out: Batch | None, step: int) -> dict[str, Any]:
        """Rows of an image and its variations: of held-out images, and of the last batch."""
        found = {}
        for kind, images in (("fixed", held_out), ("fresh", batch)):
            if images is not None:
                source = images["source"][:_VARIED]
                z = latents(self.seed, 0 if kind == "fixed" else step, self.latent_shape)[:_TIMES].to(source)
                made = self.generator(source.repeat_interleave(len(z), 0), z.repeat(len(source), 1))
                rows = torch.cat([source[:, None], made.unflatten(0, (len(source), len(z))).to(source)], 1)
                found[kind] = Grid(shown(rows.flatten(0, 1), self.range), 1 + len(z))
        return found

    def measures(self, batch: Batch, held_out: Batch | None, step: int) -> dict[str, Tensor]:
        found = measures.gradient_norms(self, batch)
        if held_out is not None:
            found["auroc/train_held_out"] = measures.train_against_held_out(self, batch, held_out)
        return found
