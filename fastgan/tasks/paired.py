"""Paired translation: images made of source images, learned from pairs of sources and targets (pix2pix, SRGAN)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fastgan._util.random import Random
from fastgan.losses import l1
from fastgan.tasks import measures, sample_grids
from fastgan.tasks.base import Batch, Loss, Noise
from fastgan.tasks.batches import sources_and_targets
from fastgan.tasks.generation import Generation
from fastgan.tasks.networks import dtype_of, source_channels


class Paired(Generation):
    """Batches are {"source": [N, source_channels, H', W'], "target": [N, C, H, W]}, float; pairs of both are taken.

    generator: called as generator(source), with its attribute `source_channels` greater than 0. discriminator: with the
    same attribute it is called as discriminator(image, source), and classifies an image beside its source: Isola et al.
    2017 (arXiv:1611.07004, equations 1 and 2); without it as discriminator(image), as in SRGAN. The sources' size may
    differ from the targets'. The generator's loss adds the adversarial loss of `Generation` and l1_weight · L1.
    """

    real = "target"
    shares = True

    def __init__(self, generator: nn.Module, discriminator: nn.Module, *args: Any, **kwargs: Any):
        super().__init__(generator, discriminator, *args, **kwargs)
        self.conditional = source_channels(discriminator) > 0

    def inputs(self, network: str, batch: Batch, noise: Noise) -> tuple[Tensor, Tensor | None]:
        """The source, and the source again where the discriminator sees it."""
        source = batch["source"]
        return source, source if self.conditional else None

    def shared(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """The images for the batch's sources, which both steps see, as in the papers' code."""
        source, condition = self.inputs("generator", batch, noise)
        return {"made": self.made(source, condition, noise)}

    def generate(self, z: Tensor, condition: Tensor | None) -> Tensor:
        """Images for sources z [N, source_channels, H', W']."""
        return self.generator(z)

    def with_reconstruction(self, loss: Loss, made: Tensor, batch: Batch, weight: float) -> Loss:
        """Adds weight · E |target − G(source)|: equation 3 of the paper."""
        if not weight:
            return loss
        distance = l1(made.float(), batch["target"].float())
        return Loss(loss.value + weight * distance, loss.log | {"l1/batch": distance})

    @property
    def sees_real(self) -> bool:
        return super().sees_real or self.config.l1_weight > 0

    def collate(self, batch: Any, name: str = "batches") -> Batch:
        return sources_and_targets(batch, source_channels(self.generator), name, dtype_of(self.generator))

    def draw_inputs(self, network: str, batch: Batch, random: Random) -> Noise:
        return {}  # sources come with the batch

    def samples(self, batch: Batch, held_out: Batch | None, step: int) -> dict[str, Any]:
        return dict(sample_grids.of_pairs(self.generator, batch, held_out, self.range))

    def measures(self, batch: Batch, held_out: Batch | None, step: int) -> dict[str, Tensor]:
        return measures.of_pairs(self, batch, held_out)
