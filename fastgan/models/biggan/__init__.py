"""BigGAN (Brock, Donahue and Simonyan 2019, arXiv:1809.11096), at 32 to 512.

The networks, what is special about sampling from them (`truncated_latents`, `standing_statistics`), and the layout of
the public PyTorch implementation, BigGAN-PyTorch (`public_state`, `load_public`).
"""

from fastgan.models.biggan.networks import Discriminator, Generator, build
from fastgan.models.biggan.public import load_public, public_state
from fastgan.models.biggan.sampling import standing_statistics, truncated_latents

__all__ = [
    "Discriminator",
    "Generator",
    "build",
    "load_public",
    "public_state",
    "standing_statistics",
    "truncated_latents",
]
