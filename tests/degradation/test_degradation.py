"""The three kinds of degradation as a whole."""

import numpy as np
import pytest
import torch

from fastgan.degradation import Degradation, Random, Settings, downscale_bicubic
from fastgan.errors import UsageError

CPU = torch.device("cpu")
RANDOM_KINDS = ("first-order", "second-order")


def photo_like(n, channels, height, width):
    """Smooth images with edges, in [0, 1]."""
    y, x = torch.meshgrid(torch.arange(height) / 20, torch.arange(width) / 20, indexing="ij")
    phase = torch.arange(n * channels).view(n, channels, 1, 1) / 3
    return (0.5 + 0.3 * torch.sin(2 * x + phase) + 0.2 * (torch.cos(y * 3 + phase) > 0.3)).clamp(0, 1)


def test_bicubic_is_matlabs_downscaling_rounded_to_8_bits():
    images = photo_like(2, 3, 24, 32)
    low = Degradation(4, "bicubic").apply(images, Random(0, CPU))
    expected = (downscale_bicubic(images, 4) * 255).round().clamp(0, 255) / 255
    assert torch.equal(low, expected)


@pytest.mark.parametrize("kind", RANDOM_KINDS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("scale", [1, 2, 4])
def test_results_are_images_of_8_bits_that_resemble_their_originals(kind, channels, scale):
    images, random = photo_like(4, channels, 64, 96), Random(1, CPU)
    degradation = Degradation(scale, kind)
    clean = downscale_bicubic(images, scale)
    for _ in range(4):
        low = degradation.apply(images, random)
        assert low.shape == clean.shape
        assert low.dtype == torch.float32
        torch.testing.assert_close(low * 255, (low * 255).round(), atol=1e-4, rtol=0)
        assert 0 <= low.min() <= low.max() <= 1
        error = (low - clean).abs().mean((1, 2, 3))
        assert (error > 0.002).all()
        assert (error < 0.25).all()
        assert (low.mean((1, 2, 3)) - clean.mean((1, 2, 3))).abs().max() < 0.1


@pytest.mark.parametrize("kind", RANDOM_KINDS)
def test_the_same_random_state_gives_the_same_images_and_another_one_others(kind):
    images, degradation = photo_like(2, 3, 32, 32), Degradation(2, kind)
    first, again, other = (degradation.apply(images, Random(seed, CPU)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    # The images of a batch have different degradations.
    same = degradation.apply(images[:1].expand(2, -1, -1, -1), Random(0, CPU))
    assert not torch.equal(same[0], same[1])


@pytest.mark.parametrize("kind", RANDOM_KINDS)
def test_two_ranks_see_what_one_does_with_a_batch_as_large(kind):
    images, degradation = photo_like(4, 3, 32, 40), Degradation(2, kind)
    alone, ranks = Random(5, CPU), [Random(5, CPU, rank, 2) for rank in range(2)]
    for _ in range(6):
        expected = degradation.apply(images, alone)
        found = torch.cat([degradation.apply(images[2 * r : 2 * r + 2], ranks[r]) for r in range(2)])
        # Sums in another order may move a value across a rounding step.
        assert ((found - expected).abs() > 0.5 / 255).float().mean() < 0.01


def test_small_images_are_degraded_too():
    """Kernels of 21 pixels are larger than what is left of these after resizing."""
    random = Random(0, CPU)
    for _ in range(20):
        low = Degradation(4).apply(torch.rand(2, 3, 8, 16), random)
        assert low.shape == (2, 3, 2, 4)
        assert low.isfinite().all()


def only(**changes):
    """Settings under which nothing happens but what `changes` says."""
    return Settings(**{
        "blur_sigma": (1e-3, 1e-3), "kernel_prob": (1, 0, 0, 0, 0, 0), "sinc_prob": 0.0, "resize_prob": (0, 0, 1),
        "noise_range": (0, 0), "gaussian_noise_prob": 1.0, "jpeg_range": (100, 100), "second_blur_prob": 0.0,
        "resize_prob2": (0, 0, 1), "noise_range2": (0, 0), "gaussian_noise_prob2": 1.0, "jpeg_range2": (100, 100),
        "final_sinc_prob": 0.0, "resize_modes": ("area",), **changes,
    })  # fmt: skip


def test_each_setting_does_its_own_and_nothing_else():
    images = photo_like(8, 3, 48, 48)

    def degraded(**changes):
        return Degradation(1, "second-order", only(**changes)).apply(images, Random(0, CPU))

    nothing = degraded()
    assert (nothing - images).abs().mean() < 4 / 255  # of JPEG at quality 100, which halves the chroma
    for changes in (
        {"blur_sigma": (2.0, 2.0)},
        {"blur_sigma2": (2.0, 2.0), "second_blur_prob": 1.0},
        {"sinc_prob": 1.0},
        {"final_sinc_prob": 1.0},
        {"resize_prob": (0, 1, 0), "resize_range": (0.2, 1.0)},
        {"resize_prob2": (0, 1, 0), "resize_range2": (0.2, 1.0)},
        {"noise_range": (9, 9)},
        {"noise_range2": (9, 9)},
        {"gaussian_noise_prob": 0.0, "poisson_scale_range": (2.0, 2.0)},
        {"gaussian_noise_prob2": 0.0, "poisson_scale_range2": (2.0, 2.0)},
        {"jpeg_range": (10, 10)},
        {"jpeg_range2": (10, 10)},
    ):
        assert (degraded(**changes) - nothing).abs().mean() > 0.5 / 255, changes


def test_the_scale_of_the_second_resizing_is_relative_to_the_result(monkeypatch):
    """Real-ESRGAN's second scale is that of the low-resolution image: 64 / 4 · 1.2 = 19 at most."""
    import fastgan.degradation.degradation as module

    sizes, plain = [], module.resize
    monkeypatch.setattr(module, "resize", lambda x, size, mode: sizes.append(size) or plain(x, size, mode))
    random = Random(0, CPU)
    for _ in range(60):
        Degradation(4).apply(torch.rand(1, 1, 64, 64), random)
    first, second, last = (np.array(sizes[i::3]) for i in range(3))
    assert first.min() >= int(0.15 * 64)
    assert 64 < first.max() <= 96
    assert 0.1 < (first[:, 0] > 64).mean() < 0.35  # 0.2
    assert second.min() >= int(0.3 * 16)
    assert 16 < second.max() <= 19
    assert (last == 16).all()


def test_what_does_not_fit_is_named():
    with pytest.raises(UsageError, match=r"degradation: expected bicubic, first-order, second-order or .* got 'third'"):
        Degradation(2, "third")
    with pytest.raises(UsageError, match="scale: expected a number >= 1, got 0"):
        Degradation(0)
    with pytest.raises(UsageError, match="images: expected a size that 4 divides, got 10×8"):
        Degradation(4).apply(torch.zeros(1, 3, 10, 8), Random(0, CPU))
    with pytest.raises(UsageError, match="images: expected 1 or 3 channels, got 4"):
        Degradation(4).apply(torch.zeros(1, 4, 8, 8), Random(0, CPU))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("blur_kernel_size", 20, "an odd number of pixels"),
        ("kernel_prob2", (1.0, 2.0), "6 weights >= 0"),
        ("resize_prob", (0.0, 0.0, 0.0), "3 weights >= 0"),
        ("blur_sigma", (0.0, 3.0), "two rising numbers from 0.001 to 100"),
        ("jpeg_range2", (95.0, 30.0), "two rising numbers from 1 to 100"),
        ("gray_noise_prob", 1.5, "a probability from 0 to 1"),
        ("resize_modes", ("nearest",), "names among area, bilinear"),
    ],
)
def test_settings_out_of_range_are_named(name, value, expected):
    with pytest.raises(UsageError, match=f"{name}: expected {expected}"):
        Settings(**{name: value})


@pytest.mark.parametrize("kind", ["bicubic", *RANDOM_KINDS])
def test_the_memory_format_and_dtype_of_images_do_not_matter(kind):
    images, degradation = photo_like(3, 3, 32, 40), Degradation(2, kind)
    wanted = degradation.apply(images, Random(2, CPU))
    for given in (images.contiguous(memory_format=torch.channels_last), images.double(), images.flip(3).flip(3)):
        found = degradation.apply(given, Random(2, CPU))
        assert found.dtype == torch.float32
        assert ((found - wanted).abs() > 0.5 / 255).float().mean() < 0.01  # of sums in another order
