"""Weights of BasicSR and of the releases before it: super-resolution networks, see fastgan.models.esrgan."""

from __future__ import annotations

import functools
import re
from typing import Any

from fastgan.errors import DataError
from fastgan.models.checkpoints.build import built
from fastgan.models.checkpoints.contents import State
from fastgan.models.esrgan import UNetDiscriminator, VGGDiscriminator
from fastgan.models.esrgan.discriminators import SIDES
from fastgan.models.esrgan.state import from_state


def facts(state: State) -> dict[str, Any]:
    """The network's class and its arguments."""
    network = build(state)
    return {"network": type(network).__name__, **network.arguments}


def build(state: State) -> Any:
    """The network of these weights: a generator or a discriminator."""
    if "conv1.weight_orig" in state.tensors:
        width, channels = state.shape("conv0.weight", 4)[:2]
        return built(functools.partial(UNetDiscriminator, channels, width), state.tensors)
    if "conv0_0.weight" in state.tensors:
        return built(_vgg(state), state.tensors, ("num_batches_tracked",))
    scale = state.arguments.get("scale")
    return from_state(state.tensors, scale=scale if isinstance(scale, int) else None)


def _vgg(state: State) -> functools.partial[VGGDiscriminator]:
    width, channels = state.shape("conv0_0.weight", 4)[:2]
    levels = sum(re.fullmatch(r"conv\d{1,2}_0\.weight", name) is not None for name in state.tensors)
    if not 1 <= levels <= len(SIDES):
        raise DataError(f"has {levels} levels of convolutions: expected 1 to {len(SIDES)}")
    return functools.partial(VGGDiscriminator, channels, width, SIDES[levels - 1])
