"""JPEG against Pillow, which compresses with libjpeg."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan.degradation import jpeg


def picture(height, width, channels):
    """Smooth shapes, edges and a little noise, uint8 [H, W, channels]."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width] / 40
    waves = [
        np.sin(3 * x + c) * np.cos(2 * y - c) + ((x - 1) ** 2 + (y - 1) ** 2 < 0.3 + c / 5) for c in range(channels)
    ]
    noisy = 110 + 70 * np.stack(waves, -1) + rng.normal(0, 4, (height, width, channels))
    return np.clip(noisy, 0, 255).round().astype(np.uint8)


def by_pillow(image, quality):
    file = io.BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)).astype(int).reshape(image.shape)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(64, 96), (61, 83), (5, 1)])
def test_equals_pillows_within_rounding(channels, size):
    """All qualities in one batch. A coefficient between two steps may fall to either, which changes a block."""
    qualities = (5, 30, 49, 50, 75, 95, 100)
    image = picture(*size, channels)
    batch = torch.from_numpy(image).permute(2, 0, 1).expand(len(qualities), -1, -1, -1).float() / 255
    made = jpeg(batch, torch.tensor(qualities, dtype=torch.float32)) * 255
    torch.testing.assert_close(made, made.round(), atol=1e-4, rtol=0)
    for mine, quality in zip(made.round().int().permute(0, 2, 3, 1).numpy(), qualities, strict=True):
        pillow = by_pillow(image, quality)
        difference = np.abs(mine - pillow)
        assert difference.max() <= 24
        few = size[1] == 1  # pixels: no statistics
        assert difference.mean() < (1.5 if few else 0.75)
        assert (difference > 2).mean() < (0.2 if few else 0.05)
        # What quality 75 and less change is nearly all the same.
        if quality <= 75 and not few:
            assert difference.mean() < 0.1 * np.abs(pillow - image.astype(int)).mean()


def test_each_image_has_its_own_quality():
    batch = torch.from_numpy(picture(32, 32, 3)).permute(2, 0, 1).expand(2, -1, -1, -1).float() / 255
    made = jpeg(batch, torch.tensor([10.0, 95.0]))
    errors = (made - batch).abs().mean((1, 2, 3))
    assert errors[0] > 2 * errors[1]
    assert torch.equal(made[1:], jpeg(batch[1:], torch.tensor([95.0])))
