"""What tells whether a run learns: statistics of every discriminator step, and a closer look at each interval.

Everything is computed on the device and fetched where the loop waits for it anyway.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fastgan.nn.spectral import SpectralNorm, TorchParametrization
from fastgan.report.diagnostics import SEVERE, Diagnosis, current
from fastgan.train import rng_state, samples

if TYPE_CHECKING:
    from fastgan.train.trainer import Trainer

#: Samples of the closer look, and steps along each of their interpolations.
LOOKED_AT, PATH = 16, 8
#: Images among which the classifier counts modes.
COUNTED = 256


def statistics(real: Tensor, fake: Tensor, real_logits: Tensor, fake_logits: Tensor) -> dict[str, Tensor]:
    """Scalars of a discriminator step, from images [N, ...] and logits [N, ...]: part of the compiled step.

    auroc/real_fake: the share of pairs in which the real image has the higher logit (the mean of its logits): 0.5 where
    the discriminator cannot tell, 1 where it always can, in every game. spread: root mean square distance of two images of the
    batch, per pixel. nearest: mean distance of an image to the one most like it. Both of fakes fall when the generator
    collapses, the latter also where some modes are left.
    """
    with torch.autocast(real.device.type, enabled=False):
        found = {"auroc/real_fake": _ranked(_of_images(real_logits), _of_images(fake_logits))}
        if len(real) > 1:
            for name, images in (("real", real), ("fake", fake)):
                found[f"spread/{name}"], found[f"nearest/{name}"] = _distances(images)
    return found


def _of_images(logits: Tensor) -> Tensor:
    """One logit for each image: of a discriminator of patches there are so many that their pairs would fill the memory."""
    return logits.float().flatten(1).mean(1) if logits.dim() > 1 else logits.float().flatten()


def _ranked(first: Tensor, second: Tensor) -> Tensor:
    """The share of pairs, one of each [N] and [M], in which the first is higher."""
    return (torch.sign(first[:, None] - second[None]).mean() + 1) / 2


def _distances(images: Tensor) -> tuple[Tensor, Tensor]:
    x = images.detach().float().flatten(1)
    x = x - x.mean(0)  # distances of large numbers that lie close together would be lost in their squares
    squares = x.square().sum(1)
    apart = (squares[:, None] + squares[None] - 2 * (x @ x.T)).clamp(min=0)
    n, size = x.shape
    spread = (2 * squares.sum() / ((n - 1) * size)).sqrt()
    myself = torch.eye(n, dtype=torch.bool, device=x.device)
    nearest = (apart.masked_fill(myself, float("inf")).amin(1) / size).sqrt().mean()
    return spread, nearest


class Monitor:
    """The closer look, once in an interval; it changes nothing and draws no random number of the run's."""

    def __init__(self, trainer: Trainer):
        self._trainer = trainer
        self.layers: list[dict[str, float | str]] = []
        #: The lines of the run so far, and what is wrong at the last of them, the gravest first.
        self.rows: list[dict[str, Any]] = []
        self.verdicts: list[Diagnosis] = []

    def look(self) -> dict[str, float]:
        """Figures for this interval's line, and `layers` for the table of layers. Waits for the device."""
        with rng_state.kept(self._trainer.device):
            return self._figures()

    def _figures(self) -> dict[str, float]:
        trainer = self._trainer
        found: dict[str, Tensor] = {}
        for player, update in trainer.updates.items():
            found[f"skipped/{player}"] = update.skipped
            if update.seen is not None:
                total = update.seen.square().sum(1).sqrt()
                found[f"update/{player}"] = total[2] / total[1]
        if not trainer.sources:
            found |= self._path()
        if trainer.players.penalties(True):
            found |= self._slopes()
        if trainer.held_out is not None:
            found["auroc/train_held_out"] = self._memory(trainer.held_out)
            if trainer.sources:
                found["l1/held_out"] = self._missed(trainer.held_out)
        if trainer.classifier is not None:
            found |= self._modes(trainer.classifier)
        self.layers = self._layers()
        values = torch.stack([value.float() for value in found.values()])
        trainer.world.mean_([values])
        # JSON has no word for the others.
        return {name: value for name, value in zip(found, values.tolist(), strict=True) if math.isfinite(value)}

    def judge(self, row: dict[str, Any], say: Callable[[str], None]) -> Diagnosis | None:
        """The verdict by which the run has collapsed or diverged, with this line. Each verdict is said once."""
        self.rows.append(row)
        before = {(verdict.name, verdict.since) for verdict in self.verdicts}
        self.verdicts = current(self.rows, self._trainer.game.unbounded)
        for verdict in self.verdicts:
            if (verdict.name, verdict.since) not in before:
                say(f"step {row['step']}: {verdict.sentence()}")
        return next((verdict for verdict in self.verdicts if verdict.name in SEVERE), None)

    def forget(self, after: int) -> None:
        """Drop the lines beyond that step, and what was said about them."""
        self.rows = [row for row in self.rows if row["step"] <= after]
        self.verdicts = []

    @torch.no_grad()
    def _path(self) -> dict[str, Tensor]:
        """How far images move on the way from one latent to another, and how far apart both ends are, per pixel."""
        trainer = self._trainer
        ends = samples.latents(trainer.config.seed, trainer.step, trainer.noise.latent_shape)[: 2 * PATH]
        first, second = ends.to(trainer.device).chunk(2)
        z = samples.path(first, second, PATH + 1)
        latents = z.flatten(0, 1)
        # Of one class all along: between classes there is no way.
        one = torch.zeros(len(latents), dtype=torch.long)
        images = samples.images_of(trainer.ema.module, latents, one).float().flatten(1).unflatten(0, z.shape[:2])
        steps = (images[1:] - images[:-1]).square().mean(2).sqrt().mean()
        return {"latent/path": steps * PATH, "latent/ends": (images[-1] - images[0]).square().mean(1).sqrt().mean()}

    @torch.no_grad()
    def _modes(self, classifier: nn.Module) -> dict[str, Tensor]:
        """How many classes are among COUNTED images, and the entropy of their shares in nats."""
        trainer = self._trainer
        (mixed,) = np.random.SeedSequence((trainer.config.seed, trainer.step, COUNTED)).generate_state(1, np.uint64)
        source = torch.Generator().manual_seed(int(mixed >> np.uint64(1)))
        z = torch.randn(COUNTED, *trainer.noise.latent_shape, generator=source).to(trainer.device)
        with _evaluating(classifier):
            logits = torch.cat(
                [
                    classifier(trainer.growth.enlarged(samples.images_of(trainer.ema.module, part)).float())
                    for part in z.split(samples.COUNT)
                ]
            )
        shares = torch.bincount(logits.argmax(1), minlength=logits.shape[1]).float() / COUNTED
        return {"modes/count": shares.count_nonzero(), "modes/entropy": -torch.xlogy(shares, shares).sum()}

    def _slopes(self) -> dict[str, Tensor]:
        """Mean and deviation of the discriminator's gradient norms at real images."""
        with _evaluating(self._trainer.discriminator), torch.enable_grad():
            n = LOOKED_AT - LOOKED_AT % self._trainer.config.pack or self._trainer.config.pack
            real = self._trainer.seen["real"][:n].detach().clone().requires_grad_()
            y = self._trainer.seen["y"][:n] if "y" in self._trainer.seen else None
            (slopes,) = torch.autograd.grad(self._trainer.players.judge(real, y)[0].float().sum(), real)
        norms = slopes.flatten(1).float().norm(dim=1)
        return {"slope/mean": norms.mean(), "slope/deviation": norms.std(correction=0)}

    @torch.no_grad()
    def _missed(self, held_out: dict[str, Tensor]) -> Tensor:
        """E |target − G(source)| of the averaged generator, on pairs that it was not trained on."""
        whole, n = self._trainer.ema.module, len(self._trainer.seen["real"])
        parts = zip(held_out["z"].split(n), held_out["real"].split(n), strict=True)
        total = sum((samples.images_of(whole, z).float() - real.float()).abs().sum() for z, real in parts)
        return torch.as_tensor(total) / held_out["real"].numel()

    @torch.no_grad()
    def _memory(self, held_out: dict[str, Tensor]) -> Tensor:
        """The share of pairs in which an image trained on has a higher logit than one that never was: 0.5 is fair."""
        with _evaluating(self._trainer.discriminator):
            players, known = self._trainer.players, self._trainer.seen
            images, y = self._trainer.growth.averaged(held_out["real"]), held_out.get("y")
            whole = len(images) - len(images) % self._trainer.config.pack
            parts = torch.arange(whole, device=images.device).split(len(known["real"]))
            seen, *unseen = (
                _of_images(players.judge(x, labels)[0])
                for x, labels in (
                    (known["real"], known.get("y")),
                    *((images[part], None if y is None else y[part]) for part in parts),
                )
            )
        return _ranked(seen, torch.cat(unseen))

    def _layers(self) -> list[dict[str, float | str]]:
        """For each weight: its norm, its gradient's, the last change's, and the spectral norm where there is one."""
        rows: list[dict[str, float | str]] = []
        for player, network in (("generator", self._trainer.generator), ("discriminator", self._trainer.discriminator)):
            update = self._trainer.updates[player]
            if update.seen is None:
                continue
            norms = _spectral_norms(network)
            for name, (gradient, weight, change) in zip(update.names, update.seen.T.tolist(), strict=True):
                row: dict[str, float | str] = {"weight": f"{player}.{name}", "norm": weight, "gradient": gradient}
                row["change"] = change / weight if weight else 0.0
                if name in norms:
                    row["spectral_norm"] = norms[name]
                rows.append(row)
        return rows


@torch.no_grad()
def _spectral_norms(network: nn.Module) -> dict[str, float]:
    """Largest singular values, as the spectral norms' own vectors give them, by the name of the weight."""
    found: dict[str, Tensor] = {}
    for name, chain in network.named_modules():
        if isinstance(chain, parametrize.ParametrizationList) and isinstance(
            chain[0], SpectralNorm | TorchParametrization
        ):
            norm = chain[0]
            matrix = chain.original.movedim(norm.dim, 0).flatten(1)
            found[f"{name}.original"] = torch.dot(norm._u, torch.mv(matrix, norm._v))
    values = torch.stack(list(found.values())).tolist() if found else []
    return dict(zip(found, values, strict=True))


@contextlib.contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """A network in eval mode for a while: its buffers stay, and nothing in it draws random numbers."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
