"""Weights of taming-transformers (VQGAN) and latent diffusion (autoencoders with a KL divergence).

Lightning files have all weights of the training in one state dict: the autoencoder, its discriminator as
loss.discriminator, LPIPS as loss.perceptual_loss, and in files of whole diffusion models the autoencoder as
first_stage_model. Averaged weights are model_ema, without the dots of their names.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from fastgan.errors import DataError
from fastgan.models import autoencoder
from fastgan.models.checkpoints.build import built
from fastgan.models.checkpoints.contents import State

_OWN = ("encoder.", "decoder.", "quantize.", "quant_conv.", "post_quant_conv.")
_WHOLE = ("", "first_stage_model.")
_DISCRIMINATOR, _AVERAGE = "loss.discriminator.main.", "model_ema."
#: Levels, blocks of a level; far above those of any public network.
_MOST = 16
#: Arguments that names and shapes do not show.
_HIDDEN = ("beta", "decay", "restart")


def parts(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """G, G_ema and D of the state dict of a Lightning file, as far as it has them; nothing of another state dict."""
    whole = next((prefix for prefix in _WHOLE if f"{prefix}encoder.conv_in.weight" in tensors), None)
    if whole is None or f"{whole}decoder.conv_in.weight" not in tensors:
        return {}
    names = {name: name.removeprefix(whole) for name in tensors if name.removeprefix(whole).startswith(_OWN)}
    found = {"G": {own: tensors[name] for name, own in names.items() if name.startswith(whole)}}
    averages = {own: f"{_AVERAGE}{own.replace('.', '')}" for own in found["G"]}
    if not whole and all(name in tensors for name in averages.values()):
        found["G_ema"] = {own: tensors[name] for own, name in averages.items()}
    discriminator = {
        f"model.{name.removeprefix(whole + _DISCRIMINATOR)}": value
        for name, value in tensors.items()
        if name.startswith(whole + _DISCRIMINATOR)
    }
    return found | ({"D": discriminator} if discriminator else {})


def whole(states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The state dict of a Lightning file with these networks: the inverse of `parts`."""
    found: dict[str, Tensor] = {}
    for name, state in states.items():
        for key, value in state.items():
            if name == "D":
                found[f"{_DISCRIMINATOR}{key.removeprefix('model.')}"] = value
            elif name == "G_ema" and "G" in states:
                found[f"{_AVERAGE}{key.replace('.', '')}"] = value
            else:
                found[key] = value
    return found


def facts(state: State) -> dict[str, Any]:
    """The network's class and its arguments."""
    make = _constructor(state)
    return {"network": getattr(make.func, "__name__", ""), **make.keywords}


def build(state: State) -> nn.Module:
    """The network. Raises DataError for other weights than it has."""
    # `fastgan.models.save` writes the arguments, and averages of shares; public code keeps averages of counts.
    own = "codebook" in state.arguments
    return built(_constructor(state), state.tensors if own else _of_shares(state.tensors))


def _constructor(state: State) -> functools.partial[Any]:
    width, channels = state.shape("encoder.conv_in.weight", 4)[:2]
    levels = _count(state, r"encoder\.down\.(\d{1,4})\.", "levels")
    outputs = [state.shape(f"encoder.down.{i}.block.0.conv1.weight", 4)[0] for i in range(levels)]
    if any(output % width for output in outputs):
        raise DataError(f"has levels of {outputs} channels: expected multiples of the first layer's {width}")
    sizes: dict[str, Any] = {
        "channels": channels,
        "latent": state.shape("post_quant_conv.weight", 4)[1],
        "width": width,
        "multipliers": [output // width for output in outputs],
        "blocks": _count(state, r"encoder\.down\.0\.block\.(\d{1,4})\.", "blocks"),
        "attention": [i for i in range(levels) if f"encoder.down.{i}.attn.0.q.weight" in state.tensors],
        "z_channels": state.shape("decoder.conv_in.weight", 4)[1],
    }
    if "quantize.embedding.weight" not in state.tensors:
        return functools.partial(autoencoder.KLAutoencoder, **sizes)
    averaged = "quantize.embedding.cluster_size" in state.tensors
    sizes |= {
        "codes": state.shape("quantize.embedding.weight", 2)[0],
        "codebook": "average" if averaged else "gradient",
        **{name: state.arguments[name] for name in _HIDDEN if name in state.arguments},
    }
    return functools.partial(autoencoder.VQGAN, **sizes)


def _count(state: State, pattern: str, what: str) -> int:
    found = {int(match[1]) for name in state.tensors if (match := re.match(pattern, name))}
    if not found or len(found) > _MOST or found != set(range(len(found))):
        raise DataError(f"has {what} {sorted(found)[:_MOST]}: expected them from 0, at most {_MOST}")
    return len(found)


def _of_shares(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """With averages of shares of all vectors in place of those of counts."""
    size = tensors.get("quantize.embedding.cluster_size")
    if size is None or not float(size.sum()) > 0:
        return tensors
    names = ("quantize.embedding.cluster_size", "quantize.embedding.embed_avg")
    return tensors | {name: tensors[name] / size.sum() for name in names if name in tensors}
