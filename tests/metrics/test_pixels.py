import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from fastgan.errors import UsageError
from fastgan.metrics.pixels import psnr, radial_spectrum, spectral_distance, ssim


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_psnr_and_ssim_equal_scikit_image():
    truth = noise(3, 3, 40, 52)
    images = np.clip(truth + np.random.default_rng(1).normal(0, 20, truth.shape), 0, 255).astype(np.uint8)
    pairs = list(zip(images, truth, strict=True))
    expected = [peak_signal_noise_ratio(t, i, data_range=255) for i, t in pairs]
    assert psnr(images, truth).value == pytest.approx(np.mean(expected), rel=1e-9)
    assert psnr(images, truth).error == pytest.approx(np.std(expected, ddof=1) / 3**0.5, rel=1e-6)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    expected = [structural_similarity(i, t, channel_axis=0, **options) for i, t in pairs]
    assert ssim(images, truth).value == pytest.approx(np.mean(expected), rel=1e-9)
    assert psnr(truth, truth).value == 100
    assert ssim(truth, truth).value == pytest.approx(1)
    with pytest.raises(UsageError, match=r"images: expected \[3, 3, 40, 52\], one for each truth"):
        psnr(images[:2], truth)
    with pytest.raises(UsageError, match="at least 11 pixels"):
        ssim(truth[:, :, :9], truth[:, :, :9])


def test_the_spectrum_of_a_sine_wave_peaks_at_its_frequency():
    x = np.arange(32)
    wave = 128 + 100 * np.sin(2 * np.pi * 5 * x / 32)
    images = np.tile(wave.round().astype(np.uint8), (4, 1, 32, 1))
    spectrum = radial_spectrum(images)
    assert spectrum.shape == (4, 16)
    assert int(spectrum[0].argmax()) == 5 - 1
    constant = radial_spectrum(np.full((1, 3, 32, 20), 7, np.uint8))
    assert constant.shape == (1, 10)
    assert torch.isfinite(constant).all()


def test_twice_the_power_is_a_distance_of_three_decibels():
    images = np.random.default_rng(0).normal(0, 20, (400, 1, 16, 16))
    quiet, loud = ((128 + gain * images).round().clip(0, 255).astype(np.uint8) for gain in (1, 2**0.5))
    assert spectral_distance(quiet, loud) == pytest.approx(3.01, abs=0.05)
    assert spectral_distance(quiet, quiet) == 0
    with pytest.raises(UsageError, match="fake: expected images"):
        spectral_distance(quiet, loud[..., :8])
    with pytest.raises(UsageError, match="at least 4 pixels"):
        radial_spectrum(quiet[..., :3])
