"""Small networks of every family, with and without labels, for tests of steps, compilers and exporters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastgan import models

_XL = {"first_layers": 4, "backbone": "random", "side": 64, "d_width": 2}
#: name → arguments of `fastgan.models.build`
FAMILIES: dict[str, dict[str, Any]] = {
    "mlp": {"name": "mlp"},
    "mlp original": {"name": "mlp", "variant": "original", "width": 10},
    "mlp minimal": {"name": "mlp", "variant": "minimal", "d_norm": "spectral"},
    "mlp linear": {"name": "mlp", "variant": "linear", "resolution": 1, "channels": 1, "latent": 1},
    "mlp concat": {"name": "mlp", "variant": "minimal", "classes": 3},
    "mlp projection": {"name": "mlp", "classes": 3, "condition": "projection", "d_norm": "spectral"},
    "mlp auxiliary": {"name": "mlp", "classes": 3, "condition": "auxiliary"},
    "dcgan": {"name": "dcgan", "d_norm": "spectral"},
    "dcgan concat": {"name": "dcgan", "classes": 3, "condition": "concat"},
    "dcgan projection": {"name": "dcgan", "classes": 3, "d_norm": "spectral"},
    "dcgan auxiliary": {"name": "dcgan", "classes": 3, "condition": "auxiliary", "d_norm": "spectral"},
    "resnet": {"name": "resnet", "resolution": 32, "width": 4},
    "resnet projection": {"name": "resnet", "resolution": 32, "width": 4, "classes": 3, "d_norm": "spectral"},
    "resnet concat": {"name": "resnet", "resolution": 32, "width": 4, "classes": 3, "condition": "concat"},
    "resnet auxiliary": {"name": "resnet", "resolution": 32, "width": 4, "classes": 3, "condition": "auxiliary"},
    "biggan": {"name": "biggan", "resolution": 32, "width": 4, "d_norm": "spectral"},
    "biggan projection": {
        "name": "biggan", "resolution": 32, "width": 4, "classes": 3, "embedding": 5, "attention": 16,
        "d_norm": "spectral",
    },
    "progan": {"name": "progan", "width": 16},
    "progan concat": {"name": "progan", "width": 16, "classes": 3, "condition": "concat"},
    "progan auxiliary": {"name": "progan", "width": 16, "classes": 3},
    "r3gan": {"name": "r3gan", "width": 16},
    "r3gan projection": {"name": "r3gan", "width": 16, "classes": 3},
    "projected": {"name": "projected", "generator": "dcgan", "backbone": "random", "side": 64, "d_width": 2},
    "projected labels": {
        "name": "projected", "backbone": "random", "side": 64, "d_width": 2, "classes": 3, "condition": "projection",
    },
    "stylegan": {"name": "stylegan", "mapping_layers": 2},
    "stylegan labels": {"name": "stylegan", "mapping_layers": 2, "classes": 3},
    "stylegan-xl": {"name": "stylegan-xl", **_XL},
    "stylegan-xl labels": {"name": "stylegan-xl", "classes": 3, **_XL},
    "stylegan2": {"name": "stylegan2", "mapping_layers": 2},
    "stylegan2 labels": {"name": "stylegan2", "mapping_layers": 2, "classes": 3, "condition": "projection"},
    "stylegan3": {"name": "stylegan3"},
    "stylegan3 labels": {"name": "stylegan3", "variant": "r", "classes": 3},
}  # fmt: skip
SIZES = {"resolution": 16, "channels": 3, "latent": 8, "width": 8}


def family(name: str, **options: Any) -> tuple[nn.Module, nn.Module]:
    """The small generator and discriminator of that name, with the same weights at every call."""
    torch.manual_seed(0)
    return models.build(**SIZES | FAMILIES[name] | options)


def latents_and_labels(generator: Any, n: int) -> tuple[Tensor, ...]:
    """The arguments of a generator: (z,) or (z, y). y contains all classes if n is large enough."""
    z = torch.randn(n, generator.latent)
    return (z, torch.arange(n) % generator.classes) if generator.classes else (z,)


def total_logits(discriminator: Any, x: Tensor, *labels: Tensor) -> Tensor:
    """One number for each image: the logit, plus that of the label's class for an auxiliary classifier."""
    if not discriminator.auxiliary:
        return discriminator(x, *labels)
    logits, classes = discriminator(x)
    return logits + classes.gather(1, labels[0][:, None])[:, 0]
