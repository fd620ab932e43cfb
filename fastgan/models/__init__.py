"""Generators and discriminators, one family a module; `build` makes a pair by the name of its family.

A generator maps latents z float [N, latent], and class labels y int64 [N] where `classes` is not 0, to images
[N, C, H, W] in about [-1, 1]. Its attributes `latent`, `image_shape` [C, H, W] and `classes` give these sizes. A
discriminator maps images, and labels where `classes` is not 0, to logits [N]; one with `auxiliary=True` maps images to
logits [N] and class logits [N, classes].

`load` opens the networks of a file in any public layout, `describe` says what is in it, and `save` writes such a file.

`esrgan` holds the super-resolution networks and opens their weight files; `translation` those from images to images of
pix2pix, CycleGAN and pix2pixHD; `biggan` has functions for sampling from BigGAN. They are imported when they are used:
`FAMILIES`, `build` and `option_types` do not import PyTorch before that.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fastgan.models.registry import FAMILIES, build, option_types, parse_option

if TYPE_CHECKING:
    from fastgan.models import biggan, esrgan, translation
    from fastgan.models.checkpoints import describe, load, save

__all__ = [
    "FAMILIES",
    "biggan",
    "build",
    "describe",
    "esrgan",
    "load",
    "option_types",
    "parse_option",
    "save",
    "translation",
]


def __getattr__(name: str) -> Any:
    if name in ("biggan", "esrgan", "translation"):
        return importlib.import_module(f"fastgan.models.{name}")
    if name in ("describe", "load", "save"):
        return getattr(importlib.import_module("fastgan.models.checkpoints"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
