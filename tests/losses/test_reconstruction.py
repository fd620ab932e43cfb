"""Reconstruction losses against independent formulas in float64, and their derivatives."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, sobel
from skimage.metrics import structural_similarity

from fastgan.errors import UsageError
from fastgan.losses import charbonnier, focal_frequency, gradient, l1, ms_ssim, ssim
from fastgan.losses.similarity import SCALES

LOSSES = {"l1": l1, "charbonnier": charbonnier, "ssim": ssim, "focal": focal_frequency, "gradient": gradient}


def pair(*shape, noise=0.2):
    """float64 in [-1, 1], smooth enough for structure, and a disturbed copy."""
    source = np.random.default_rng(0)
    target = np.cumsum(np.cumsum(source.normal(size=shape), -1), -2)
    target = 2 * (target - target.min()) / (target.max() - target.min()) - 1
    fake = np.clip(target + noise * source.normal(size=shape), -1, 1)
    return torch.from_numpy(fake), torch.from_numpy(target)


def test_l1_is_the_mean_absolute_difference():
    fake = torch.tensor([[1.0, 2.0], [3.0, 2.0]])
    assert l1(fake, torch.tensor([[0.0, 2.0], [5.0, 2.0]])).item() == pytest.approx(0.75)


def test_charbonnier_by_hand():
    fake, target = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 0.0])
    assert charbonnier(fake, target, epsilon=4.0).item() == pytest.approx((5 + 4) / 2)
    assert charbonnier(target, target).item() == pytest.approx(1e-3)


@pytest.mark.parametrize("shape", [(2, 3, 24, 31), (1, 1, 11, 11)])
def test_ssim_is_that_of_scikit_image(shape):
    fake, target = pair(*shape)
    # scikit-image computes on values from 0 to 2, the range that [-1, 1] has above its darkest value.
    expected = [
        structural_similarity(
            x + 1, y + 1, channel_axis=0, data_range=2.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for x, y in zip(fake.numpy(), target.numpy(), strict=True)
    ]
    assert ssim(fake, target).item() == pytest.approx(1 - np.mean(expected), rel=1e-9)
    assert ssim(fake.float(), target.float()).item() == pytest.approx(1 - np.mean(expected), rel=1e-4)
    scaled = ssim((fake + 1) / 2, (target + 1) / 2, range=(0, 1))
    assert scaled.item() == pytest.approx(1 - np.mean(expected), rel=1e-9)


@pytest.mark.parametrize(("side", "scales"), [(161, 5), (44, 3), (41, 3), (12, 1)])
def test_ms_ssim_by_its_definition(side, scales):
    """Contrasts at all scales and luminance at the last one, by scikit-image's full maps."""
    fake, target = pair(1, 2, side, side)
    powers, values = np.array(SCALES[:scales]) / sum(SCALES[:scales]), []
    for x, y in zip(fake[0].numpy() + 1, target[0].numpy() + 1, strict=True):
        value = 1.0
        for scale, power in enumerate(powers):
            if scale:
                x, y = (halved(image) for image in (x, y))
            whole, luminance = maps(x, y)
            value *= (whole if scale == scales - 1 else whole / luminance)[5:-5, 5:-5].mean() ** power
        values.append(value)
    assert ms_ssim(fake, target, scales=scales).item() == pytest.approx(1 - np.mean(values), rel=1e-6)


def halved(image):
    """2×2 means, at odd sides with one pixel alone at each edge."""
    edges = [np.r_[0, np.arange(1, side, 2)] if side % 2 else np.arange(0, side, 2) for side in image.shape]
    sums = np.add.reduceat(np.add.reduceat(image, edges[0], 0), edges[1], 1)
    counts = np.add.reduceat(np.add.reduceat(np.ones_like(image), edges[0], 0), edges[1], 1)
    return sums / counts


