"""Inputs for comparing an exported file with its network: latents, labels, synthetic photographs, noise. numpy only."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fastgan.runtime.session import latents
from fastgan.runtime.spec import Inputs, Spec

#: Batch, height and width in pixels, before they are rounded to odd multiples of spec.multiple: larger than what is
#: traced, small, the smallest, and thin. Exporters have frozen sizes that they traced.
SIZES = ((1, 48, 56), (2, 17, 9), (3, 1, 1), (1, 5, 33))
#: The most output elements of one batch of latents: 64 images of 3×256×256.
_MAX_ELEMENTS = 64 * 3 * 256 * 256


def random_inputs(spec: Spec, n: int, seed: int) -> Inputs:
    """n latents and, for a conditional generator, n labels, evenly spaced from the last class to the first."""
    z = latents(n, spec.latent_shape, seed)
    return (z, np.linspace(spec.classes - 1, 0, n).round().astype(np.int64)) if spec.classes else (z,)


def tracing_inputs(spec: Spec, smallest: int = 1) -> Inputs:
    """The inputs on which a network is traced; no size is 1, which tracers treat as a constant."""
    if spec.kind == "latent":
        return random_inputs(spec, 2, seed=0)
    height, width = (_units(pixels, spec.multiple, max(smallest, least)) for pixels, least in ((21, 2), (29, 3)))
    return (_images(spec, 2, height * spec.multiple, width * spec.multiple, 0),)


def verification_batches(spec: Spec, image_elements: int, smallest: int = 1) -> Iterator[Inputs]:
    """The batches to compare on, the same at every call.

    image_elements: of one output image. smallest: the least height and width that the network accepts, in units of
    spec.multiple. Latents: batches of 1, 3 and 64 (fewer where images are large). Images: batches of 1, 2 and 3 with
    the sizes of SIZES, synthetic photographs and noise in turn.
    """
    if spec.kind == "latent":
        for batch in (1, 3, max(4, min(64, _MAX_ELEMENTS // image_elements))):
            yield random_inputs(spec, batch, seed=batch)
        return
    for i, (batch, height, width) in enumerate(SIZES):
        # The first is larger than what was traced also where spec.multiple is large.
        least = 3 + 2 * (smallest + 1) if i == 0 else smallest
        units = [_units(pixels, spec.multiple, least) | 1 for pixels in (height, width)]
        yield (_images(spec, batch, units[0] * spec.multiple, units[1] * spec.multiple, i),)


def _units(pixels: int, multiple: int, least: int) -> int:
    return max(round(pixels / multiple), least)


def _images(spec: Spec, batch: int, height: int, width: int, seed: int) -> np.ndarray:
    low, high = spec.range
    images = [
        noise(height, width, spec.channels, seed + i)
        if (seed + i) % 2
        else synthetic_photo(height, width, spec.channels, i)
        for i in range(batch)
    ]
    return (low + (high - low) * np.stack(images)).astype(np.float32)


def synthetic_photo(height: int, width: int, channels: int, seed: int = 0) -> np.ndarray:
    """An image with the features of a photograph, float32 [C, H, W] in [0, 1]: gradients, hard and soft edges, fine
    stripes, grain, black and white. Deterministic."""
    random = np.random.default_rng(seed)
    y, x = np.meshgrid(np.arange(height) / max(height, 48), np.arange(width) / max(width, 48), indexing="ij")
    planes = []
    for channel in range(channels):
        plane = 0.55 + 0.3 * np.sin(2.1 * x + 1.3 * y + channel) - 0.25 * y
        for _ in range(4):  # overlapping discs
            center_y, center_x, radius, value, softness = random.uniform((0, 0, 0.08, 0, 0.002), (1, 1, 0.3, 1, 0.03))
            inside = 1 / (1 + np.exp(np.clip((np.hypot(y - center_y, x - center_x) - radius) / softness, -50, 50)))
            plane = plane * (1 - inside) + value * inside
        stripes = (x > 0.6) & (y > 0.5)
        plane = np.where(stripes, 0.5 + 0.45 * np.sign(np.sin(60 * (x + 0.3 * y))), plane)
        planes.append(plane + random.normal(0, 0.02, plane.shape))
    return np.clip(planes, 0, 1).astype(np.float32)


def noise(height: int, width: int, channels: int, seed: int = 0) -> np.ndarray:
    """Uniform noise, float32 [C, H, W] in [0, 1)."""
    return np.random.default_rng(seed).random((channels, height, width), np.float32)
