import numpy as np
import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d

from fastgan.augmentation import classifiers
from fastgan.augmentation.classifiers import accuracy, features, fit, shifted

from .conftest import corners


def test_training_depends_on_the_seed_alone_and_keeps_the_global_rng_state(real):
    state = torch.get_rng_state()
    options = {"steps": 3, "shifts": True, "flips": True}
    networks = [fit(real.images, real.labels, 4, seed=seed, **options) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), state)
    first, same, other = (features(network, real.images)[1] for network in networks)
    assert torch.equal(first, same)
    assert not torch.allclose(first, other)


def test_rare_classes_are_drawn_as_often_as_others(monkeypatch):
    data = corners([200, 2], 0)
    seen = []
    monkeypatch.setattr(classifiers, "normalize", lambda pixels: seen.append(pixels) or pixels.float() / 127.5 - 1)
    fit(data.images, data.labels, 2, steps=20, batch=32)
    rare = {image.tobytes() for image in data.images[200:]}
    share = np.mean([image.numpy().tobytes() in rare for batch in seen for image in batch])
    assert 0.42 < share < 0.58  # 640 drawn with probability 1/2; 2 of 202 images


def test_accuracy_is_the_mean_over_classes():
    data, test = corners([40, 40], 0), corners([90, 10], 1)
    network = fit(data.images, data.labels, 2, steps=30, batch=16)
    assert accuracy(network, test.images, test.labels) > 0.95
    with torch.no_grad():
        network.layers[-1].bias += torch.tensor([1e4, 0.0])  # now all are of class 0
    assert accuracy(network, test.images, test.labels) == 0.5


def test_shifts_move_whole_images_and_mirror_the_border():
    x = torch.rand(3, 2, 16, 8)
    # Centered, up and left by all of it, down by one pixel.
    u = torch.tensor([[0.5, 0.999, 0.3], [0.5, 0.999, 0.5]])
    moved = shifted(x, u)
    torch.testing.assert_close(moved[0], x[0])
    torch.testing.assert_close(moved[1, :, :14, :7], x[1, :, 2:, 1:])
    torch.testing.assert_close(moved[1, :, 14:, :7], x[1, :, [14, 13], 1:])
    torch.testing.assert_close(moved[2, :, 1:], x[2, :, :-1])


@pytest.mark.parametrize("size", [(7, 7), (8, 5), (2, 3)])
def test_the_mean_of_quarters_is_adaptive_pooling(size):
    x = torch.rand(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(classifiers._Quarters()(x), adaptive_avg_pool2d(x, 2))
