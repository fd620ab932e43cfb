import numpy as np
import pytest
import torch
from PIL import Image

from fastgan.errors import UsageError
from fastgan.metrics.resize import resize


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(("height", "width", "size"), [(28, 28, 299), (32, 45, 224), (333, 301, 224), (7, 1, 5)])
def test_clean_resize_equals_pillow_in_floating_point(height, width, size):
    image = noise(1, 1, height, width)
    pillow = Image.fromarray(image[0, 0].astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC)
    ours = resize(torch.from_numpy(image), size, "clean")
    assert ours.dtype == torch.float32
    assert np.abs(ours[0, 0].numpy() - np.asarray(pillow)).max() < 2e-4
    assert ours.max() > 255 or ours.min() < 0 or size < 10  # neither clipped nor rounded


def test_legacy_resize_equals_tensorflow_1():
    row = torch.tensor([0.0, 10.0]).view(1, 1, 1, 2).repeat(1, 1, 2, 1)
    assert resize(row, 4, "legacy")[0, 0, 0].tolist() == [0, 5, 10, 10]  # the last pixel is repeated
    image = noise(1, 3, 8, 8)
    assert np.array_equal(resize(torch.from_numpy(image), 4, "legacy").numpy(), image[:, :, ::2, ::2])
    with pytest.raises(UsageError, match="filter: expected one of clean, legacy"):
        resize(row, 4, "birowar")
