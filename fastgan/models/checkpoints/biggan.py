"""State dicts of BigGAN-PyTorch, whose sizes follow from names and shapes."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from fastgan.errors import DataError, UsageError
from fastgan.models.biggan import load_biggan_pytorch
from fastgan.models.biggan import networks as biggan
from fastgan.models.checkpoints.contents import State


def facts(state: State) -> dict[str, Any]:
    """Resolution, channels, z, width and classes."""
    if "output_layer.2.weight" in state.tensors:
        return _generator(state)
    return _discriminator(state)


def build(state: State) -> nn.Module:
    """The network. Raises DataError for the variants of BigGAN that are not here."""
    sizes = facts(state)
    kind = biggan.Generator if "latent" in sizes else biggan.Discriminator
    values = {key: value.float() for key, value in state.tensors.items()}
    try:
        # Without memory first: a few small tensors can claim a network of any size, until all shapes are compared.
        with torch.device("meta"):
            load_biggan_pytorch(kind(**sizes), {key: value.to("meta") for key, value in values.items()})
        with torch.random.fork_rng(devices=[]):
            network = kind(**sizes)
        load_biggan_pytorch(network, values)
    except UsageError as error:
        raise DataError(str(error)) from error
    return network


def _generator(state: State) -> dict[str, Any]:
    blocks = _blocks(state)
    rows, part = state.shape("linear.weight", 2)
    multiples = {len(up) - 1: (side, up) for side, up in biggan.UP.items()}
    if blocks not in multiples:
        raise DataError(f"has {blocks} blocks: expected {', '.join(map(str, multiples))} in a generator of BigGAN")
    resolution, up = multiples[blocks]
    classes, embedding = state.shape("shared.weight", 2) if "shared.weight" in state.tensors else (0, 0)
    return {
        "resolution": resolution,
        "channels": state.shape("output_layer.2.weight", 4)[0],
        "latent": part * (blocks + 1),
        "width": rows // 16 // up[0],
        "classes": classes,
        "embedding": embedding,
        "attention": max((8 << i for i in _attention(state)), default=0),
    }


def _discriminator(state: State) -> dict[str, Any]:
    blocks = _blocks(state)
    multiples = {len(down): (side, down) for side, (down, _) in biggan.DOWN.items()}
    if blocks not in multiples:
        raise DataError(f"has {blocks} blocks: expected {', '.join(map(str, multiples))} in a discriminator of BigGAN")
    resolution, down = multiples[blocks]
    width, channels = state.shape("blocks.0.0.conv1.weight", 4)[:2]
    return {
        "resolution": resolution,
        "channels": channels,
        "width": width // down[0],
        "norm": "spectral" if "blocks.0.0.conv1.u0" in state.tensors else "none",
        "classes": state.shape("embed.weight", 2)[0] if "embed.weight" in state.tensors else 0,
        "attention": max((resolution >> (i + 1) for i in _attention(state)), default=0),
    }


def _blocks(state: State) -> int:
    return len({key.split(".")[1] for key in state.tensors if re.match(r"blocks\.\d+\.", key)})


def _attention(state: State) -> list[int]:
    """The numbers of the blocks after which there is self-attention."""
    found = (re.fullmatch(r"blocks\.(\d{1,2})\.1\.gamma", key) for key in state.tensors)
    return [int(match[1]) for match in found if match]