def maps(x, y):
    """SSIM and its luminance at every pixel."""
    options = {"sigma": 1.5, "truncate": 3.5}
    _, whole = structural_similarity(
        x, y, data_range=2.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    a, b = gaussian_filter(x, **options), gaussian_filter(y, **options)
    c1 = 0.02**2
    return whole, (2 * a * b + c1) / (a * a + b * b + c1)


def test_ms_ssim_of_opposite_images_has_finite_gradients():
    _, target = pair(1, 1, 48, 48)
    fake = (-target).requires_grad_()
    (slope,) = torch.autograd.grad(ms_ssim(fake, target, scales=3), fake)
    assert torch.isfinite(slope).all()


@pytest.mark.parametrize("shape", [(2, 3, 8, 9), (1, 2, 7, 6), (1, 1, 4, 1)])
@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_focal_frequency_by_the_whole_transform(shape, alpha):
    fake, target = pair(*shape)
    difference = np.fft.fft2(target.numpy()) - np.fft.fft2(fake.numpy())
    distance = np.abs(difference / np.sqrt(shape[2] * shape[3]))
    weight = distance**alpha / (distance**alpha).max((2, 3), keepdims=True)
    expected = (weight * distance**2).mean()
    assert focal_frequency(fake, target, alpha=alpha).item() == pytest.approx(expected, rel=1e-9)
    # The weight is a constant for the derivative: by Parseval's theorem it filters the difference.
    fake.requires_grad_()
    (slope,) = torch.autograd.grad(focal_frequency(fake, target, alpha=alpha), fake, create_graph=True)
    direction = torch.rand_like(fake)
    (second,) = torch.autograd.grad(slope, fake, direction)
    for found, image in ((slope.detach(), (fake - target).detach()), (second, direction)):
        filtered = np.fft.ifft2(weight * np.fft.fft2(image.numpy())).real
        np.testing.assert_allclose(found.numpy(), 2 * filtered / fake.numel(), rtol=1e-7, atol=1e-12)
    assert focal_frequency(target, target) == 0


def test_gradient_is_l1_of_sobels_derivatives():
    fake, target = pair(2, 3, 9, 12)
    difference = (fake - target).numpy()
    planes = difference.reshape(-1, 9, 12)
    expected = sum(np.mean([np.abs(sobel(x, axis)[1:-1, 1:-1]).mean() for x in planes]) for axis in (0, 1))
    assert gradient(fake, target).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_derivatives_and_targets(name):
    loss = LOSSES[name]
    fake, target = pair(1, 1, 12, 12)
    fake.requires_grad_()
    target.requires_grad_()
    if name != "focal":  # whose weight is no constant
        assert torch.autograd.gradcheck(lambda x: loss(x, target.detach()), fake, fast_mode=True)
    loss(fake, target).backward()
    assert target.grad is None
    if name in ("charbonnier", "ssim"):
        assert torch.autograd.gradgradcheck(lambda x: loss(x, target.detach()), fake, fast_mode=True)


def test_ms_ssim_has_second_derivatives():
    fake, target = pair(1, 1, 21, 21)
    fake.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ms_ssim(x, target, scales=2), fake, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: ms_ssim(x, target, scales=2), fake, fast_mode=True)


@pytest.mark.parametrize("name", LOSSES)
def test_in_half_precision_and_as_one_graph(name):
    loss = LOSSES[name]
    fake, target = (x.float() for x in pair(1, 2, 16, 16))
    half = fake.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(half, target)
    assert found.dtype == torch.float32
    assert torch.equal(found, loss(half.float(), target))
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: loss(x, target), fullgraph=True, backend="aot_eager")
    fake.requires_grad_()
    ours, plainly = (torch.autograd.grad(f(fake), fake)[0] for f in (compiled, lambda x: loss(x, target)))
    torch.testing.assert_close(ours, plainly)


def test_bad_input():
    fake = torch.zeros(1, 1, 16, 16)
    for call, message in (
        (lambda: l1(fake, fake[:, :, 1:]), r"fake: expected the targets' shape \[1, 1, 15, 16\], got \[1, 1, 16, 16\]"),
        (lambda: ssim(fake, fake[:, :, 1:]), "fake: expected images .* of the targets' shape"),
        (lambda: ssim(fake[:, :, :10], fake[:, :, :10]), "images: expected sides of at least 11 pixels for SSIM"),
        (lambda: ssim(fake, fake, range=(1, 0)), "range: expected a lower and a higher number"),
        (lambda: ms_ssim(fake, fake), "images: expected sides of at least 161 pixels for MS-SSIM of 5 scales"),
        (lambda: ms_ssim(fake, fake, scales=6), "scales: expected a number from 1 to 5, got 6"),
        (lambda: charbonnier(fake, fake, epsilon=0), "epsilon: expected a number > 0, got 0"),
        (lambda: focal_frequency(fake[0], fake[0]), r"fake: expected images \[N, C, H, W\]"),
        (lambda: gradient(fake[..., :2], fake[..., :2]), "fake: .* sides of at least 3 pixels"),
    ):
        with pytest.raises(UsageError, match=message):
            call()
