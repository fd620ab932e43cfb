"""PSNR and SSIM on brightness and without borders, as BasicSR computes them."""

import numpy as np
import pytest
import torch
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from fastgan.errors import UsageError
from fastgan.metrics.image_quality import luma, pixels, psnr, ssim


def pair(n=2, channels=3, height=30, width=36):
    source = np.random.default_rng(0)
    truth = source.integers(0, 256, (n, channels, height, width)).astype(np.uint8)
    images = np.clip(truth + source.normal(0, 20, truth.shape), 0, 255).astype(np.uint8)
    return images, truth


def brightness(image):
    return rgb2ycbcr(image.transpose(1, 2, 0))[..., 0]


@pytest.mark.parametrize("border", [0, 4])
@pytest.mark.parametrize("y", [False, True])
def test_against_scikit_image(border, y):
    images, truth = pair()
    inside = np.s_[border : 30 - border, border : 36 - border]
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    decibels, similar = [], []
    for a, b in zip(images, truth, strict=True):
        a, b = (brightness(x)[inside] if y else x.transpose(1, 2, 0)[inside].astype(float) for x in (a, b))
        decibels.append(peak_signal_noise_ratio(b, a, data_range=255))
        similar.append(structural_similarity(a, b, channel_axis=None if y else 2, **options))
    given = torch.from_numpy(images), torch.from_numpy(truth)
    np.testing.assert_allclose(psnr(*given, border=border, y=y).numpy(), decibels, rtol=1e-9)
    np.testing.assert_allclose(ssim(*given, border=border, y=y).numpy(), similar, rtol=1e-9)
    assert psnr(given[0], given[0]).tolist() == [100, 100]


def test_brightness_of_black_and_white():
    ends = torch.tensor([0.0, 255.0], dtype=torch.float64).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    assert luma(ends).flatten().tolist() == pytest.approx([16, 235])


def test_pixels_are_those_of_a_file():
    images = torch.tensor([-1.2, -1.0, -0.001, 0.0, 0.5, 1.0, 3.0])
    assert pixels(images).tolist() == [0, 0, 127, 128, 191, 255, 255]
    assert pixels(torch.tensor([0.0, 0.5, 1.0]), (0, 1)).tolist() == [0, 128, 255]


def test_bad_input():
    images, truth = (torch.from_numpy(x) for x in pair())
    for call, message in (
        (lambda: psnr(images[:1], truth), r"images: expected .* of the targets' shape \[2, 3, 30, 36\], got \[1, 3"),
        (lambda: psnr(images, truth, border=15), r"border: expected a number from 0 .* sides \[30, 36\], got 15"),
        (lambda: psnr(images, truth, border=-1), "border: expected a number from 0"),
        (lambda: ssim(images[:, :1], truth[:, :1], y=True), r"images: expected RGB images \[N, 3, H, W\]"),
        (lambda: ssim(images, truth, border=10), "sides of at least 11 pixels"),
    ):
        with pytest.raises(UsageError, match=message):
            call()
