"""Resizing against MATLAB's formula in numpy, and against Pillow."""

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan.degradation import downscale_bicubic, resize
from fastgan.errors import UsageError


def imresize(image, scale):
    """MATLAB's imresize(image, 1 / scale) of [H, W] in float64, by its definition: weights, indices, mirrored edges."""

    def cubic(x):
        x = np.abs(x)
        return np.where(x <= 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x <= 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0))

    for _ in range(2):
        image = image.T
        side = image.shape[0]
        rows = []
        for target in range(1, side // scale + 1):  # positions count from 1 there
            u = target * scale + 0.5 * (1 - scale)
            left = int(np.floor(u - 4 * scale / 2))
            index = left + np.arange(4 * scale + 2)
            weight = cubic((u - index) / scale)
            weight /= weight.sum()
            mirror = np.concatenate([np.arange(side), np.arange(side)[::-1]])
            rows.append(weight @ image[mirror[(index - 1) % (2 * side)]])
        image = np.array(rows)
    return image


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("channels", [1, 3])
def test_bicubic_downscaling_is_matlabs(scale, channels):
    images = torch.rand(2, channels, 3 * scale, 5 * scale, generator=torch.Generator().manual_seed(0))
    made = downscale_bicubic(images, scale)
    assert made.shape == (2, channels, 3, 5)
    for n in range(2):
        for c in range(channels):
            np.testing.assert_allclose(made[n, c], imresize(images[n, c].double().numpy(), scale), atol=2e-6)


@pytest.mark.parametrize(("mode", "filter"), [("bilinear", "BILINEAR"), ("bicubic", "BICUBIC")])
def test_resizing_without_aliasing_is_pillows(mode, filter):
    image = np.random.default_rng(0).random((40, 30), np.float32)
    made = resize(torch.from_numpy(image)[None, None], (13, 11), f"{mode}-antialias")[0, 0]
    expected = Image.fromarray(image).resize((11, 13), getattr(Image.Resampling, filter))
    np.testing.assert_allclose(made, np.asarray(expected), atol=1e-5)


def test_area_resizing_averages_and_plain_bilinear_resizing_picks():
    image = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(resize(image, (2, 2), "area"), image.view(1, 1, 2, 4, 2, 4).mean((3, 5)))
    middle = image.view(1, 1, 2, 4, 2, 4)[:, :, :, 1:3, :, 1:3].mean((3, 5))
    torch.testing.assert_close(resize(image, (2, 2), "bilinear"), middle)


def test_what_does_not_fit_is_named():
    images = torch.zeros(1, 3, 9, 8)
    with pytest.raises(UsageError, match="scale: expected a number that divides the size of the images, 9×8, got 2"):
        downscale_bicubic(images, 2)
    with pytest.raises(UsageError, match=r"mode: expected one of area, bilinear, .*, got 'nearest'"):
        resize(images, (4, 4), "nearest")


def test_a_first_call_in_inference_mode_leaves_gradients_possible():
    with torch.inference_mode():
        downscale_bicubic(torch.rand(1, 1, 35, 35), 7)
    images = torch.rand(1, 1, 35, 35, requires_grad=True)
    downscale_bicubic(images, 7).sum().backward()
    assert images.grad is not None
    torch.testing.assert_close(images.grad.sum(), torch.tensor(25.0))  # each weight sum is 1, edges mirrored
