"""Inversion: the w, and the noise, with which a generator makes a given image.

The optimization of Karras et al. 2020 (arXiv:1912.04958, appendix D), in W (one style for all layers) or W+ (one for
each layer, Abdal et al. 2019, arXiv:1904.03189), with a perceptual distance of the user's choice beside the pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import interpolate

from fastgan.editing.styles import require_styles, w_of_seeds
from fastgan.engine import compile as compiled
from fastgan.errors import UsageError
from fastgan.losses import perceptual_loss

#: Of steps: in which the learning rate rises, from which on it falls, and in which w is disturbed.
_RISE, _FALL, _DISTURBED = 0.05, 0.75, 0.75
#: Of the standard deviation of w, at the first step: how much w is disturbed.
_DISTURBANCE = 0.05
_SAMPLES = 2000
#: Pixels of the shorter side at which a perceptual distance is taken.
_MOST = 256

#: A distance of images [N, C, H, W] in [-1, 1], a scalar.
Distance = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Projection:
    """w [1, num_ws, w_dim]; noise: optimized noise maps [H, W] by the names of their buffers; image [1, C, H, W] that
    they give; psnr: of it against the target, in dB; history: at each step what the image is compared by, without the
    term of the noise maps."""

    w: Tensor
    noise: dict[str, Tensor]
    image: Tensor
    psnr: float
    history: list[float]


def project(
    generator: nn.Module,
    target: Tensor,
    *,
    space: str = "w+",
    steps: int = 500,
    rate: float = 0.1,
    distance: Distance | None = None,
    noise_weight: float = 1e5,
    seed: int = 0,
    label: int | None = None,
    on_step: Callable[[int, float], None] = lambda step, difference: None,
) -> Projection:
    """The w and noise maps with which the generator makes an image like the target.

    target: float [1, C, H, W] in [-1, 1], of the generator's size. space: "w", or "w+" with a style for each layer.
    rate: largest learning rate of Adam. distance: added to the mean squared difference of pixels, such as
    `perceptual_distance`. noise_weight: of the autocorrelation of noise maps, which keeps them from drawing the image;
    0 leaves the noise as it is. label: of the w that the search starts from. on_step(step, difference): called at each
    step, with the entry of `history`.

    The generator stays as it is. On a GPU a step is compiled. Raises UsageError for a target of another size, and for
    values out of range.
    """
    network = require_styles(generator)
    if space not in ("w", "w+"):
        raise UsageError(f"space: expected w or w+, got {space!r}")
    for name, value, low in (("steps", steps, 1), ("noise_weight", noise_weight, 0)):
        if value < low:
            raise UsageError(f"{name}: expected a number >= {low}, got {value}")
    if not rate > 0:
        raise UsageError(f"rate: expected a number > 0, got {rate}")
    weight = next(network.parameters())
    target = target.to(weight.device, torch.float32)
    shape = tuple(network.image_shape)
    if target.dim() != 4 or tuple(target.shape) != (1, *shape):
        raise UsageError(f"target: expected an image [1, {', '.join(map(str, shape))}], got {[*target.shape]}")
    every = w_of_seeds(network, range(_SAMPLES), label)[:, 0]
    deviation = float((every - every.mean(0)).square().sum(1).mean().sqrt()) / math.sqrt(network.w_dim)
    w = every.mean(0)[None, None].repeat(1, network.num_ws if space == "w+" else 1, 1).requires_grad_()
    random = torch.Generator(weight.device).manual_seed(seed)
    noise = _noise_maps(network, random) if noise_weight else {}
    step = _Step(network, target, list(noise), distance, noise_weight)
    run: Any = compiled(step) if weight.device.type == "cuda" else step
    variables = [w, *noise.values()]
    adam = torch.optim.Adam(variables, lr=rate, betas=(0.9, 0.999))
    history, best = [], (math.inf, w.detach().clone(), {k: v.detach().clone() for k, v in noise.items()})
    for i in range(steps):
        done = i / steps
        adam.param_groups[0]["lr"] = rate * _schedule(done)
        strength = _DISTURBANCE * deviation * max(0.0, 1 - done / _DISTURBED) ** 2
        disturbance = strength * torch.randn(w.shape, generator=random, device=w.device)
        difference, *gradients = run(w, list(noise.values()), disturbance)
        for variable, gradient in zip(variables, gradients, strict=True):
            variable.grad = gradient
        history.append(float(difference))
        if strength == 0 and history[-1] < best[0]:
            best = history[-1], w.detach().clone(), {k: v.detach().clone() for k, v in noise.items()}
        adam.step()
        with torch.no_grad():
            for one in noise.values():
                one.sub_(one.mean()).mul_(one.square().mean().rsqrt())
        on_step(i, history[-1])
    _, w, noise = best if best[0] < math.inf else (0.0, w.detach(), noise)
    with torch.no_grad():
        image = step.image(w, noise)
        error = float((image.clamp(-1, 1) - target).square().mean())
    psnr = math.inf if error == 0 else 10 * math.log10(4 / error)
    return Projection(w.expand(1, network.num_ws, -1).contiguous(), noise, image, psnr, history)


def perceptual_distance(name_or_file: str, device: torch.device, weight: float = 1.0) -> Distance:
    """weight times `fastgan.losses.perceptual_loss` of this name, of images reduced to 256 pixels as in the paper."""
    loss = perceptual_loss(name_or_file).to(device)

    def distance(images: Tensor, targets: Tensor) -> Tensor:
        side = min(images.shape[2:])
        if side > _MOST:
            images, targets = (interpolate(x, scale_factor=_MOST / side, mode="area") for x in (images, targets))
        found: Tensor = loss(images, targets)
        return weight * found

    return distance


class _Step:
    """How far the image of w and noise is from the target, and the gradients of that and the noise maps' term."""

    def __init__(
        self, network: Any, target: Tensor, names: list[str], distance: Distance | None, noise_weight: float
    ) -> None:
        self.network, self.target, self.names = network, target, names
        self.distance, self.noise_weight = distance, noise_weight

    def image(self, w: Tensor, noise: dict[str, Tensor]) -> Tensor:
        """float32 [1, C, H, W] of w [1, 1 or num_ws, w_dim] and noise maps."""
        styles = w.expand(-1, self.network.num_ws, -1)
        # Without noise maps of its own the noise is that of the generator's buffers.
        return functional_call(self.network.synthesis, noise, (styles,), {"noise_mode": "const"}).float()

    def __call__(self, w: Tensor, maps: list[Tensor], disturbance: Tensor) -> tuple[Tensor, ...]:
        image = self.image(w + disturbance, dict(zip(self.names, maps, strict=True)))
        difference = (image - self.target).square().mean()
        if self.distance is not None:
            difference = difference + self.distance(image, self.target)
        loss = difference
        if maps:
            loss = loss + self.noise_weight * sum(_autocorrelation(one) for one in maps)
        return difference.detach(), *torch.autograd.grad(loss, [w, *maps])


