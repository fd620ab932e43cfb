"""The methods of a run together: the random numbers that they take at a step, and their state from step to step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastgan._util.random import Random
from fastgan.regularization.ada.pipeline import KINDS as ADA_KINDS
from fastgan.regularization.ada.pipeline import NUMBERS as ADA_NUMBERS
from fastgan.regularization.ada.pipeline import ada
from fastgan.regularization.adaptive import Adaptive
from fastgan.regularization.augment import KINDS, NUMBERS, augment, kinds_of
from fastgan.regularization.config import RegularizationConfig
from fastgan.regularization.history import History
from fastgan.regularization.path_length import PathLength
from fastgan.regularization.unroll import adam_state


class Regularization:
    """All methods that a configuration asks for; those that it does not ask for draw no numbers.

    steps: generator steps in which instance noise falls to 0 where the configuration does not say. mean: replaces
    tensors by their means over all ranks.
    """

    def __init__(
        self,
        config: RegularizationConfig,
        device: torch.device,
        steps: int = 1,
        mean: Callable[[list[Tensor]], None] = lambda tensors: None,
    ):
        self.mean = mean
        self.config, self._steps = config, config.instance_noise_steps or steps
        self.mean = mean
        kinds = kinds_of(config.augment)
        self._kinds, self._ada = "+".join(k for k in kinds if k in KINDS), [k for k in kinds if k in ADA_KINDS]
        self.adaptive = (
            Adaptive(config.ada_target, config.ada_images, config.ada_interval, device, mean)
            if config.ada_target
            else None
        )
        self.history = History(config.history, device) if config.history else None
        self.path_length = PathLength(device, mean) if config.path_length else None
        #: The discriminator's optimizer, from whose state it is unrolled; set by the trainer.
        self.optimizer: torch.optim.Optimizer | None = None

    def draw_for_discriminator(self, real: Tensor, random: Random, step: int) -> dict[str, Any]:
        """What a discriminator step on real images [N, C, H, W] takes at generator step `step`, from 0."""
        noise = self._on_images(real, random, step, ("real", "fake"))
        for kind, weight in (("real", self.config.consistency), ("fake", self.config.consistency_fake)):
            if weight > 0:
                noise[f"shift.{kind}"] = random.uniform(len(real), 2)
        return noise | (self.history.draw(len(real), random) if self.history is not None else {})

    def draw_for_generator(self, real: Tensor, random: Random, step: int, with_real: bool) -> dict[str, Any]:
        """What a generator step takes. with_real: whether it sees real images too."""
        noise = self._on_images(real, random, step, ("real", "fake") if with_real else ("fake",))
        if self.config.unroll:
            assert self.optimizer is not None
            noise["optimizer"] = adam_state(self.optimizer)
        return noise

    @property
    def draws_depend_on_steps(self) -> str:
        """Why the noise of an iteration cannot be drawn before its first step, or ""."""
        found = {
            "adaptive augmentation": self.adaptive,
            "the history of fakes": self.history,
            "unrolling": self.config.unroll,
        }
        return next((f"{name} depends on the discriminator's last step" for name, used in found.items() if used), "")

    def apply(self, images: Tensor, kind: str, noise: dict[str, Any]) -> Tensor:
        """Images [N, C, H, W] of a kind, "real" or "fake", as the discriminator sees them: augmented and with noise."""
        if f"ada.{kind}" in noise:
            images = ada(images, self._ada, noise[f"ada.{kind}"], noise.get(f"field.{kind}"), noise.get("p"))
        if f"augment.{kind}" in noise:
            images = augment(images, self._kinds, noise[f"augment.{kind}"], noise.get("p"))
        if f"instance.{kind}" in noise:
            images = images + noise[f"instance.{kind}"].to(images.dtype)
        return images

    def update(
        self, log: dict[str, Tensor], fakes: Tensor | None, condition: Tensor | None, images: int, random: Random
    ) -> None:
        """After a discriminator step on so many images of all ranks, which logged this and made these fakes."""
        if self.adaptive is not None:
            self.adaptive.update(log["augment/sign"], images)
            log["augment/p"] = self.adaptive.p.clone()
        if self.history is not None and fakes is not None:
            self.history.add(fakes, condition, random)

    def _on_images(self, images: Tensor, random: Random, step: int, kinds: tuple[str, ...]) -> dict[str, Any]:
        config = self.config
        noise: dict[str, Any] = {}
        if self._kinds:
            noise |= {f"augment.{kind}": random.uniform(len(images), NUMBERS) for kind in kinds}
        if self._ada:
            noise |= {f"ada.{kind}": random.uniform(len(images), ADA_NUMBERS) for kind in kinds}
        if "noise" in self._ada:
            noise |= {f"field.{kind}": random.normal(*images.shape) for kind in kinds}
        if self.adaptive is not None:
            noise["p"] = self.adaptive.p
        # Sønderby et al. 2017 (arXiv:1610.04490), Arjovsky and Bottou 2017 (arXiv:1701.04862): it makes both
        # distributions overlap, and is annealed as they come to overlap by themselves.
        left = 1 - step / self._steps
        if config.instance_noise > 0 and left > 0:
            for kind in kinds:
                noise[f"instance.{kind}"] = random.normal(*images.shape) * (config.instance_noise * left)
        return noise

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {
            f"{name}.{key}": value
            for name, part in self._parts().items()
            if part is not None
            for key, value in part.tensors().items()
        }

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`; what an older version did not keep begins anew."""
        for name, part in self._parts().items():
            own = {key.removeprefix(f"{name}."): v for key, v in tensors.items() if key.startswith(f"{name}.")}
            if part is not None and own:
                part.load_tensors(own)

    def _parts(self) -> dict[str, Adaptive | History | PathLength | None]:
        """The methods with a state."""
        return {"adaptive": self.adaptive, "history": self.history, "path_length": self.path_length}
