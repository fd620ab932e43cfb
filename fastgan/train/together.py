"""Whether real and fake images may go through a critic as one batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Layers whose output for one sample depends on the other samples of the batch, or on chance.
COUPLED = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)


def why_not_together(critic: nn.Module, real: Tensor) -> str:
    """ "" where the critic gives each image the same logits alone and in a batch of two halves, else the reason.

    Layers known to tie samples together are found by type, others by running real [N, ...] both ways. Leaves the
    critic and the random numbers as they were.
    """
    for name, layer in critic.named_modules():
        if isinstance(layer, COUPLED) and layer.training:
            return f"{name or 'the critic'} ({type(layer).__name__}) ties the samples of a batch together"
    buffers = {name: buffer.clone() for name, buffer in critic.named_buffers()}

    def run(images: Tensor) -> Tensor:
        # From the same state each time: a spectral norm moves on with every run.
        for name, buffer in critic.named_buffers():
            buffer.copy_(buffers[name])
        return critic(images)

    other = real.flip(0) * 0.5
    devices = [real.device.index] if real.device.type == "cuda" else []
    # A resumed run looks again, and must draw the numbers that it would have drawn without looking.
    with torch.no_grad(), torch.random.fork_rng(devices):
        first, second, both = run(real), run(other), run(torch.cat([real, other]))
        for name, buffer in critic.named_buffers():
            buffer.copy_(buffers[name])
    if both.shape[0] != 2 * first.shape[0] or both.shape[1:] != first.shape[1:]:
        return f"logits of a double batch are {list(both.shape)}, of a single one {list(first.shape)}"
    apart = torch.cat([first, second]).float()
    error = float((both.float() - apart).norm() / (apart.norm() + 1e-12))
    if not error <= 1e-4:
        return f"its logits change by {error:.1e} when another batch is beside"
    return ""
