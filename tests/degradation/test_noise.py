"""Noise: its mean and spread, in color and gray."""

import numpy as np
import pytest
import torch

from fastgan.degradation import Random, gaussian_noise, poisson_noise

CPU = torch.device("cpu")
N = 200 * 200


def test_gaussian_noise_has_its_own_spread_for_each_image_and_may_be_gray():
    images = torch.full((3, 3, 200, 200), 0.5)
    sigma, gray = torch.tensor([2.0, 20.0, 20.0]), torch.tensor([False, False, True])
    noise = (gaussian_noise(images, sigma, gray, Random(0, CPU)) - 0.5) * 255
    assert noise.std((1, 2, 3)).tolist() == pytest.approx(sigma.tolist(), rel=0.02)
    assert noise.mean((1, 2, 3)).abs().max() < 5 * 20 / N**0.5
    assert torch.equal(noise[2, 0], noise[2, 1])
    assert torch.equal(noise[2, 0], noise[2, 2])
    assert np.corrcoef(noise[1].flatten(1).numpy())[0, 1:] == pytest.approx(0, abs=0.03)


def test_poisson_noise_grows_with_the_root_of_the_brightness_and_of_the_number_of_values():
    """An image of k values counts 2 ** ceil(log2(k)) photons in white: the variance of x is x / photons."""
    for values, photons in ((2, 2), (5, 8), (256, 256)):
        level = torch.linspace(0.25, 0.75, values).mul(255).round().div(255).unique()
        k = len(level)
        photons = 2 ** int(np.ceil(np.log2(k)))
        images = level.repeat_interleave(400 * 400 // k)[: 400 * 400 // k * k].view(1, 1, k, -1)
        scale = torch.tensor([0.02])
        noise = (poisson_noise(images, scale, torch.tensor([False]), Random(0, CPU)) - images) / 0.02
        expected = (level / photons).mean().sqrt()
        assert float(noise.std()) == pytest.approx(float(expected), rel=0.02)
        assert float(noise.mean()) == pytest.approx(0, abs=5 * float(expected) / 400)


def test_gray_poisson_noise_is_that_of_the_gray_image():
    images = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 200, 200) * 0.8
    in_color, gray = (
        poisson_noise(images + 0.1, torch.tensor([0.02]), torch.tensor([each]), Random(0, CPU)) - images - 0.1
        for each in (False, True)
    )
    assert torch.allclose(gray[:, 0], gray[:, 1], atol=1e-6)
    luma = 0.299 * 0.8 + 0.1
    assert float(gray.std()) == pytest.approx(0.02 * luma**0.5, rel=0.03)  # one gray value: one photon in white
    assert float(in_color[0, 0].std()) == pytest.approx(0.02 * (0.9 / 2) ** 0.5, rel=0.03)  # two values
    assert float(in_color[0, 1].std()) == pytest.approx(0.02 * (0.1 / 2) ** 0.5, rel=0.05)


def test_noise_stays_in_range():
    images = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)])
    strong, gray = torch.tensor([100.0, 100.0]), torch.tensor([True, False])
    for noisy in (
        gaussian_noise(images, strong, gray, Random(0, CPU)),
        poisson_noise(images, strong, gray, Random(0, CPU)),
    ):
        assert noisy.min() >= 0
        assert noisy.max() <= 1
    assert torch.equal(poisson_noise(images[:1], strong[:1], gray[:1], Random(0, CPU)), images[:1])  # no light
