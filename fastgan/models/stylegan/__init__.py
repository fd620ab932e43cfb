"""The StyleGAN family: StyleGAN, and StyleGAN2 and StyleGAN3 with the state dicts of the public checkpoints."""

from fastgan.models.stylegan.discriminator import Discriminator
from fastgan.models.stylegan.stylegan1 import Discriminator1, Generator1
from fastgan.models.stylegan.stylegan2 import Generator
from fastgan.models.stylegan.stylegan3 import Generator3

__all__ = ["Discriminator", "Discriminator1", "Generator", "Generator1", "Generator3"]
