"""No function waits for the device, or computes on another one: run on tensors of a device that has no values."""

import itertools

import pytest
import torch

from fastgan.degradation import Degradation, PairPool, random_crop, sharpen

DEVICE = torch.device("meta")


class Shapes:
    """A `Random` of tensors without values; the numbers of whole batches go through many values."""

    place = 0, 1  # the only rank

    def __init__(self):
        self._numbers = itertools.cycle([0.03, 0.97, 0.41, 0.66, 0.2])

    def uniform(self, n, *shape):
        return torch.rand(n, *shape, device=DEVICE)

    normal = uniform_of_all = uniform

    def number(self):
        return next(self._numbers)

    def poisson(self, rates):
        return rates + 0


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["bicubic", "first-order", "second-order"])
def test_the_values_of_a_gpu_are_not_asked_for(kind, channels):
    random, pool = Shapes(), PairPool(4)
    images = torch.rand(2, channels, 48, 56, device=DEVICE)
    for _ in range(7):
        target = random_crop({"target": images}, 40, random)["target"]
        pair = {"source": Degradation(2, kind).apply(target, random), "target": target}
        pair = pool.exchange(random_crop(pair, 32, random, flip=False, rotate=False), random)
        assert sharpen(pair["target"]).shape == (2, channels, 32, 32)
        assert pair["source"].shape == (2, channels, 16, 16)
        assert pair["source"].device == DEVICE


def test_asking_for_a_value_would_be_noticed():
    with pytest.raises(RuntimeError, match="meta"):
        bool(torch.rand(2, device=DEVICE).sum() > 1)
    with pytest.raises(RuntimeError, match="meta"):
        torch.rand(2, device=DEVICE).add(torch.rand(2))
