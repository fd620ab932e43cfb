"""The weight of an adversarial loss by which it moves the last layer as much as the reconstruction does (VQGAN)."""

from __future__ import annotations

import torch
from torch import Tensor

#: Added to the adversarial gradient's norm, and the largest weight.
DELTA, LARGEST = 1e-4, 1e4


def adaptive_sum(
    image: Tensor,
    reconstruction: Tensor,
    adversarial: Tensor,
    last_layer: Tensor,
    weight: float = 1.0,
    scale: float | Tensor = 1.0,
) -> tuple[Tensor, Tensor]:
    """reconstruction + λ · weight · adversarial, and λ.

    λ = ‖∇_L reconstruction‖ / (‖∇_L adversarial‖ + 1e-4), at most 1e4: Esser et al. 2021 (arXiv:2012.09841, equation
    7), L being the weight of the generator's last layer. image: [N, C, H, W], float32 or float64, made by the
    generator; both scalars are computed from it and depend on the generator through it alone. scale: of losses in half
    precision: gradients inside are computed of losses times scale, and divided by it in float32.

    Each loss network is run backward once: to the image. What flows on through the generator is the one gradient
    ∇ reconstruction + λ · weight · ∇ adversarial there, so that differentiating the returned sum runs the generator
    backward once and neither loss network again. λ is a constant in it. A gradient that vanishes makes λ small or
    LARGEST, and no NaN. Returns two scalars; second derivatives through the losses are not in the sum.
    """
    at_image = [torch.autograd.grad(term * scale, image)[0] for term in (reconstruction, adversarial)]
    with torch.autocast(image.device.type, enabled=False):
        at_last = [
            torch.autograd.grad(image, last_layer, gradient, retain_graph=True)[0].to(image.dtype)
            for gradient in at_image
        ]
        first, second = (torch.linalg.vector_norm(gradient) / scale for gradient in at_last)
        balance = (first / (second + DELTA)).clamp(0.0, LARGEST).detach()
        times = balance * weight
        gradient = (at_image[0] + times * at_image[1]).detach() / scale
        # It has the value of the sum and, at the image, its gradient.
        through = (image * gradient).sum()
        value = (reconstruction + times * adversarial).detach()
        return value + (through - through.detach()), balance
