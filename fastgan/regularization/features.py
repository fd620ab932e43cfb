"""The features of a discriminator by which the generator's images are matched to real ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from fastgan.errors import UsageError
from fastgan.nn import ConvBlock, EqualizedConv, EqualizedLinear, LinearBlock

_BLOCKS = (ConvBlock, LinearBlock)
_LAYERS = (nn.Linear, nn.modules.conv._ConvNd, EqualizedConv, EqualizedLinear)


@contextmanager
def collected_features(discriminator: nn.Module) -> Iterator[list[Tensor]]:
    """Collects, at every call of the discriminator inside, what goes into its last layer.

    The last layer is the one that was registered last, among linear ones, convolutions and fastgan's blocks of them.
    """
    found: list[Tensor] = []
    handle = last_layer(discriminator).register_forward_pre_hook(lambda layer, args: found.append(args[0]))
    try:
        yield found
    finally:
        handle.remove()


def last_layer(discriminator: nn.Module) -> nn.Module:
    """The layer that makes logits of features. Raises UsageError where there is none."""
    last: nn.Module | None = None
    block: str | None = None
    for name, module in discriminator.named_modules():
        if isinstance(module, _BLOCKS):
            last, block = module, f"{name}."
        # A block may run its layers as one operation, which no hook of theirs sees.
        elif isinstance(module, _LAYERS) and not (block is not None and name.startswith(block)):
            last = module
    if last is None:
        raise UsageError(
            "feature_matching: expected a discriminator with a linear layer or a convolution, got"
            f" {type(discriminator).__name__}"
        )
    return last
