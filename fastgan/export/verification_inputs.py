"""Inputs for comparing an exported file with its network: latents, labels, synthetic photographs, noise. numpy only."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from fastgan.runtime import labels
from fastgan.runtime.session import latents
from fastgan.runtime.spec import Inputs, Spec

#: Batch, height and width in pixels, before they are rounded to odd multiples of spec.multiple: larger than what is
#: traced, small, the smallest, and thin. Signals have the length of the width. Exporters have frozen sizes that they
#: traced.
SIZES = ((1, 48, 56), (2, 17, 9), (3, 1, 1), (1, 5, 33))
#: The most output elements of one batch of latents: 64 images of 3×256×256.
_MAX_ELEMENTS = 64 * 3 * 256 * 256
#: Whether a network's activations on a first input of that shape fit into the memory for comparisons.
Fits = Callable[[tuple[int, ...]], bool]


def random_inputs(spec: Spec, n: int, seed: int) -> Inputs:
    """n latents and, for a conditional generator, n labels, evenly spaced from the last class to the first; controls
    are drawn."""
    return (latents(n, spec.latent_shape, seed), *others(spec, n, seed))


def sized_inputs(spec: Spec, shape: tuple[int, ...], seed: int = 0) -> Inputs:
    """Images or signals of a shape, or latents, with labels where the network takes some."""
    if not spec.sizes:
        return random_inputs(spec, shape[0], seed)
    return ((_images if spec.kind == "image" else _signals)(spec, shape, seed), *others(spec, shape[0], seed))


def tracing_inputs(spec: Spec, smallest: int = 1, fits: Fits = lambda shape: True) -> Inputs:
    """The inputs on which a network is traced; no size is 1, which tracers treat as a constant.

    fits: see `verification_batches`; tracing itself computes nothing, and needs no bound.
    """
    if not spec.sizes:
        return random_inputs(spec, 2, seed=0)
    units = [_units(pixels, spec.multiple, max(smallest, least)) for pixels, least in ((21, 2), (29, 3))]
    return sized_inputs(spec, _reduced(spec, 2, units[-len(spec.sizes) :], smallest, fits))


def verification_batches(
    spec: Spec, image_elements: int, smallest: int = 1, fits: Fits = lambda shape: True
) -> Iterator[Inputs]:
    """The batches to compare on, the same at every call.

    image_elements: of one output image. smallest: the least height, width or length that the network accepts, in units
    of spec.multiple. fits: batches and sizes are reduced until it is true, or nothing smaller is left. Latents: batches
    of 1, 3 and 64 (fewer where images are large). Images and signals: batches of 1, 2 and 3 with the sizes of SIZES,
    synthetic photographs and noise in turn.
    """
    if not spec.sizes:
        last = max(4, min(64, _MAX_ELEMENTS // image_elements))
        while last > 4 and not fits((last, *spec.latent_shape)):
            last = max(4, last // 2)
        for batch in (1, 3, last):
            yield random_inputs(spec, batch, seed=batch)
        return
    for i, (batch, height, width) in enumerate(SIZES):
        # The first is larger than what was traced also where spec.multiple is large.
        least = 3 + 2 * (smallest + 1) if i == 0 else smallest
        units = [_units(pixels, spec.multiple, least) | 1 for pixels in (height, width)][-len(spec.sizes) :]
        yield sized_inputs(spec, _reduced(spec, batch, units, smallest, fits), i)


def _reduced(spec: Spec, batch: int, units: list[int], smallest: int, fits: Fits) -> tuple[int, ...]:
    """The shape of the first input, after the batch, then the larger side, were reduced until it fits."""
    while not fits(shape := _shape(spec, batch, units)):
        side = units.index(max(units))
        if batch > 1:
            batch = 1
        elif units[side] > smallest:
            units[side] = max(smallest, units[side] * 4 // 5)
        else:
            break
    return shape


def _shape(spec: Spec, batch: int, units: list[int]) -> tuple[int, ...]:
    return (batch, spec.channels, *(n * spec.multiple for n in units[-len(spec.sizes) :]))


def _units(pixels: int, multiple: int, least: int) -> int:
    return max(round(pixels / multiple), least)


def others(spec: Spec, n: int, seed: int) -> Inputs:
    """The inputs after the first: labels, and controls from [0, 1.5), or where there are many numbers from N(0, 1)."""
    random = np.random.default_rng(seed)
    controls = [
        random.standard_normal((n, one.size), np.float32) if one.size else 1.5 * random.random(n, np.float32)
        for one in spec.controls
    ]
    return (*_labels(spec, n, seed), *controls)


def _labels(spec: Spec, n: int, seed: int) -> Inputs:
    """Labels, evenly spaced from the last class to the first; of vectors, every second is of attributes in [0, 1)."""
    if not spec.classes:
        return ()
    (given,) = labels.given(spec, np.linspace(spec.classes - 1, 0, n).round().astype(np.int64))
    if spec.label_vectors:
        given[1::2] = np.random.default_rng(seed).random(given[1::2].shape, np.float32)
    return (given,)


def _images(spec: Spec, shape: tuple[int, ...], seed: int) -> np.ndarray:
    batch, _, height, width = shape
    low, high = spec.range
    images = [
        noise(height, width, spec.channels, seed + i)
        if (seed + i) % 2
        else synthetic_photo(height, width, spec.channels, i)
        for i in range(batch)
    ]
    return (low + (high - low) * np.stack(images)).astype(np.float32)


def _signals(spec: Spec, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Noise from N(0, 1), and slowly changing values from −11.5 to 2, the logarithms of a mel spectrogram, in turn."""
    x = np.random.default_rng(seed).standard_normal(shape, np.float32)
    if seed % 2 == 0:
        bands, frames = np.meshgrid(np.arange(shape[1]), np.arange(shape[2]), indexing="ij")
        x = 0.1 * x - 4.75 + 6.5 * np.sin(0.1 * bands + 0.05 * frames).astype(np.float32)
    return x


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
