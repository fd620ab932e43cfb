"""Families of networks by name.

A new family is one module with a function that returns a generator and a discriminator,

    build(resolution, channels, latent, width, classes, d_norm, *, OPTION: TYPE = DEFAULT, ...)

and one line in FAMILIES. The keyword-only arguments are the family's own options: they are known from the signature,
so that `--model.OPTION` on the command line and `options` in a configuration need no further list.

This module imports neither PyTorch nor a family: the names can be listed without. A family is imported when its options
are asked for or its networks are built.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastgan._util import keyword_options
from fastgan.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

#: family name → the module with its function `build`
FAMILIES: dict[str, str] = {
    "biggan": "fastgan.models.biggan",
    "compact": "fastgan.models.esrgan.srvgg",
    "cut": "fastgan.models.translation.cut",
    "cyclegan": "fastgan.models.translation.cyclegan",
    "dcgan": "fastgan.models.dcgan",
    "esrgan": "fastgan.models.esrgan.rrdb",
    "hific": "fastgan.models.autoencoder.hific",
    "mlp": "fastgan.models.mlp",
    "pix2pix": "fastgan.models.translation.pix2pix",
    "pix2pixhd": "fastgan.models.translation.pix2pixhd",
    "progan": "fastgan.models.progan",
    "projected": "fastgan.models.projected",
    "r3gan": "fastgan.models.r3gan",
    "resnet": "fastgan.models.resnet",
    "stylegan": "fastgan.models.stylegan.stylegan1",
    "stylegan-xl": "fastgan.models.stylegan.stylegan_xl",
    "stylegan2": "fastgan.models.stylegan.stylegan2",
    "stylegan3": "fastgan.models.stylegan.stylegan3",
    "variation": "fastgan.models.variation",
    "tiny-autoencoder": "fastgan.models.autoencoder.tiny",
    "vae": "fastgan.models.autoencoder.kl",
    "vqgan": "fastgan.models.autoencoder.vqgan",
}
#: Those whose generators make images of images, and not of latents.
OF_IMAGES = frozenset(
    {
        "compact",
        "cut",
        "cyclegan",
        "esrgan",
        "hific",
        "pix2pix",
        "pix2pixhd",
        "tiny-autoencoder",
        "vae",
        "variation",
        "vqgan",
    }
)


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
    """A new generator and discriminator of a family, with weights drawn from PyTorch's global random numbers.

    resolution: height and width of the images, in pixels. channels: 1 (gray) or 3 (color). latent: size of z. width:
    channels or units, as each family's module defines them. classes: number of class labels that both networks take; 0
    for unconditional networks. d_norm: normalization in the discriminator, "none", "batch" or "spectral". options: the
    family's own, see `option_types` (such as `condition`, how labels enter) and docs/networks.md.

    Raises UsageError for an unknown family, an unknown option, a value of another type than the option's, and sizes or
    options that the family does not support.
    """
    function = _build_function(name)
    for argument, value in (("resolution", resolution), ("channels", channels), ("latent", latent), ("width", width)):
        if value < 1:
            raise UsageError(f"{argument}: expected a number >= 1, got {value}")
    if classes < 0:
        raise UsageError(f"classes: expected a number >= 0, got {classes}")
    keyword_options.check_options(name, option_types(name), options)
    return function(resolution, channels, latent, width, classes, d_norm, **options)


def option_types(name: str) -> dict[str, Any]:
    """The options of a family and their types, as annotated: int, float, str, bool, or a union such as int | None.

    Raises UsageError for an unknown family.
    """
    return keyword_options.option_types(_build_function(name))


def parse_option(name: str, option: str, text: str) -> Any:
    """The value of a family's option from the text of a command line: "128" → 128, "none" → None where None is allowed.

    Raises UsageError for an unknown family or option, and for a text that is not of the option's type.
    """
    return keyword_options.parse_option(name, option_types(name), option, text)


def _build_function(name: str) -> Callable[..., tuple[nn.Module, nn.Module]]:
    if name not in FAMILIES:
        raise UsageError(
            f"model: expected one of {', '.join(FAMILIES)}, got {name!r}{keyword_options.nearest(name, FAMILIES)}"
        )
    return importlib.import_module(FAMILIES[name]).build
