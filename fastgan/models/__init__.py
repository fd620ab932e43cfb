"""Generators and critics, one family a file.

`esrgan` holds the networks from images to larger images, and opens files of their weights.

Every other generator maps latents z [N, latent] to images [N, C, H, W] in [-1, 1] and says so in its attributes
`latent` and `image_shape`; every critic maps images to logits [N].
"""

from fastgan.models import esrgan
from fastgan.models.registry import FAMILIES, build

__all__ = ["FAMILIES", "build", "esrgan"]
