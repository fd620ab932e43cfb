"""The remedies of a run: the random numbers that they take at a step, and what they carry from step to step."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.errors import UsageError
from fastgan.train.config import Config
from fastgan.train.distributed import World
from fastgan.train.noise import Noise
from fastgan.train.regularization import Draws
from fastgan.train.regularization.adaptive import Adaptive
from fastgan.train.regularization.augment import NUMBERS
from fastgan.train.regularization.history import History


class Remedies:
    """All of them that a settled configuration asks for; those that it does not ask for draw no numbers.

    Raises UsageError for what cannot be had on several ranks.
    """

    def __init__(self, config: Config, noise: Noise, device: torch.device, world: World):
        for name, asked in (("unroll", config.unroll), ("history", config.history)):
            if asked and world.size > 1:
                raise UsageError(
                    f"{name}: it knows one rank's images alone, so it needs a world of 1, got {world.size}"
                )
        self._config, self._noise = config, noise
        self.adaptive = Adaptive(config.ada_target, config.ada_images, device, world) if config.ada_target else None
        self.history = History(config.history, noise) if config.history else None

    def for_discriminator(self, real: Tensor, step: int) -> Draws:
        """What the discriminator's step takes against real images [N, C, H, W] at a generator step, from 0."""
        config, draws = self._config, self._shown(real, step, ("real", "fake"))
        for kind, weight in (("real", config.consistency), ("fake", config.consistency_fake)):
            if weight > 0:
                draws[f"shift.{kind}"] = self._noise.uniform(len(real), 2)
        return draws | (self.history.draws(len(real)) if self.history is not None else {})

    def for_generator(self, real: Tensor, step: int, beside: bool) -> Draws:
        """What the generator's step takes; beside: it sees real images too."""
        return self._shown(real, step, ("real", "fake") if beside else ("fake",))

    def learn(self, log: dict[str, Tensor], fakes: Tensor | None, y: Tensor | None, images: int) -> None:
        """After the discriminator's step on so many images of all ranks, which has logged this and made these fakes."""
        if self.adaptive is not None:
            self.adaptive.learn(log["augment/sign"], images)
            log["augment/p"] = self.adaptive.p.clone()
        if self.history is not None and fakes is not None:
            self.history.keep(fakes, y)

    def _shown(self, images: Tensor, step: int, kinds: tuple[str, ...]) -> Draws:
        config, draws = self._config, Draws()
        if config.augment != "none":
            draws |= {f"augment.{kind}": self._noise.uniform(len(images), NUMBERS) for kind in kinds}
            if self.adaptive is not None:
                draws["p"] = self.adaptive.p
        # Sønderby et al. 2017 (arXiv:1610.04490), Arjovsky and Bottou 2017 (arXiv:1701.04862): it overlays both
        # distributions, and is annealed as they come to overlap.
        left = 1 - step / (config.instance_noise_steps or config.steps)
        if config.instance_noise > 0 and left > 0:
            for kind in kinds:
                draws[f"noise.{kind}"] = self._noise.normal(images.shape) * (config.instance_noise * left)
        return draws

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        parts = {"adaptive": self.adaptive, "history": self.history}
        return {
            f"{name}.{key}": value
            for name, part in parts.items()
            if part is not None
            for key, value in part.tensors().items()
        }

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`; what an older version did not keep begins anew."""
        for name, part in (("adaptive", self.adaptive), ("history", self.history)):
            own = {key.removeprefix(f"{name}."): v for key, v in tensors.items() if key.startswith(f"{name}.")}
            if part is not None and own:
                part.load_tensors(own)
