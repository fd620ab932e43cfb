"""Weights of BasicSR and of the releases before it: super-resolution networks, see fastgan.models.esrgan."""

from __future__ import annotations

from typing import Any

from fastgan.models.checkpoints.contents import State
from fastgan.models.esrgan import RRDBNet, SRVGGNetCompact
from fastgan.models.esrgan.state import from_state


def facts(state: State) -> dict[str, Any]:
    """Scale and channels."""
    network = build(state)
    return {"network": type(network).__name__, "scale": network.scale, "channels": network.channels}


def build(state: State) -> RRDBNet | SRVGGNetCompact:
    """The network of these weights."""
    return from_state(state.tensors)
