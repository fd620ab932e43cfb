"""Moving averages that layers keep of what goes through them, such as StyleGAN's `w_avg` and `magnitude_ema`.

Calls in training mode move them. One iteration calls a generator several times: in the discriminator's step, for mixed
styles, for path lengths. One of those calls is the one that counts, and the others run inside of `averages_kept`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


class MovingAverages(nn.Module):
    """A layer with buffers named in `averages`, which it moves in training mode while `moves_averages` holds."""

    averages: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        # Of the layer and not of its class, or a step would be compiled again after the first `averages_kept`.
        self.moves_averages = True


@contextmanager
def averages_kept(network: nn.Module) -> Iterator[None]:
    """While it lasts, calls of a network leave its moving averages as they are."""
    layers = [layer for layer in network.modules() if isinstance(layer, MovingAverages) and layer.moves_averages]
    for layer in layers:
        layer.moves_averages = False
    try:
        yield
    finally:
        for layer in layers:
            layer.moves_averages = True


def moving_averages(*networks: nn.Module) -> list[Tensor]:
    """The moving averages of all layers."""
    layers = [layer for n in networks for layer in n.modules() if isinstance(layer, MovingAverages)]
    found = [getattr(layer, name, None) for layer in layers for name in layer.averages]
    return [tensor for tensor in found if tensor is not None]
