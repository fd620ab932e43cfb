"""Autoencoders: images → latents → images, with the state dict names of taming-transformers and latent diffusion.

`VQGAN` has a codebook (Esser et al. 2021, arXiv:2012.09841), `KLAutoencoder` a distribution of latents (Rombach et al.
2022, arXiv:2112.10752), `TinyAutoencoder` neither, and layers that run in real time; `Compressor` rounds latents, whose
probabilities it predicts (Mentzer et al. 2020, arXiv:2006.09965). Called with images [N, C, H, W] in
[-1, 1] they return the reconstructions; `encode`, `decode` and `parts` are their halves, `reconstruct` is a pass of
training. Their attributes: channels, out_channels: of images. latent_channels: of latents. multiple: the latents are
so many times smaller, and H and W are multiples of it. scale: 1. range: (-1, 1).
"""

from fastgan.models.autoencoder.base import Autoencoder, Reconstruction
from fastgan.models.autoencoder.coders import Decoder, Encoder
from fastgan.models.autoencoder.entropy import FactorizedPrior, gaussian_bits
from fastgan.models.autoencoder.hific import Compressor
from fastgan.models.autoencoder.kl import KLAutoencoder
from fastgan.models.autoencoder.quantizer import VectorQuantizer
from fastgan.models.autoencoder.tiny import TinyAutoencoder, TinyDecoder, TinyEncoder
from fastgan.models.autoencoder.vqgan import VQGAN

__all__ = [
    "VQGAN",
    "Autoencoder",
    "Compressor",
    "Decoder",
    "Encoder",
    "FactorizedPrior",
    "KLAutoencoder",
    "Reconstruction",
    "TinyAutoencoder",
    "TinyDecoder",
    "TinyEncoder",
    "VectorQuantizer",
    "gaussian_bits",
]
