"""Layers that several networks share, against their formulas."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgan.errors import UsageError
from fastgan.nn import (
    ConditionalBatchNorm,
    Downsample,
    EqualizedConv,
    EqualizedLinear,
    Maxout,
    MinibatchStdDev,
    PixelNorm,
    SelfAttention,
    Upsample,
    initialize,
    spectral_norm,
)


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3, 4)])
def test_conditional_batch_norm(shape):
    torch.manual_seed(0)
    layer, x, c = ConditionalBatchNorm(5, 3), torch.randn(shape) * 2 + 1, torch.randn(6, 3)
    over = tuple(d for d in range(len(shape)) if d != 1)
    standard = (x - x.mean(over, keepdim=True)) / (x.var(over, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(layer(x, c), standard, rtol=1e-4, atol=1e-5)  # no condition at first
    nn.init.normal_(layer.gain.weight)
    nn.init.normal_(layer.bias.weight)
    extra = (slice(None), slice(None), *(None,) * (len(shape) - 2))
    expected = standard * (1 + c @ layer.gain.weight.T)[extra] + (c @ layer.bias.weight.T)[extra]
    torch.testing.assert_close(layer(x, c), expected, rtol=1e-4, atol=1e-5)
    assert set(layer.state_dict()) == {
        "norm.running_mean", "norm.running_var", "norm.num_batches_tracked", "gain.weight", "bias.weight"
    }  # fmt: skip


def test_self_attention_starts_as_the_identity_and_then_attends_to_all_pixels():
    torch.manual_seed(0)
    layer, x = SelfAttention(8, spectral=True).eval(), torch.randn(2, 8, 4, 4)
    assert torch.equal(layer(x), x)
    nn.init.constant_(layer.gamma, 0.5)
    far = x.clone()
    far[:, :, 3, 3] += 5
    assert (layer(far) - layer(x))[:, :, 0, 0].abs().min() > 0


def test_equalized_layers():
    """Weights of N(0, 1), outputs of He's size: the deviation of the products is √2 for inputs of deviation 1."""
    torch.manual_seed(0)
    conv, linear = EqualizedConv(64, 256, 3, act="linear"), EqualizedLinear(400, 400, act="linear")
    assert conv.weight.std().item() == pytest.approx(1, abs=0.01)
    assert conv(torch.randn(8, 64, 5, 5)).std().item() == pytest.approx(2**0.5, abs=0.03)
    assert linear(torch.randn(64, 400)).std().item() == pytest.approx(2**0.5, abs=0.03)
    conv, x = EqualizedConv(2, 3, 3, padding=1, gain=1.0), torch.randn(2, 2, 5, 5)
    nn.init.normal_(conv.bias)
    expected = F.leaky_relu(F.conv2d(x, conv.weight / 18**0.5, conv.bias, padding=1), 0.2)
    torch.testing.assert_close(conv(x), expected)


def test_pixel_norm():
    x = torch.randn(2, 7, 3, 3)
    torch.testing.assert_close(PixelNorm()(x).square().mean(1), torch.ones(2, 3, 3))


def test_minibatch_standard_deviation():
    """The standard deviation over samples 0, 2, 4, 6 and 1, 3, 5, 7, averaged over all other dimensions."""
    x = torch.randn(8, 3, 2, 2)
    y = MinibatchStdDev()(x)
    assert torch.equal(y[:, :3], x)
    for start in (0, 1):
        expected = x[start::2].std(0, correction=0).mean()
        torch.testing.assert_close(y[start::2, 3], expected.expand(4, 2, 2), rtol=1e-4, atol=1e-5)
    assert MinibatchStdDev()(torch.ones(3, 1, 1, 1))[:, 1].abs().max() < 1e-3
    with pytest.raises(UsageError, match="x: expected a batch that the groups of 4 samples divide, got 6 samples"):
        MinibatchStdDev()(torch.zeros(6, 1, 1, 1))


def test_maxout_is_the_maximum_of_its_pieces():
    layer, x = Maxout(3, 4, 5), torch.randn(6, 3)
    pieces = x @ layer.linear.weight.T + layer.linear.bias
    for unit in range(4):
        torch.testing.assert_close(layer(x)[:, unit], pieces[:, 5 * unit : 5 * unit + 5].max(1).values)


def test_resampling_is_the_binomial_filter():
    """Constants and slopes are preserved inside; the two are transposes of each other up to a factor 4."""
    ramp = torch.arange(8.0).expand(1, 2, 8, 8)
    half = Downsample()(ramp)
    torch.testing.assert_close(half[0, 0, 1, 1:3], torch.tensor([2.5, 4.5]))
    double = Upsample()(ramp)
    torch.testing.assert_close(double[0, 1, 7, 3:6], torch.tensor([1.25, 1.75, 2.25]))
    x, y = torch.randn(1, 2, 8, 8, dtype=torch.float64), torch.randn(1, 2, 4, 4, dtype=torch.float64)
    down, up = Downsample().double(), Upsample().double()
    torch.testing.assert_close((down(x) * y).sum(), (x * up(y)).sum() / 4)
    assert not down.state_dict()


def test_initialize_changes_weights_under_spectral_norms():
    network = spectral_norm(nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(3, 2)))
    initialize(network, lambda weight: nn.init.constant_(weight, 2.0))
    for layer in (network[0], network[2]):
        assert torch.equal(layer.parametrizations.weight.original, torch.full_like(layer.weight, 2.0))
        assert not layer.bias.any()
    network.eval()
    for layer in (network[0], network[2]):  # the vectors are those of the new weights
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=1e-5)
