"""Training iterations of image tasks in plain PyTorch, in the style of the public code of their papers.

Each is one class: what is computed, in the order of the public trainer, with Adam of torch.optim. The networks are the
ones that fastgan trains, built from PyTorch's own layers (plain.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Batch = dict[str, Tensor]


class PublicStep:
    """One iteration on a batch: `forward`, then the backward pass and the update of each network.

    run: how networks are called, as {"generator": ...}; a compiled generator differs from the module that is trained.
    layout: memory format of weights and images. bf16: whether forward passes run under autocast.
    """

    #: In which order the networks are updated.
    order: tuple[str, ...] = ("discriminator", "generator")
    lr, betas = 2e-4, (0.5, 0.999)

    def __init__(
        self, generator: nn.Module, discriminator: nn.Module, options: dict[str, Any],
        layout: torch.memory_format = torch.contiguous_format, compiled: bool = False, bf16: bool = False,
    ):  # fmt: skip
        self.generator, self.discriminator = (n.to(memory_format=layout) for n in (generator, discriminator))  # type: ignore[call-overload]
        self.options, self.layout, self.bf16 = options, layout, bf16
        self.device = next(generator.parameters()).device.type
        self.compiled = compiled
        self.run: Callable[..., Any] = torch.compile(generator) if compiled else generator
        self.optimizers = {
            name: torch.optim.Adam((w for w in network.parameters() if w.requires_grad), self.lr, self.betas)
            for name, network in (("generator", self.generator), ("discriminator", self.discriminator))
        }

    def iterate(self, batch: Batch) -> None:
        """One iteration."""
        self.forward(self.prepared(batch))
        for name in self.order:
            self.backward(name)
            self.optimizers[name].step()
        self.after()

    def prepared(self, batch: Batch) -> Batch:
        return {name: images.contiguous(memory_format=self.layout) for name, images in batch.items()}

    def forward(self, batch: Batch) -> None:
        """What the generator makes, for both losses."""
        self.batch = batch
        with self.autocast():
            self.made = self.run(batch["source"])

    def backward(self, name: str) -> None:
        """Fill the gradients of one network."""
        self.discriminator.requires_grad_(name == "discriminator")
        self.optimizers[name].zero_grad()
        with self.autocast():
            loss = self.discriminator_loss() if name == "discriminator" else self.generator_loss()
        loss.backward()

    def discriminator_loss(self) -> Tensor:
        raise NotImplementedError

    def generator_loss(self) -> Tensor:
        raise NotImplementedError

    def after(self) -> None:
        """What follows the updates."""

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.bf16)

    def gradients(self, batch: Batch) -> dict[str, Tensor]:
        """The gradient of each network on a batch, as one vector, without an update."""
        self.forward(self.prepared(batch))
        found = {}
        for name in self.order:
            self.backward(name)
            network = getattr(self, name)
            found[name] = torch.cat([w.grad.flatten() for w in network.parameters() if w.grad is not None])
        return found


def bce(logits: Tensor, real: bool) -> Tensor:
    """GANLoss("vanilla") of the public code."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))


class Pix2Pix(PublicStep):
    """Isola et al. 2017 (arXiv:1611.07004), as the public trainer of pix2pix and CycleGAN runs it."""

    def discriminator_loss(self) -> Tensor:
        source, target = self.batch["source"], self.batch["target"]
        fake = bce(self.discriminator(self.made.detach(), source), False)
        real = bce(self.discriminator(target, source), True)
        return (fake + real) * self.options["d_scale"]

    def generator_loss(self) -> Tensor:
        adversarial = bce(self.discriminator(self.made, self.batch["source"]), True)
        return adversarial + F.l1_loss(self.made, self.batch["target"]) * self.options["l1_weight"]
