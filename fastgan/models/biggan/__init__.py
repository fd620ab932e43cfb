"""BigGAN (Brock, Donahue and Simonyan 2019, arXiv:1809.11096), at 32×32 to 512×512.

The networks, functions for sampling from them (`truncated_latents`, `standing_statistics`), and conversion of state
dicts from and to BigGAN-PyTorch, its authors' PyTorch implementation (`load_biggan_pytorch`, `to_biggan_pytorch`).
"""

from fastgan.models.biggan.biggan_pytorch import load_biggan_pytorch, to_biggan_pytorch
from fastgan.models.biggan.networks import Discriminator, Generator, build
from fastgan.models.biggan.sampling import standing_statistics, truncated_latents

__all__ = [
    "Discriminator",
    "Generator",
    "build",
    "load_biggan_pytorch",
    "standing_statistics",
    "to_biggan_pytorch",
    "truncated_latents",
]
