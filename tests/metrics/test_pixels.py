"""What is computed of pixels alone: the resizes, spectra, PSNR and SSIM, repeated images."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from fastgan.errors import UsageError
from fastgan.metrics.nearest import repeats, thumbnail_blocks, thumbnails
from fastgan.metrics.paired import psnr, ssim
from fastgan.metrics.resize import resize
from fastgan.metrics.spectrum import radial_spectrum, spectral_distance


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(("height", "width", "size"), [(28, 28, 299), (32, 45, 224), (333, 301, 224), (7, 1, 5)])
def test_clean_resize_is_pillow_in_float(height, width, size):
    image = noise(1, 1, height, width)
    theirs = Image.fromarray(image[0, 0].astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC)
    ours = resize(torch.from_numpy(image), size, "clean")
    assert ours.dtype == torch.float32
    assert np.abs(ours[0, 0].numpy() - np.asarray(theirs)).max() < 2e-4
    assert ours.max() > 255 or ours.min() < 0 or size < 10  # neither clipped nor rounded


def test_legacy_resize_takes_corners():
    line = torch.tensor([0.0, 10.0]).view(1, 1, 1, 2).repeat(1, 1, 2, 1)
    assert resize(line, 4, "legacy")[0, 0, 0].tolist() == [0, 5, 10, 10]  # TensorFlow 1's: nothing beyond the last
    image = noise(1, 3, 8, 8)
    assert np.array_equal(resize(torch.from_numpy(image), 4, "legacy").numpy(), image[:, :, ::2, ::2])
    with pytest.raises(UsageError, match="filter: expected one of clean, legacy"):
        resize(line, 4, "bilinear")


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


def test_a_wave_is_found_at_its_frequency():
    x = np.arange(32)
    wave = 128 + 100 * np.sin(2 * np.pi * 5 * x / 32)
    images = np.tile(wave.round().astype(np.uint8), (4, 1, 32, 1))
    spectrum = radial_spectrum(images)
    assert spectrum.shape == (4, 16)
    assert int(spectrum[0].argmax()) == 5 - 1
    constant = radial_spectrum(np.full((1, 3, 32, 20), 7, np.uint8))
    assert constant.shape == (1, 10)
    assert torch.isfinite(constant).all()


def test_power_that_is_doubled_is_three_decibels():
    images = np.random.default_rng(0).normal(0, 20, (400, 1, 16, 16))
    quiet, loud = ((128 + gain * images).round().clip(0, 255).astype(np.uint8) for gain in (1, 2**0.5))
    assert spectral_distance(quiet, loud) == pytest.approx(3.01, abs=0.05)
    assert spectral_distance(quiet, quiet) == 0
    with pytest.raises(UsageError, match="fake: expected images"):
        spectral_distance(quiet, loud[..., :8])
    with pytest.raises(UsageError, match="at least 4 pixels"):
        radial_spectrum(quiet[..., :3])


def test_repeats_are_found_and_chance_is_not(halves):
    """Of 300 samples 30 are training images, slightly changed, and 20 are one and the same picture."""
    training, unseen = halves
    samples = unseen.images[:300].copy()
    samples[:30] = np.clip(training.images[1000:1030].astype(int) + 2, 0, 255)
    samples[280:] = samples[279]
    pool = thumbnail_blocks(training.images)
    found = repeats(thumbnails(training.images[:500]), thumbnails(samples), pool)
    assert found.doubles == pytest.approx(21 / 300, abs=0.005)
    assert found.copied == pytest.approx(0.1, abs=0.01)
    assert {(i, 1000 + i) for i in range(30)} <= set(found.copies)
    assert found.real < 0.01
    with pytest.raises(UsageError, match="fake: expected at least 2 samples"):
        repeats(thumbnails(samples), thumbnails(samples[:1]))
