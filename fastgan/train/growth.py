"""Progressive growing: both networks begin with 4×4 images, and their side doubles again and again.

Karras et al. 2018 (arXiv:1710.10196), section 2 and appendix A.1: the smallest images are trained on for so many real
ones; then the next level is faded in while as many are shown, trained on while as many are shown, and so on. What is
there follows from the number of images alone, so that ranks agree and a resumed run goes on where it was.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan._util.options import option
from fastgan.errors import UsageError


def level_at(images: int, each: int, stages: int) -> tuple[int, float]:
    """The newest of `stages` stages after so many real images, `each` in a phase, and how much of it is there."""
    phase, within = divmod(images, each)
    if phase >= 2 * (stages - 1):
        return stages - 1, 1.0
    return (phase + 1) // 2, within / each if phase % 2 else 1.0


class Growth:
    """Lets a generator, its average and a discriminator grow together, or leaves them as they are where `each` is 0.

    each: real images in a phase. Every network has `grow(stage, alpha)`; the generator has `stages`, how many there
    are, and `image_shape`, [C, H, W] of its images as of now, whose side doubles from stage to stage. Raises UsageError
    for networks that have not.
    """

    def __init__(self, each: int, generator: nn.Module, *others: nn.Module):
        self._each, self._networks = each, (generator, *others)
        #: What the networks are as of now: "8×8", or "8×8, fading in"; other layers run where it is another. "" before.
        self.name = ""
        #: How many pixels of the last level a pixel of now is wide.
        self.factor = 1
        if not each:
            return
        wanted = [(generator, "stages"), (generator, "image_shape"), *((network, "grow") for network in self._networks)]
        for network, attribute in wanted:
            if not hasattr(network, attribute):
                raise UsageError(
                    f"grow_images: expected networks that can grow, and {type(network).__name__} has no {attribute!r};"
                    f" use {option('model', 'progan')} (docs/training.md says what networks of your own need), or leave"
                    " it out"
                )
        generator.grow(self._stages - 1, 1.0)  # type: ignore[operator]
        self._shape = tuple(generator.image_shape)  # type: ignore[arg-type]

    def advance(self, images: int) -> bool:
        """Set the networks to the stage for so many real images. Returns whether other layers run than before."""
        if not self._each:
            return False
        stage, self._alpha = level_at(images, self._each, self._stages)
        for network in self._networks:
            network.grow(stage, self._alpha)  # type: ignore[operator]
        self._stage, self.factor = stage, 2 ** (self._stages - 1 - stage)
        side = "×".join(str(pixels // self.factor) for pixels in self._shape[1:])
        before, self.name = self.name, side + (", fading in" if self._alpha < 1 else "")
        return self.name != before

    def averaged(self, images: Tensor) -> Tensor:
        """Real images [N, C, H, W] as those of now: averaged down, and faded in over their own means as a level is.

        Raises UsageError where they are not of the size that the networks grow to.
        """
        if not self._each:
            return images
        if images.shape[1:] != self._shape:
            came, wanted = list(images.shape[1:]), list(self._shape)
            raise UsageError(
                f"batches: the networks grow to images {wanted}, and these are {came}; build the networks for"
                f" resolution {came[-1]}, or give images of theirs"
            )
        images = F.avg_pool2d(images, self.factor) if self.factor > 1 else images
        if self._alpha < 1:
            means = F.interpolate(F.avg_pool2d(images, 2), scale_factor=2)
            images = torch.lerp(means, images, self._alpha)
        return images

    def enlarged(self, images: Tensor) -> Tensor:
        """Images [N, C, h, w] of now in the size of the last level, pixels as squares."""
        return F.interpolate(images, scale_factor=self.factor) if self.factor > 1 else images

    def left(self, images: int) -> float:
        """How many real images come after so many until other layers run."""
        return self._each - images % self._each if self._each and images < self._all else math.inf

    def why_short(self, images: int) -> str:
        """A sentence where a run of so many real images ends before the networks are fully grown, or ""."""
        if not self._each or images >= self._all:
            return ""
        return (
            f"grow_images: the networks are fully grown after {self._all:,} real images, and the run has {images:,};"
            f" it ends with smaller ones, unless it gets more {option('steps')} or a smaller {option('grow_images')}"
        )

    def decisions(self, about: dict[str, Any]) -> dict[str, Any]:
        """The place in the facts about a run for how its steps are computed: one for each level, where there are."""
        return about.setdefault("levels", {}).setdefault(self.name, {}) if self._each else about

    @property
    def figures(self) -> dict[str, float]:
        """For a line of metrics: how often the side has doubled so far, with a fraction while a level fades in."""
        return {"growth/level": self._stage - 1 + self._alpha} if self._each else {}

    @property
    def _stages(self) -> int:
        return int(self._networks[0].stages)  # type: ignore[arg-type]

    @property
    def _all(self) -> int:
        """Real images until the networks are fully grown."""
        return 2 * (self._stages - 1) * self._each
