"""The memory format that both networks run in."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastgan.engine.observe import preserved
from fastgan.ops._layout import channels_last_strides
from fastgan.train.game import Players


def why_not_channels_last(players: Players, real: Tensor, z: Tensor, y: Tensor | None) -> str:
    """Put both networks into channels_last, in which libraries convolve faster; "" or why they stayed as they were.

    A network that flattens its feature maps by `view` cannot run in it. Leaves buffers and random numbers as they were.
    """
    if real.dim() != 4:
        return "batches are not images"
    networks = players.generator, players.discriminator
    for network in networks:
        _to_channels_last(network)
    try:
        with torch.no_grad(), preserved([b for network in networks for b in network.buffers()]):
            players.judge(players.generate(z, y), y)
            players.judge(real.contiguous(memory_format=torch.channels_last), y)
    except RuntimeError as error:
        for network in networks:
            network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return str(error).splitlines()[0]
    return ""


def _to_channels_last(network: nn.Module) -> None:
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for weight in network.parameters():
        # 1×1 kernels and those of one channel are in both formats, and `to` leaves their strides as they were. By their
        # strides convolutions decide what they return.
        if weight.dim() == 4 and weight.is_contiguous():
            weight.data = weight.data.as_strided(weight.shape, channels_last_strides(weight.shape))
