"""Paired translation: images made of source images, learned from pairs of sources and targets (pix2pix, SRGAN)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fastgan._util.random import Random
from fastgan.degradation import random_crop
from fastgan.errors import UsageError
from fastgan.losses import l1
from fastgan.tasks import measures, sample_grids
from fastgan.tasks.base import Batch, Loss, Noise
from fastgan.tasks.batches import sources_and_targets
from fastgan.tasks.generation import Generation
from fastgan.tasks.networks import dtype_of, perceptual_for, source_channels


class Paired(Generation):
    """Batches are {"source": [N, source_channels, H', W'], "target": [N, C, H, W]}, float; pairs of both are taken.

    generator: called as generator(source), with its attribute `source_channels` greater than 0. discriminator: with the
    same attribute it is called as discriminator(image, source), and classifies an image beside its source: Isola et al.
    2017 (arXiv:1611.07004, equations 1 and 2); without it as discriminator(image), as in SRGAN. The sources' size may
    differ from the targets'. The generator's loss adds the adversarial loss of `Generation` and l1_weight · L1. Of a
    discriminator that returns a list, logits at several scales, the losses of all scales are added up. Options:

    crop: side of the squares at random places, the same one of source and target, that a batch is cropped to; 0 takes
    whole images. flip: mirror both at random. layer_matching: weight of the distance of the outputs of all layers of
    the discriminator, of the image made and of its target (`fastgan.losses.layer_matching`, pix2pixHD).
    perceptual: a distance in features of a network, by name or file as `fastgan.losses.perceptual_loss` takes it, or
    none. perceptual_weight: what it is added to the generator's loss by; 0 measures it on held-out pairs alone.
    """

    real = "target"
    data = "pairs"
    shares = True

    def __init__(
        self, generator: nn.Module, discriminator: nn.Module, *args: Any, crop: int = 0, flip: bool = False,
        layer_matching: float = 0.0, perceptual: str = "none", perceptual_weight: float = 1.0, **kwargs: Any,
    ):  # fmt: skip
        super().__init__(generator, discriminator, *args, **kwargs)
        if crop < 0:
            raise UsageError(f"crop: expected a number of pixels >= 0, got {crop}")
        self.conditional, self.crop, self.flip = source_channels(discriminator) > 0, crop, flip
        self.layer_matching = layer_matching
        self._check_layer_matching()
        if not perceptual_weight >= 0:
            raise UsageError(f"perceptual_weight: expected a number >= 0, got {perceptual_weight}")
        self.perceptual = perceptual_for(perceptual, generator, self.range)
        self.perceptual_weight = perceptual_weight if self.perceptual is not None else 0.0

    def _check_layer_matching(self) -> None:
        if not self.layer_matching >= 0:
            raise UsageError(f"layer_matching: expected a number >= 0, got {self.layer_matching}")
        if not self.layer_matching:
            return
        if not callable(getattr(self.discriminator, "features", None)):
            raise UsageError(
                "layer_matching: expected a discriminator with a method `features`, such as those of"
                f" fastgan.models.translation, got {type(self.discriminator).__name__}"
            )
        for name, value in (
            ("feature_matching", self.config.feature_matching), ("unroll", self.regularization.config.unroll),
        ):  # fmt: skip
            if value:
                raise UsageError(f"layer_matching: it is not combined with {name}, got {value}; leave one of them out")

    def inputs(self, network: str, batch: Batch, noise: Noise) -> tuple[Tensor, Tensor | None]:
        """The source, and the source again where the discriminator sees it."""
        source = batch["source"]
        return source, source if self.conditional else None

    def shared(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """Both steps see the same generated images, as in the papers' code: same sources, same weights."""
        source, condition = self.inputs("generator", batch, noise)
        return {"made": self.made(source, condition, noise)}

    def generate(self, z: Tensor, condition: Tensor | None) -> Tensor:
        """Images for sources z [N, source_channels, H', W']."""
        return self.generator(z)

    def with_reconstruction(self, loss: Loss, made: Tensor, batch: Batch, weight: float) -> Loss:
        """Adds weight · E |target − G(source)|, equation 3 of the paper, and the perceptual distance of both."""
        made, target = made.float(), batch["target"].float()
        if weight:
            distance = l1(made, target)
            loss = Loss(loss.value + weight * distance, loss.log | {"l1/batch": distance}, loss.outputs)
        if self.perceptual is not None and self.perceptual_weight:
            distance = self.perceptual(made, target)
            value = loss.value + self.perceptual_weight * distance
            loss = Loss(value, loss.log | {"perceptual/batch": distance}, loss.outputs)
        return loss

    @property
    def sees_real(self) -> bool:
        return super().sees_real or max(self.config.l1_weight, self.layer_matching, self.perceptual_weight) > 0

    def collate(self, batch: Any, name: str = "batches") -> Batch:
        return sources_and_targets(batch, source_channels(self.generator), name, dtype_of(self.generator))

    def transform(self, batch: Batch, random: Random | None) -> Batch:
        """Crops and flips, of source and target alike. A random flip of held-out pairs there is not."""
        if not (self.crop or (self.flip and random is not None)):
            return batch
        source, target = batch["source"], batch["target"]
        if source.shape[2:] != target.shape[2:]:
            raise UsageError(
                f"{'crop' if self.crop else 'flip'}: expected sources and targets of one size, got"
                f" {[*source.shape[2:]]} and {[*target.shape[2:]]}"
            )
        height, width = target.shape[2:]
        if self.crop > min(height, width):
            raise UsageError(f"crop: expected at most the side of the images, {width}×{height}, got {self.crop}")
        pair = {"source": source, "target": target}
        return batch | random_crop(pair, self.crop or (height, width), random, flip=self.flip, rotate=False)

    def draw_inputs(self, network: str, batch: Batch, random: Random) -> Noise:
        return {}  # sources come with the batch

    def samples(self, batch: Batch, held_out: Batch | None, step: int) -> dict[str, Any]:
        return dict(sample_grids.of_pairs(self.generator, batch, held_out, self.range))

    def measures(self, batch: Batch, held_out: Batch | None, step: int) -> dict[str, Tensor]:
        return measures.of_pairs(self, batch, held_out)
