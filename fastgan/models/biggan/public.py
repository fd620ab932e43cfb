"""State dicts in the layout of BigGAN-PyTorch (github.com/ajbrock/BigGAN-PyTorch).

There a spectral norm keeps one vector, `u0` [1, outputs], and takes a step of power iteration whenever it runs, in eval
mode too; ours keeps two and iterates in training alone. What is loaded from there computes what it computed there;
what is given there is one step further.
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


def public_state(network: nn.Module) -> dict[str, Tensor]:
    """The state dict of a `Generator` or `Discriminator` of biggan as BigGAN-PyTorch's of these sizes has it."""
    state = {}
    for key, value in network.state_dict().items():
        name = _public_name(key)
        if name:
            state[name] = value[None].clone() if name.endswith(".u0") else value.clone()
    for key, layer in _normalized(network):
        state[_public_name(f"{key}.parametrizations.weight.original")[: -len("weight")] + "sv0"] = _sigma(layer)[None]
    return state


@torch.no_grad()
def load_public(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put a state dict of BigGAN-PyTorch into a `Generator` or `Discriminator` of biggan with the same sizes.

    Raises UsageError, with the network as it was, where names or shapes differ.
    """
    own = network.state_dict()
    wanted = {key: _public_name(key) for key in own if _public_name(key)}
    missing = sorted(set(wanted.values()) - set(state))
    foreign = sorted(name for name in set(state) - set(wanted.values()) if not re.search(r"\.(sv|u)\d+$", name))
    if missing or foreign:
        what = f"{missing[0]} is missing" if missing else f"{foreign[0]} is not known here"
        raise UsageError(f"state: expected the layout of BigGAN-PyTorch for a network of these sizes, but {what}")
    for key, name in wanted.items():
        value = state[name][0] if name.endswith(".u0") else state[name]
        if value.shape != own[key].shape:
            raise UsageError(f"state: expected {name} of shape {list(own[key].shape)}, got {list(value.shape)}")
        own[key] = value
    network.load_state_dict(own)
    for _, layer in _normalized(network):
        norm, rows = norm_of(layer), raw_weight(layer).flatten(1)
        norm._v.copy_(F.normalize(rows.T @ norm._u, dim=0, eps=norm.options.eps))
        norm._u.copy_(F.normalize(rows @ norm._v, dim=0, eps=norm.options.eps))


def _public_name(key: str) -> str:
    """The name that a tensor of ours has there; "" where it has none."""
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
