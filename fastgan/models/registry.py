"""Networks by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from fastgan.errors import UsageError
from fastgan.models import biggan, dcgan, mlp, progan, r3gan, resnet

#: family name → function(resolution, channels, latent, width, classes, d_norm, **options) → (generator, discriminator)
FAMILIES: dict[str, Callable[..., tuple[nn.Module, nn.Module]]] = {
    "biggan": biggan.build,
    "dcgan": dcgan.build,
    "mlp": mlp.build,
    "progan": progan.build,
    "r3gan": r3gan.build,
    "resnet": resnet.build,
}


def build(
    name: str,
    *,
    resolution: int,
    channels: int,
    latent: int,
    width: int,
    classes: int = 0,
    d_norm: str = "none",
    **options: Any,
) -> tuple[nn.Module, nn.Module]:
    """A generator and a discriminator of that family, freshly initialized.

    resolution: pixels of a side. channels: 1 or 3. latent: size of z. width: what each family's file says it is.
    classes: of the labels that both networks take; 0 for networks without. d_norm: the discriminator's "none", "batch" or
    "spectral". options: of the family alone, such as `condition`, how labels enter (docs/networks.md). Raises
    UsageError for what does not fit together.
    """
    if name not in FAMILIES:
        raise UsageError(f"model: expected one of {', '.join(FAMILIES)}, got {name!r}")
    for option, value in (("resolution", resolution), ("channels", channels), ("latent", latent), ("width", width)):
        if value < 1:
            raise UsageError(f"{option}: expected a number >= 1, got {value}")
    if classes < 0:
        raise UsageError(f"classes: expected a number >= 0, got {classes}")
    known = options_of(name)
    for option, value in options.items():
        if option not in known:
            takes = f"takes {', '.join(known)} beside what all take" if known else "takes what all take"
            raise UsageError(f"{option}: {name} {takes}, got {option}={value!r}")
    return FAMILIES[name](resolution, channels, latent, width, classes, d_norm, **options)


def options_of(name: str) -> list[str]:
    """What a family takes beside what all take."""
    parameters = inspect.signature(FAMILIES[name]).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
