"""Blur kernels against formulas written for one kernel in numpy, and filtering against scipy."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage, special

from fastgan.degradation import Random, filter_each, gaussian_kernels, plateau_kernels, sharpen, sinc_kernels
from fastgan.degradation.blur import random_kernels, random_sinc
from fastgan.degradation.filters import mirrored

CPU = torch.device("cpu")
SIZE = 11


def distance(across, along, angle):
    """xᵀ Σ⁻¹ x with Σ = R diag(across², along²) Rᵀ, by matrices."""
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    inverse = np.linalg.inv(rotation @ np.diag([across**2, along**2]) @ rotation.T)
    offset = np.arange(SIZE) - SIZE // 2
    points = np.stack(np.meshgrid(offset, offset), -1)
    return np.einsum("yxi,ij,yxj->yx", points, inverse, points)


def kernels(*values):
    return [torch.tensor(each) for each in zip(*values, strict=True)]


@pytest.mark.parametrize("family", ["gaussian", "generalized", "plateau"])
def test_kernels_equal_their_formulas(family):
    given = [(2.0, 0.7, 0.6, 0.5), (0.3, 3.0, -2.5, 3.7), (1.5, 1.5, 1.0, 1.0)]
    across, along, angle, shape = kernels(*given)
    if family == "plateau":
        made = plateau_kernels(SIZE, across, along, angle, shape)
    else:
        made = gaussian_kernels(SIZE, across, along, angle, shape if family == "generalized" else None)
    for kernel, (a, b, theta, beta) in zip(made, given, strict=True):
        q = distance(a, b, theta)
        expected = {
            "gaussian": np.exp(-q / 2),
            "generalized": np.exp(-(q**beta) / 2),
            "plateau": 1 / (1 + q**beta),
        }[family]
        np.testing.assert_allclose(kernel, expected / expected.sum(), atol=2e-6)


def test_the_low_pass_filter_equals_its_formula_and_passes_only_low_frequencies():
    cutoff = torch.tensor([math.pi / 3, 2.5])
    for kernel, omega in zip(sinc_kernels(SIZE, cutoff), cutoff.tolist(), strict=True):
        offset = np.arange(SIZE) - SIZE // 2
        r = np.hypot(*np.meshgrid(offset, offset))
        with np.errstate(invalid="ignore"):
            expected = omega * special.j1(omega * r) / (2 * np.pi * r)
        expected[SIZE // 2, SIZE // 2] = omega**2 / (4 * np.pi)
        np.testing.assert_allclose(kernel, expected / expected.sum(), atol=2e-6)
    (wide,) = sinc_kernels(61, torch.tensor([math.pi / 3]))
    response = np.abs(np.fft.fft2(wide.numpy(), s=(240, 240)))[0]
    assert response[:25].min() > 0.8  # of π / 3, which is 40 of 240
    assert response[60:121].max() < 0.1


def test_each_image_is_filtered_with_its_own_kernel_and_mirrored_at_its_edges():
    generator = torch.Generator().manual_seed(0)
    images, own = torch.rand(3, 3, 9, 14, generator=generator), torch.rand(3, 5, 5, generator=generator)
    made = filter_each(images, own)
    for n in range(3):
        for c in range(3):
            expected = ndimage.correlate(images[n, c].double().numpy(), own[n].double().numpy(), mode="mirror")
            np.testing.assert_allclose(made[n, c], expected, atol=1e-5)


@pytest.mark.parametrize(("edge_twice", "mode"), [(False, "reflect"), (True, "symmetric")])
@pytest.mark.parametrize("side", [1, 2, 7])
def test_images_smaller_than_the_padding_are_mirrored_again_and_again(edge_twice, mode, side):
    images = torch.arange(2.0 * side * 3).view(1, 2, side, 3)
    expected = np.pad(images.numpy(), ((0, 0), (0, 0), (5, 5), (5, 5)), mode=mode)
    np.testing.assert_array_equal(mirrored(images, 5, edge_twice=edge_twice), expected)


def test_random_kernels_are_of_the_wanted_kinds_and_sizes():
    def drawn(kinds, sinc=0.0, n=400, sigma=(0.5, 3.0)):
        return random_kernels(Random(0, CPU), n, 21, kinds, sinc, sigma, (0.5, 4.0), (1.0, 2.0)).double()

    every = drawn((0.45, 0.25, 0.12, 0.03, 0.12, 0.03), sinc=0.1)
    torch.testing.assert_close(every.sum((1, 2)), torch.ones(400, dtype=torch.float64))
    # Symmetric about the center, and zero outside of sides from 7 to 21, each about as often.
    assert torch.allclose(every, every.flip(1, 2), atol=1e-7)
    plateaus = drawn((0, 0, 0, 0, 1, 0), sigma=(3.0, 3.0))
    sides = (plateaus[:, 10] > 0).sum(1)
    assert set(sides.tolist()) == {7, 9, 11, 13, 15, 17, 19, 21}
    assert torch.bincount(sides).max() < 2 * 400 / 8
    assert (plateaus[:, 10, 11] == plateaus[:, 11, 10]).all()  # round
    ellipses = drawn((0, 1, 0, 0, 0, 0))
    assert (ellipses[:, 10, 11] != ellipses[:, 11, 10]).float().mean() > 0.95
    assert (drawn((1, 0, 0, 0, 0, 0)) >= 0).all()
    assert (drawn((1, 0, 0, 0, 0, 0), sinc=1.0).amin((1, 2)) < 0).all()  # rings


def test_the_final_filter_is_the_unit_impulse_where_it_is_not_drawn():
    impulse = torch.zeros(21, 21)
    impulse[10, 10] = 1
    assert torch.equal(random_sinc(Random(0, CPU), 4, 21, 0.0), impulse.expand(4, 21, 21))
    drawn = random_sinc(Random(0, CPU), 400, 21, 0.8)
    share = (drawn == impulse).all(2).all(1).float().mean()
    assert 0.14 < share < 0.26


@pytest.mark.parametrize("channels", [1, 3])
def test_sharpening_equals_unsharp_masking_with_a_blurred_mask(channels):
    rng = np.random.default_rng(0)
    images = ndimage.gaussian_filter(rng.random((2, channels, 40, 56)), (0, 0, 2, 2)) * 3 - 1
    images = np.clip(images, 0, 1).astype(np.float32)

    def blurred(x):
        taps = np.exp(-0.5 * ((np.arange(51) - 25) / 8.0) ** 2)
        taps /= taps.sum()
        for axis in (2, 3):
            x = ndimage.correlate1d(x, taps, axis, mode="mirror")
        return x

    removed = images - blurred(images)
    mask = blurred((np.abs(removed) * 255 > 10).astype(np.float64))
    expected = mask * np.clip(images + 0.5 * removed, 0, 1) + (1 - mask) * images
    made = sharpen(torch.from_numpy(images))
    np.testing.assert_allclose(made, expected, atol=1e-3)  # a pixel at the threshold moves the mask by 1/400
    assert np.abs(made.numpy() - images).max() > 0.02
