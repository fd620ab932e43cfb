"""Historical averaging: a penalty on the distance of weights from their mean over time, against oscillation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class HistoricalAverage:
    """Adds weight · ‖θ − mean over time of θ‖² to a network's loss: Salimans et al. 2016 (arXiv:1606.03498, 3.3).

    The mean is over the weights after each update, and over those before the first.
    """

    def __init__(self, weight: float, weights: list[nn.Parameter]):
        self._weight, self._weights = weight, weights
        self._means = [w.detach().clone() for w in weights]
        self._count = torch.ones((), device=weights[0].device)

    @torch.no_grad()
    def gradients(self) -> Sequence[Tensor]:
        """The penalty's gradient, 2 · weight · (θ − mean), for each weight."""
        apart = torch._foreach_sub([w.detach() for w in self._weights], self._means)
        return torch._foreach_mul(apart, 2 * self._weight)

    @torch.no_grad()
    def update(self) -> None:
        """Add the weights after an update to the mean."""
        self._count += 1
        apart = torch._foreach_sub([w.detach() for w in self._weights], self._means)
        torch._foreach_add_(self._means, torch._foreach_div(apart, self._count))

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {"average.count": self._count, **{f"average.{i}": mean for i, mean in enumerate(self._means)}}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        self._count.copy_(tensors["average.count"])
        for i, mean in enumerate(self._means):
            mean.copy_(tensors[f"average.{i}"])
