"""What the networks of image translation have in common: norms, initial weights, checks of their arguments."""

from __future__ import annotations

from torch import nn

from fastgan.errors import UsageError

NORMS = ("batch", "instance", "none")
#: Negative slope of every leaky ReLU.
SLOPE = 0.2


def norm_layer(norm: str, channels: int) -> nn.Module:
    """The layer after a convolution. All have a place in the public state dicts; only batch norm has values there."""
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    return nn.InstanceNorm2d(channels) if norm == "instance" else nn.Identity()


def has_bias(norm: str) -> bool:
    """Whether convolutions before a norm have a bias in the public networks: only before instance norm."""
    return norm == "instance"


def check(norm: str, **sizes: int) -> None:
    """Raise UsageError for an unknown norm, and for sizes below 1."""
    if norm not in NORMS:
        raise UsageError(f"norm: expected one of {', '.join(NORMS)}, got {norm!r}")
    for name, value in sizes.items():
        if value < 1:
            raise UsageError(f"{name}: expected a number >= 1, got {value}")


def check_family(family: str, classes: int, d_norm: str) -> None:
    """Raise UsageError for labels and for a norm of the discriminator alone, which translation does not have."""
    if classes:
        raise UsageError(f"condition: {family} makes images of images and takes no labels, got {classes} classes")
    if d_norm != "none":
        raise UsageError(f"d_norm: both networks of {family} have the norm of its option `norm`, got {d_norm!r}")


def initialize(module: nn.Module) -> None:
    """Weights from N(0, 0.02²), scales of batch norms from N(1, 0.02²), biases zero, as in the papers."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
