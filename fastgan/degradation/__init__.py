"""Low-resolution images made of sharp ones on the device, for super-resolution: blur, resizing, noise, JPEG.

Every function takes float32 images [N, C, H, W] in [0, 1], C 1 (gray) or 3 (RGB), on any device, and draws from a
`Random`. None waits for the device.
"""

from fastgan._util.random import Random
from fastgan.degradation.blur import gaussian_kernels, plateau_kernels, sinc_kernels
from fastgan.degradation.compression import jpeg
from fastgan.degradation.crops import random_crop
from fastgan.degradation.degradation import Degradation
from fastgan.degradation.filters import filter_each, sharpen
from fastgan.degradation.noise import gaussian_noise, poisson_noise
from fastgan.degradation.pool import PairPool
from fastgan.degradation.resizing import downscale_bicubic, resize
from fastgan.degradation.settings import Settings, read_settings

__all__ = [
    "Degradation",
    "PairPool",
    "Random",
    "Settings",
    "downscale_bicubic",
    "filter_each",
    "gaussian_kernels",
    "gaussian_noise",
    "jpeg",
    "plateau_kernels",
    "poisson_noise",
    "random_crop",
    "read_settings",
    "resize",
    "sharpen",
    "sinc_kernels",
]
