"""Inversion and editing with generators that map latents to styles, such as StyleGAN's.

A generator here is a module with mapping(z, c) → w [N, num_ws, w_dim], synthesis(w, noise_mode=...) → images
[N, C, H, W] in [-1, 1], and the attributes `latent` and `num_ws`.
"""

from fastgan.editing.directions import Directions, factorization, from_examples, principal_components
from fastgan.editing.exported import ExportedGenerator
from fastgan.editing.mixing import mixed
from fastgan.editing.projection import Projection, perceptual_distance, project

__all__ = [
    "Directions",
    "ExportedGenerator",
    "Projection",
    "factorization",
    "from_examples",
    "mixed",
    "perceptual_distance",
    "principal_components",
    "project",
]
