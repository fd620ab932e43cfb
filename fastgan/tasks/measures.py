"""What shows whether a task learns: statistics of every discriminator step, and figures once a log interval.

All is computed on the device; the trainer fetches it where it waits for the device anyway.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from fastgan.losses.similarity import WINDOW
from fastgan.metrics import image_quality
from fastgan.tasks import sample_grids

if TYPE_CHECKING:
    from fastgan.tasks.autoencoder import Autoencoder
    from fastgan.tasks.base import Batch
    from fastgan.tasks.generation import Generation

#: Images at which gradient norms are taken; interpolations between latents, and steps along each.
GRADIENT_NORMS, PATHS, STEPS = 16, 8, 8
#: Images among which a classifier counts modes.
COUNTED = 256


def statistics(real: Tensor, fake: Tensor, real_logits: Tensor, fake_logits: Tensor) -> dict[str, Tensor]:
    """Scalars of a discriminator step, from images [N, ...] and logits [N, ...]: part of the compiled step.

    auroc/real_fake: the share of pairs in which the real image has the higher logit (the mean of its logits): 0.5 where
    the discriminator cannot tell, 1 where it always can, whatever the loss. spread: root mean square distance of two
    images of the batch, per pixel. nearest: mean distance of an image to its nearest neighbor in the batch. Both of
    fakes fall when the generator collapses, the latter also where some modes are left.
    """
    found = {
        "logit/real": real_logits.mean(),
        "logit/fake": fake_logits.mean(),
        "range/real_min": real.amin(),
        "range/real_max": real.amax(),
        "range/fake_min": fake.amin(),
        "range/fake_max": fake.amax(),
    }
    with torch.autocast(real.device.type, enabled=False):
        found["auroc/real_fake"] = auroc(_per_image(real_logits), _per_image(fake_logits))
        if len(real) > 1:
            for name, images in (("real", real), ("fake", fake)):
                found[f"spread/{name}"], found[f"nearest/{name}"] = _distances(images)
    return found


def auroc(positive: Tensor, negative: Tensor) -> Tensor:
    """The share of pairs, one of each [N] and [M], in which the first is higher; ties count half."""
    return (torch.sign(positive[:, None] - negative[None]).mean() + 1) / 2


def of_generation(task: Generation, batch: Batch, held_out: Batch | None, step: int) -> dict[str, Tensor]:
    """The figures of a generator from latents, once a log interval."""
    found = latent_path(task, step)
    found |= gradient_norms(task, batch)
    if held_out is not None:
        found["auroc/train_held_out"] = train_against_held_out(task, batch, held_out)
    if task.classifier is not None:
        found |= modes(task, task.classifier, step)
    return found


def of_pairs(task: Generation, batch: Batch, held_out: Batch | None) -> dict[str, Tensor]:
    """The figures of a generator from source images."""
    found = gradient_norms(task, batch)
    if held_out is not None:
        found["auroc/train_held_out"] = train_against_held_out(task, batch, held_out)
        found |= distances_to_targets(task, held_out, len(batch["target"]))
    return found


@torch.no_grad()
def latent_path(task: Generation, step: int) -> dict[str, Tensor]:
    """How far images move on the way from one latent to another, and how far apart both ends are, per pixel."""
    device = next(task.generator.parameters()).device
    ends = sample_grids.latents(task.seed, step, task.latent_shape)[: 2 * PATHS]
    first, second = ends.to(device).chunk(2)
    z = sample_grids.path(first, second, STEPS + 1)
    latents = z.flatten(0, 1)
    # Of one class all along: there is no interpolation between classes.
    one = torch.zeros(len(latents), dtype=torch.long)
    images = sample_grids.images_of(task.generator, latents, one).float().flatten(1).unflatten(0, z.shape[:2])
    moved = (images[1:] - images[:-1]).square().mean(2).sqrt().mean()
    return {"latent/path": moved * STEPS, "latent/distance": (images[-1] - images[0]).square().mean(1).sqrt().mean()}


def gradient_norms(task: Generation, batch: Batch) -> dict[str, Tensor]:
    """Mean and deviation of the discriminator's gradient norms at real images, where there are penalties."""
    if not task.config.all_penalties(task.loss):
        return {}
    pack = task.regularization.config.pack
    n = GRADIENT_NORMS - GRADIENT_NORMS % pack or pack
    _, condition = task.inputs("discriminator", batch, {"z": None})
    with evaluating(task.discriminator), torch.enable_grad():
        real = batch[task.real][:n].detach().clone().requires_grad_()
        output = task.discriminate(real, None if condition is None else condition[:n])
        (gradients,) = torch.autograd.grad(output.logits.float().sum(), real)
    norms = gradients.flatten(1).float().norm(dim=1)
    return {"gradient_norm/mean": norms.mean(), "gradient_norm/deviation": norms.std(correction=0)}


