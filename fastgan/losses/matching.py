"""Losses on features of the discriminator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastgan.errors import UsageError


def feature_matching(fake: Tensor, real: Tensor) -> Tensor:
    """Feature matching, ‖E f(x) − E f(G(z))‖² (Salimans et al. 2016, arXiv:1606.03498, section 3.1): a scalar.

    fake, real: features f of a layer of the discriminator, floating point [N, ...] and [M, ...] with equal dimensions
    after the first. No gradient flows into real.
    """
    return (fake.flatten(1).mean(0) - real.detach().flatten(1).mean(0)).square().sum()


def layer_matching(fake: Sequence[Sequence[Tensor]], real: Sequence[Sequence[Tensor]]) -> Tensor:
    """Σ over layers of E |f(y) − f(G(x))|, the mean over scales: Wang et al. 2018 (arXiv:1711.11585, equation 4).

    fake, real: for each scale of the discriminator its layers' outputs, the logits last, which are left aside: what the
    method `features` of the discriminators in `fastgan.models.translation` returns for images and their targets.
    Returns a scalar in float32 (float64 for double). No gradient flows into real. Raises UsageError where there are no
    layers.
    """
    if not fake or any(len(layers) < 2 for layers in fake):
        raise UsageError("fake: expected features of at least one layer before the logits at each scale")
    terms = [
        (_wide(one) - _wide(other.detach())).abs().mean()
        for layers, others in zip(fake, real, strict=True)
        for one, other in zip(layers[:-1], others[:-1], strict=True)
    ]
    return torch.stack(terms).sum() / len(fake)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
