import pytest
import torch

from fastgan.editing.perceptual import PerceptualDistance
from fastgan.metrics.extractors.efficientnet import EfficientNetLite0
from fastgan.metrics.features import Extractor


@pytest.fixture(scope="module")
def distance():
    torch.manual_seed(0)
    network = EfficientNetLite0().eval()
    extractor = Extractor(
        protocol="", network=network, dim=1280, weights="", about="", size=224, shift=127.0, scale=128.0, batch=1,
        device=torch.device("cpu"),
    )  # fmt: skip
    return PerceptualDistance(extractor, weight=2.0)


@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (2, 1, 64, 64), (1, 3, 300, 320)])
def test_zero_for_equal_images_and_larger_for_others(distance, shape):
    torch.manual_seed(1)
    target = torch.rand(shape) * 2 - 1
    near, far = target + 0.01 * torch.randn(shape), torch.rand(shape) * 2 - 1
    assert distance(target, target) == 0
    assert 0 < distance(near, target) < distance(far, target)


def test_equals_its_formula(distance):
    torch.manual_seed(2)
    x, y = torch.rand(2, 1, 3, 64, 64) * 2 - 1
    features = [distance.network.activations((127.5 * (image + 1) - 127) / 128) for image in (x, y)]
    total = 0.0
    for one, other in zip(*features, strict=True):
        unit = [f / (f.square().sum(1, keepdim=True) + 1e-10).sqrt() for f in (one, other)]
        total += float((unit[0] - unit[1]).square().sum(1).mean())
    assert distance(x, y) == pytest.approx(2 * total, rel=1e-4)


def test_gradients_reach_the_images_and_not_the_targets(distance):
    x, y = (torch.rand(1, 3, 64, 64).requires_grad_() for _ in range(2))
    distance(x, y).backward()
    assert x.grad.abs().max() > 0
    assert y.grad is None
    assert all(weight.grad is None for weight in distance.network.parameters())