@torch.no_grad()
def train_against_held_out(task: Generation, batch: Batch, held_out: Batch) -> Tensor:
    """AUROC of an image trained on against one that never was: 0.5 where the discriminator does not overfit."""
    pack, size = task.regularization.config.pack, len(batch[task.real])
    whole = len(held_out[task.real]) - len(held_out[task.real]) % pack
    parts = torch.arange(whole, device=held_out[task.real].device).split(size)

    def logits(part: Batch) -> Tensor:
        _, condition = task.inputs("discriminator", part, {"z": None})
        return _per_image(task.discriminate(part[task.real], condition).logits)

    with evaluating(task.discriminator):
        seen = logits(batch)
        unseen = [logits({name: value[part] for name, value in held_out.items()}) for part in parts]
    return auroc(seen, torch.cat(unseen))


@torch.no_grad()
def distances_to_targets(task: Generation, held_out: Batch, size: int) -> dict[str, Tensor]:
    """Of the averaged generator on pairs that it was not trained on, `size` at a time: L1 and `distances` of images."""
    source, target = held_out["source"], held_out["target"]
    sums: dict[str, Tensor] = {}
    for x, y in zip(source.split(size), target.split(size), strict=True):
        made = task.generator(x)
        one = {"l1": (made.float() - y.float()).abs().mean(), **distances(task, made, y)}
        for name, value in one.items():
            sums[name] = sums.get(name, value.new_zeros(())) + value * len(y)
    return {f"{name}/held_out": total / len(target) for name, total in sums.items()}


def distances(task: Generation, made: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Means over images [N, C, H, W] in the task's range: PSNR in dB and SSIM of their pixels from 0 to 255, and the
    perceptual distance where the task has one. SSIM is left out where sides are below 11 pixels; nothing is measured of
    what is no image.
    """
    if made.dim() != 4:
        return {}
    pixels = image_quality.pixels(made, task.range), image_quality.pixels(target, task.range)
    found = {"psnr": image_quality.psnr(*pixels).mean()}
    if min(target.shape[2:]) >= WINDOW:
        found["ssim"] = image_quality.ssim(*pixels).mean()
    if task.perceptual is not None:
        found["perceptual"] = task.perceptual(made, target)
    return found


@torch.no_grad()
def cycles(generator: nn.Module, held_out: Batch, size: int) -> dict[str, Tensor]:
    """E |G_ba(G_ab(a)) − a| of held-out images and the same from b, of averaged generators, `size` at a time."""
    found = {}
    for domain, there, back in (("a", "a_to_b", "b_to_a"), ("b", "b_to_a", "a_to_b")):
        ways: Any = generator
        parts = held_out[domain].split(size)
        total = sum((ways[back](ways[there](x)).float() - x.float()).abs().sum() for x in parts)
        found[f"cycle_{domain}/held_out"] = torch.as_tensor(total) / held_out[domain].numel()
    return found


@torch.no_grad()
def of_reconstructions(task: Autoencoder, held_out: Batch, size: int) -> dict[str, Tensor]:
    """Of the averaged autoencoder on images that it was not trained on, `size` at a time: `distances`, and what the
    autoencoder logs of its latents, such as how many codes are used."""
    sums: dict[str, Tensor] = {}
    images = held_out[task.real]
    for part in images.split(size):
        found = task.generator.reconstruct(part)  # type: ignore[operator]
        one = {**distances(task, found.image, part), **found.log}
        for name, value in one.items():
            sums[name] = sums.get(name, value.new_zeros(())) + value * len(part)
    return {f"{name}/held_out": total / len(images) for name, total in sums.items()}


@torch.no_grad()
def modes(task: Generation, classifier: nn.Module, step: int) -> dict[str, Tensor]:
    """How many classes are among COUNTED images, and the entropy of their shares in nats."""
    device = next(task.generator.parameters()).device
    (mixed,) = np.random.SeedSequence((task.seed, step, COUNTED)).generate_state(1, np.uint64)
    source = torch.Generator().manual_seed(int(mixed >> np.uint64(1)))
    z = torch.randn(COUNTED, *task.latent_shape, generator=source).to(device)
    with evaluating(classifier):
        parts = [task.enlarge(sample_grids.images_of(task.generator, part)) for part in z.split(sample_grids.COUNT)]
        logits = torch.cat([classifier(part.float()) for part in parts])
    shares = torch.bincount(logits.argmax(1), minlength=logits.shape[1]).float() / COUNTED
    return {"modes/count": shares.count_nonzero(), "modes/entropy": -torch.xlogy(shares, shares).sum()}


@contextlib.contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """A network in eval mode for a while: its buffers stay, and nothing in it draws random numbers."""
    training = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode


def _per_image(logits: Tensor) -> Tensor:
    """One logit for each image: a discriminator of patches has so many that their pairs would fill the memory."""
    return logits.float().flatten(1).mean(1) if logits.dim() > 1 else logits.float().flatten()


def _distances(images: Tensor) -> tuple[Tensor, Tensor]:
    x = images.detach().float().flatten(1)
    x = x - x.mean(0)  # distances of large numbers that lie close together would be lost in their squares
    squares = x.square().sum(1)
    apart = (squares[:, None] + squares[None] - 2 * (x @ x.T)).clamp(min=0)
    n, size = x.shape
    spread = (2 * squares.sum() / ((n - 1) * size)).sqrt()
    itself = torch.eye(n, dtype=torch.bool, device=x.device)
    nearest = (apart.masked_fill(itself, float("inf")).amin(1) / size).sqrt().mean()
    return spread, nearest
