"""Whether real and fake images may go through a discriminator as one batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastgan.engine.capture import preserved
from fastgan.nn import MinibatchDiscrimination, MinibatchStdDev
from fastgan.train.pair import judge

#: Layers whose output for one sample depends on the other samples of the batch, or on chance: while training, and
#: always. The latter say next to nothing before they are trained, so that running them does not tell.
COUPLED = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
COMPARING = (MinibatchDiscrimination, MinibatchStdDev)


def why_not_together(discriminator: nn.Module, real: Tensor, y: Tensor | None = None) -> str:
    """ "" where the discriminator gives each image the same logits alone and in a batch of two halves, else the reason.

    Layers known to tie samples together are found by type, others by running real [N, ...] both ways, with labels y
    where the discriminator takes them. Leaves the discriminator and the random numbers as they were.
    """
    for name, layer in discriminator.named_modules():
        if isinstance(layer, COMPARING) or (isinstance(layer, COUPLED) and layer.training):
            return f"{name or 'the discriminator'} ({type(layer).__name__}) ties the samples of a batch together"
    buffers = list(discriminator.buffers())
    before = [buffer.clone() for buffer in buffers]

    def run(images: Tensor, y: Tensor | None) -> Tensor:
        # From the same state each time: a spectral norm moves on with every run. Random numbers go on, to be told.
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
        return judge(discriminator, images, y)[0]

    other = real.flip(0) * 0.5
    y_other = None if y is None else y.flip(0)
    y_both = None if y is None else torch.cat([y, y.flip(0)])
    # The random numbers too: a resumed run looks again, and is to go on with the ones that come next.
    with torch.no_grad(), preserved(buffers):
        first, second = run(real, y), run(other, y_other)
        try:
            both = run(torch.cat([real, other]), y_both)
        except RuntimeError as refusal:
            return f"it cannot take two batches at once ({str(refusal).splitlines()[0]})"
    if first.dim() == 0 or both.shape != (2 * first.shape[0], *first.shape[1:]):
        return f"logits of a double batch are {list(both.shape)}, of a single one {list(first.shape)}"
    apart = torch.cat([first, second]).float()
    error = float((both.float() - apart).norm() / (apart.norm() + 1e-12))
    if not error <= 1e-4:
        return f"its logits change by {error:.1e} when another batch is beside"
    return ""
