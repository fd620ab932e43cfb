"""Packing: the discriminator classifies several images together, so that it sees a lack of diversity."""

from __future__ import annotations

from torch import Tensor

from fastgan.errors import UsageError


def packed(images: Tensor, m: int) -> Tensor:
    """[N, C, ...] → [N/m, m·C, ...], m images after each other stacked in channels.

    PacGAN, Lin et al. 2018 (arXiv:1712.04086, section 3). Raises UsageError where N is not divisible.
    """
    if m == 1:
        return images
    if len(images) % m:
        raise UsageError(
            f"pack: a batch of {len(images)} images cannot be put in packs of {m}; give batches that are divisible"
        )
    return images.reshape(len(images) // m, m * images.shape[1], *images.shape[2:])
