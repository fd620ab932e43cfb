"""The memory format that both networks run in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fastgan.engine.capture import preserved
from fastgan.train.step import Players


def why_not_channels_last(players: Players, real: Tensor, z: Tensor, y: Tensor | None) -> str:
    """Put both networks into channels_last, in which libraries convolve faster; "" or why they stayed as they were.

    A network that flattens its feature maps by `view` cannot run in it. Leaves buffers and random numbers as they were.
    """
    if real.dim() != 4:
        return "batches are not images"
    networks = players.generator, players.discriminator
    for network in networks:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch = laid_out({"real": real, "z": z} | ({} if y is None else {"y": y}))
    real, z, y = batch["real"], batch["z"], batch.get("y")
    try:
        buffers = [b for network in networks for b in network.buffers()]
        with torch.no_grad(), preserved(buffers), _projections(*networks) as projections:
            players.judge(players.generate(z, y), y)
            players.judge(real, y)
    except RuntimeError as error:
        for network in networks:
            network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return str(error).splitlines()[0]
    # PyTorch's compiler takes the gradient of such a weight for channels_last too, which cuDNN, seeing an input that
    # could be in either format, makes contiguous: the compiled step would stop at its own check of the strides.
    for layer in projections:
        layer.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return ""


@contextmanager
def _projections(*networks: nn.Module) -> Iterator[list[nn.Module]]:
    """Collects the transposed convolutions that take a latent as an image of one pixel."""
    found: list[nn.Module] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        x = inputs[0] if inputs else named["input"]
        if x.shape[2:] == (1, 1):
            found.append(layer)

    layers = [m for network in networks for m in network.modules() if isinstance(m, nn.ConvTranspose2d)]
    handles = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def laid_out(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A batch whose images, and sources, are in channels_last. What is there twice, as z and y, stays one tensor."""
    laid = {t: t.contiguous(memory_format=torch.channels_last) for t in batch.values() if t.dim() == 4}
    return {name: laid.get(t, t) for name, t in batch.items()}