def _noise_maps(network: Any, random: torch.Generator) -> dict[str, Tensor]:
    """Leaves from N(0, 1) for the buffers noise_const of the synthesis; none where it has no noise."""
    return {
        name: torch.randn(buffer.shape, generator=random, device=buffer.device, dtype=torch.float32).requires_grad_()
        for name, buffer in network.synthesis.named_buffers()
        if name.endswith("noise_const")
    }


def _autocorrelation(noise: Tensor) -> Tensor:
    """Squared correlation of a map [H, W] with itself, moved by one pixel, at its and at all smaller sizes from 8."""
    total = noise.new_zeros(())
    current = noise[None, None]
    while True:
        for axis in (2, 3):
            total = total + (current * current.roll(1, axis)).mean().square()
        if current.shape[2] <= 8:
            return total
        # Means of four pixels, scaled back to variance 1.
        current = nn.functional.avg_pool2d(current, 2) * 2


def _schedule(done: float) -> float:
    """The learning rate at a fraction of the steps, from 0 to 1: a linear rise, a constant, a cosine down to 0."""
    fall = min(1.0, max(0.0, (done - _FALL) / (1 - _FALL)))
    return min(1.0, (done + 1e-3) / _RISE) * (0.5 + 0.5 * math.cos(math.pi * fall))
