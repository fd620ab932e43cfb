"""Generators and discriminators, one family a file.

`esrgan` holds the networks from images to larger images, and opens files of their weights.

Every other generator maps latents z [N, latent], and labels y int64 [N] where `classes` is not 0, to images
[N, C, H, W] meant for [-1, 1], and says so in its attributes `latent`, `image_shape` and `classes`. Every discriminator maps
images, and labels where `classes` is not 0, to logits [N]; one with `auxiliary=True` maps images to logits [N] and
class logits [N, classes].
"""

from fastgan.models import biggan, esrgan
from fastgan.models.registry import FAMILIES, build

__all__ = ["FAMILIES", "biggan", "build", "esrgan"]
