"""Super-resolution: SRGAN (arXiv:1609.04802), ESRGAN (arXiv:1809.00219), Real-ESRGAN (arXiv:2107.10833)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fastgan._util.options import option
from fastgan._util.random import Random
from fastgan.degradation import Degradation, PairPool, random_crop, sharpen
from fastgan.errors import UsageError
from fastgan.losses import l1
from fastgan.tasks import sample_grids
from fastgan.tasks.base import Batch, Loss, Noise
from fastgan.tasks.batches import any_tensors, described
from fastgan.tasks.networks import coupling_layer, dtype_of
from fastgan.tasks.paired import Paired

#: What is degraded beside the crop, in low-resolution pixels on each side: filters see no edge then.
_MARGIN = 8


class SuperResolution(Paired):
    """Batches are {"target": images [N, C, H, W]}, of which smaller ones are made, or {"source", "target"}; in [-1, 1].

    The generator enlarges by its attribute `scale`, the discriminator sees images alone. The generator's loss is
    l1_weight · L1 + perceptual_weight · perceptual loss + adversarial_weight · adversarial loss.

    crop: side of what is cropped out of the targets at random places. flip: mirror and rotate it at random.
    degradation: how sources are made of targets, "bicubic" (ESRGAN), "first-order" or "second-order" (Real-ESRGAN): see
    `fastgan.degradation`. pool: pairs that are kept to mix batches, as the images of one batch are resized alike (180
    in Real-ESRGAN); 0 for none. sharpen: the generator's distances are to sharpened targets; the discriminator's real
    images are not sharpened. perceptual: see `fastgan.losses.perceptual_loss`; "none" leaves it out. warm_up: generator
    steps at the beginning in which L1 is all of the loss and the discriminator is not trained.
    """

    data = "pictures"

    def __init__(
        self, *args: Any, crop: int = 128, flip: bool = True, degradation: str = "bicubic", pool: int = 0,
        sharpen: bool = False, perceptual: str = "efficientnet", perceptual_weight: float = 1.0,
        adversarial_weight: float = 0.1, warm_up: int = 0, **kwargs: Any,
    ):  # fmt: skip
        super().__init__(
            *args, crop=crop, flip=flip, perceptual=perceptual, perceptual_weight=perceptual_weight, **kwargs
        )
        self.scale = int(getattr(self.generator, "scale", 0))
        if self.scale < 1:
            came = type(self.generator).__name__
            raise UsageError(f"generator: expected one that enlarges images by its attribute `scale`, got {came}")
        multiple = self.scale * int(getattr(self.generator, "multiple", 1))
        if crop < 1 or crop % multiple:
            raise UsageError(f"crop: expected a multiple of {multiple} (scale {self.scale}), got {crop}")
        for name, value in (("adversarial_weight", adversarial_weight), ("warm_up", warm_up)):
            if not value >= 0:
                raise UsageError(f"{name}: expected a number >= 0, got {value}")
        if warm_up and not self.config.l1_weight:
            raise UsageError(
                f"warm_up: its steps have the L1 loss alone, whose weight is 0; give {option('l1_weight', 1)}"
            )
        if self.conditional:
            raise UsageError("discriminator: expected one of images alone, got one with source_channels")
        penalties = list(self.config.all_penalties(self.loss))
        if penalties and (layer := coupling_layer(self.discriminator)):
            raise UsageError(
                f"{penalties[0]}: {layer} couples the samples of a batch, so a penalty on each sample's gradient has no"
                f" meaning; take {option('model.discriminator', 'unet')}"
            )
        for name in ("unroll", "pack"):
            if getattr(self.regularization.config, name) > (name == "pack"):
                raise UsageError(f"{name}: super-resolution does not have it; leave it out")
        self.sharpen, self.warm_up, self.adversarial_weight = sharpen, warm_up, adversarial_weight
        self.degradation, self.pool = Degradation(self.scale, degradation), PairPool(pool, self.regularization.mean)

    def collate(self, batch: Any, name: str = "batches") -> Batch:
        if isinstance(batch, Tensor) or (isinstance(batch, Mapping) and "source" not in batch):
            found = any_tensors(batch, self.real, name)
            found = {self.real: found[self.real].to(dtype_of(self.generator))}
        else:
            found = super().collate(batch, name)
            source, target = found["source"], found["target"]
            if [self.scale * side for side in source.shape[2:]] != [*target.shape[2:]]:
                raise UsageError(
                    f"{name}: expected targets {self.scale} times as large as their sources, as the generator enlarges,"
                    f" got {described(source)} and {described(target)}"
                )
        if min(found["target"].shape[2:]) < self.crop:
            raise UsageError(
                f"crop: expected at most the size of the images, {described(found['target'])}, got {self.crop}"
            )
        return found

    def transform(self, batch: Batch, random: Random | None) -> Batch:
        """Crops, and sources of them where there are none, in the range of the generator."""
        images = {name: (image + 1) / 2 for name, image in batch.items()}
        if "source" in images:
            images = random_crop(images, self.crop, random, flip=self.flip, rotate=self.flip)
        else:
            side = min(*images["target"].shape[2:], self.crop + 2 * _MARGIN * self.scale)
            images = random_crop(images, side - side % self.scale, random, flip=self.flip, rotate=self.flip)
            # Held-out images are degraded in the same way each time.
            draws = random or Random(self.seed, images["target"].device)
            images["source"] = self.degradation.apply(images["target"], draws)
            images = random_crop(images, self.crop, random, flip=False, rotate=False)
            images = images if random is None else self.pool.exchange(images, random)
        if self.sharpen:
            images["sharp"] = sharpen(images["target"])
        low, high = self.range
        return {name: (image * (high - low) + low).to(batch["target"].dtype) for name, image in images.items()}

    def draw(self, network: str, batch: Batch, random: Random, step: int) -> Noise:
        return super().draw(network, batch, random, step) | {"adversarial": step >= self.warm_up}

    def generator_loss(self, batch: Batch, noise: Noise) -> Loss:
        if noise["adversarial"]:
            return super().generator_loss(batch, noise)
        made, (_, weight) = self.made(batch["source"], None, noise), self.config.matching(noise["lazy"])
        distance = l1(made.float(), self.compared(batch))
        return Loss(weight * distance, {"l1/batch": distance})

    def compared(self, batch: Batch) -> Tensor:
        """The targets that generated images are compared with."""
        return batch.get("sharp", batch["target"]).float()

    def with_reconstruction(self, loss: Loss, made: Tensor, batch: Batch, weight: float) -> Loss:
        """adversarial_weight · loss + l1_weight · L1 + perceptual_weight · perceptual loss."""
        loss = Loss(self.adversarial_weight * loss.value, loss.log, loss.outputs)
        return super().with_reconstruction(loss, made, batch | {"target": self.compared(batch)}, weight)

    def samples(self, batch: Batch, held_out: Batch | None, step: int) -> dict[str, Any]:
        return dict(sample_grids.of_pairs(self.generator, batch, held_out, self.range, mode="bicubic"))

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | {f"pool.{name}": value for name, value in self.pool.tensors().items()}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        own = {name.removeprefix("pool."): value for name, value in tensors.items() if name.startswith("pool.")}
        self.pool.load_tensors(own, next(self.generator.parameters()).device)
        super().load_tensors({name: value for name, value in tensors.items() if not name.startswith("pool.")})
