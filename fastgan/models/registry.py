"""Networks by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from fastgan.errors import UsageError
from fastgan.models import dcgan, mlp

#: family name → function(resolution, channels, latent, width, d_norm) → (generator, critic)
FAMILIES: dict[str, Callable[..., tuple[nn.Module, nn.Module]]] = {"dcgan": dcgan.build, "mlp": mlp.build}


def build(
    name: str, *, resolution: int, channels: int, latent: int, width: int, d_norm: str = "none"
) -> tuple[nn.Module, nn.Module]:
    """A generator and a critic of that family, freshly initialised.

    resolution: pixels of a side. channels: 1 or 3. latent: size of z. width: channels of the widest image layer (dcgan)
    or units of the narrowest hidden layer (mlp). d_norm: the critic's "none", "batch" or "spectral". Raises UsageError.
    """
    if name not in FAMILIES:
        raise UsageError(f"model: expected one of {', '.join(FAMILIES)}, got {name!r}")
    for option, value in (("resolution", resolution), ("channels", channels), ("latent", latent), ("width", width)):
        if value < 1:
            raise UsageError(f"{option}: expected a number >= 1, got {value}")
    return FAMILIES[name](resolution, channels, latent, width, d_norm)
