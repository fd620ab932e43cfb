"""Conversion of state dicts from and to BigGAN-PyTorch (github.com/ajbrock/BigGAN-PyTorch).

A spectral norm of BigGAN-PyTorch stores one vector, `u0` [1, outputs], and does a step of power iteration at every
forward pass, also in eval mode. The one here stores two vectors and iterates only in training mode. A loaded network
gives the outputs that it gives in BigGAN-PyTorch; a converted one is one step of power iteration further there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan.errors import UsageError
from fastgan.nn.orthogonal import raw_weight
from fastgan.nn.spectral_group import LAYERS, norm_of

#: (pattern in a name here, replacement), applied in this order; "" drops the entry
_NAMES = [
    (r"\.parametrizations\.weight\.original$", ".weight"),
    (r"\.parametrizations\.weight\.0\._u$", ".u0"),
    (r"\.parametrizations\.weight\.0\._v$", ""),
    (r"(^|.*\.)num_batches_tracked$", ""),
    (r"\.(conv1|conv2|conv_sc)\.conv\.", r".\1."),
    (r"^linear\.linear\.", "linear."),
    (r"^to_image\.conv\.", "output_layer.2."),
    (r"^norm\.weight$", "output_layer.0.gain"),
    (r"^norm\.", "output_layer.0."),
    (r"\.norm\.running_", ".running_"),
    (r"\.running_", ".stored_"),
    (r"^head\.embed\.", "embed."),
]


def to_biggan_pytorch(network: nn.Module) -> dict[str, Tensor]:
    """The state dict of a biggan `Generator` or `Discriminator` with the names and shapes of BigGAN-PyTorch."""
    state = {}
    for key, value in network.state_dict().items():
        name = _their_name(key)
        if name:
            state[name] = value[None].clone() if name.endswith(".u0") else value.clone()
    for key, layer in _normalized(network):
        state[_their_name(f"{key}.parametrizations.weight.original")[: -len("weight")] + "sv0"] = _sigma(layer)[None]
    return state


@torch.no_grad()
def load_biggan_pytorch(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state dict of BigGAN-PyTorch into a biggan `Generator` or `Discriminator` of the same sizes.

    Raises UsageError, and leaves the network unchanged, if names or shapes differ.
    """
    own = network.state_dict()
    names = {key: _their_name(key) for key in own if _their_name(key)}
    missing = sorted(set(names.values()) - set(state))
    unknown = sorted(name for name in set(state) - set(names.values()) if not re.search(r"\.(sv|u)\d+$", name))
    if missing or unknown:
        problem = f"{missing[0]} is missing" if missing else f"{unknown[0]} is not one of its names"
        raise UsageError(
            f"state: expected the state dict of BigGAN-PyTorch for a network of these sizes, but {problem}"
        )
    for key, name in names.items():
        value = state[name][0] if name.endswith(".u0") else state[name]
        if value.shape != own[key].shape:
            raise UsageError(f"state: expected {name} of shape {list(own[key].shape)}, got {list(value.shape)}")
        own[key] = value
    network.load_state_dict(own)
    for _, layer in _normalized(network):
        norm, rows = norm_of(layer), raw_weight(layer).flatten(1)
        norm._v.copy_(F.normalize(rows.T @ norm._u, dim=0, eps=norm.options.eps))
        norm._u.copy_(F.normalize(rows @ norm._v, dim=0, eps=norm.options.eps))


def _their_name(key: str) -> str:
    """The name in BigGAN-PyTorch of an entry of a state dict here; "" if it has none there."""
    for pattern, name in _NAMES:
        if name == "" and re.search(pattern, key):
            return ""
        key = re.sub(pattern, name, key)
    return key


def _normalized(network: nn.Module) -> list[tuple[str, nn.Module]]:
    return [
        (name, layer)
        for name, layer in network.named_modules()
        if isinstance(layer, LAYERS) and norm_of(layer) is not None
    ]


def _sigma(layer: nn.Module) -> Tensor:
    norm = norm_of(layer)
    return norm._u @ raw_weight(layer).detach().flatten(1) @ norm._v
