import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgan.errors import UsageError
from fastgan.losses import feature_matching, layer_matching
from fastgan.models.translation import MultiScaleDiscriminator, PatchDiscriminator, PixelDiscriminator


def test_feature_matching_is_the_squared_distance_of_means():
    fake, real = torch.tensor([[1.0, 2.0], [3.0, 2.0]]), torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, 3.0]])
    # Means (2, 2) and (1, 1).
    assert feature_matching(fake, real).item() == pytest.approx(2)


def test_layer_matching_by_hand():
    one, other = torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 0.0]])
    logits = torch.tensor([[100.0]])
    fake = [[one, one, logits], [one, logits]]
    real = [[other, one, -logits], [other, -logits]]
    # Two layers of the first scale add up to 2 + 0; the second has one of 2; the mean of both scales.
    assert layer_matching(fake, real).item() == pytest.approx(2)
    half = [[[x.bfloat16() for x in scale] for scale in scales] for scales in (fake, real)]
    assert layer_matching(*half).dtype == torch.float32
    for wrong in ([], [[logits]]):
        with pytest.raises(UsageError, match="fake: expected features of at least one layer before the logits"):
            layer_matching(wrong, wrong)


BUILD = {
    "patch": lambda: PatchDiscriminator(3, 1, layers=2, width=4, norm="instance"),
    "pixel": lambda: PixelDiscriminator(3, 1, width=4, norm="instance"),
    "multi-scale": lambda: MultiScaleDiscriminator(3, 1, scales=2, layers=2, width=4),
}


@pytest.mark.parametrize("name", BUILD)
def test_features_of_every_discriminator(name):
    torch.manual_seed(0)
    network = BUILD[name]()
    fake, real, source = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16), torch.rand(2, 1, 16, 16)
    features = network.features(fake, source)
    outputs = network(fake, source)
    for scale, logits in zip(features, outputs if isinstance(outputs, list) else [outputs], strict=True):
        torch.testing.assert_close(scale[-1], logits)

    def plain(images):
        """Activations' outputs of each scale, the largest first, in the order in which they are computed."""
        found, x = [], torch.cat([source, images], 1)
        if not isinstance(network, MultiScaleDiscriminator):
            sequences = [next(network.children())]
        else:
            sequences = [
                [m for i in range(4) for m in network.get_submodule(f"scale{scale}_layer{i}")] for scale in (1, 0)
            ]
        for sequence in sequences:
            y, of_scale = x, []
            for module in sequence:
                if isinstance(module, nn.LeakyReLU):
                    y = F.leaky_relu(y, module.negative_slope)
                    of_scale.append(y)
                else:
                    y = module(y)
            found.append(of_scale)
            x = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
        return found

    expected = sum((a - b).abs().mean() for pair in zip(plain(fake), plain(real), strict=True)
                   for a, b in zip(*pair, strict=True)) / len(features)  # fmt: skip

    features_of_real = network.features(real.requires_grad_(), source)
    value = layer_matching(network.features(fake.requires_grad_(), source), features_of_real)
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)
    slopes = torch.autograd.grad(value, (fake, real), allow_unused=True)
    assert slopes[0].abs().max() > 0
    assert slopes[1] is None


@pytest.mark.parametrize("name", ["patch", pytest.param("multi-scale", marks=pytest.mark.full)])
def test_layer_matching_is_one_graph(name):
    torch.manual_seed(0)
    network = BUILD[name]()
    fake, real, source = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16), torch.rand(2, 1, 16, 16)

    def loss(fake, real):
        return layer_matching(network.features(fake, source), network.features(real, source))

    fake.requires_grad_()
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    ours, plainly = (torch.autograd.grad(f(fake, real), fake)[0] for f in (compiled, loss))
    torch.testing.assert_close(ours, plainly, rtol=1e-3, atol=1e-7)
