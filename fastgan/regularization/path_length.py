"""Path length regularization: a step of a given length in the space of styles changes images by the same amount."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

#: How far the mean moves toward the lengths of a step, and the part of a batch that they are measured on (paper: 2).
DECAY, SHRINK = 0.01, 2


def path_lengths(synthesis: nn.Module, w: Tensor, y: Tensor, scale: float | Tensor = 1.0) -> Tensor:
    """|J^T y| for styles w [N, layers, w_dim], differentiable, [N] in float32 (float64 for double w): the root of the
    sum over w_dim of squares, averaged over the layers.

    Karras et al. 2020 (arXiv:1912.04958, section 3.2). J: the derivative of synthesis(w), images [N, C, H, W], with
    respect to w. y: N(0, 1), [N, C, H, W]; it is divided by the root of H · W here. scale: multiplies the product
    before its derivative, which in half precision would underflow, and divides the result.
    """
    wide = torch.float64 if w.dtype == torch.float64 else torch.float32
    images = synthesis(w).to(wide)
    product = (images * y).sum() * (scale / (images.shape[2] * images.shape[3]) ** 0.5)
    (slope,) = torch.autograd.grad(product, w, create_graph=True)
    return (slope.to(wide) / scale).square().sum(2).mean(1).sqrt()


class PathLength:
    """The mean length over time, toward which the lengths of a step are pulled: section 3.2's a.

    mean: a scalar on the device. average: replaces tensors by their means over all ranks.
    """

    def __init__(self, device: torch.device, average: Callable[[list[Tensor]], None] = lambda tensors: None):
        self.mean, self._average = torch.zeros((), device=device), average

    def update(self, lengths: Sequence[Tensor]) -> None:
        """Move the mean after a step. lengths: the mean length of each of its batches; nothing where it has none."""
        if lengths:
            mean = torch.stack(list(lengths)).mean().to(self.mean.dtype)
            self._average([mean])
            # A length that is not finite belongs to an update that is skipped.
            self.mean.copy_(torch.where(mean.isfinite(), torch.lerp(self.mean, mean, DECAY), self.mean))

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {"pl_mean": self.mean}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        self.mean.copy_(tensors["pl_mean"])
