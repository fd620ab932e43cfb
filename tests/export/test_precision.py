import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgan.errors import UsageError
from fastgan.export.precision import PRECISIONS, at_precision, find_precision


def half(network, name="fp16"):
    return at_precision(network.eval(), PRECISIONS[name])


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_weights_and_activations_are_half_inputs_and_outputs_float32(name):
    seen = []
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.InstanceNorm2d(4, affine=True), nn.Conv2d(4, 3, 1))
    changed = half(network, name)
    for module in changed.network:
        module.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    assert changed(torch.rand(1, 3, 8, 8)).dtype == torch.float32
    dtype = PRECISIONS[name].dtype
    assert seen == [dtype] * 4
    assert [p.dtype for p in changed.parameters()] == [dtype] * 2 + [torch.float32] * 2 + [dtype] * 2
    assert {p.dtype for p in network.parameters()} == {torch.float32}  # a copy


def test_float32_is_the_network_itself():
    network = nn.Conv2d(1, 1, 1)
    assert at_precision(network, PRECISIONS["fp32"]) is network
    with pytest.raises(UsageError, match="precision: expected one of fp32, fp16, bf16, int8, got 'float16'"):
        find_precision("float16")


class OwnNorm(nn.Module):
    """A norm written as a function, as users do."""

    def __init__(self, norm):
        super().__init__()
        self.norm, self.conv = norm, nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return self.conv(self.norm(x * 400))


@pytest.mark.parametrize(
    "norm",
    [
        lambda x: x * (x**2).mean(1, keepdim=True).add(1e-8).rsqrt(),
        lambda x: x * torch.rsqrt(x.square().mean(1, keepdim=True)),
        lambda x: x / torch.std(x, dim=(2, 3), keepdim=True),
        lambda x: x / x.norm(dim=1, keepdim=True),
        lambda x: F.instance_norm(x),
        lambda x: F.group_norm(x, 2),
        lambda x: F.softmax(x / 40, dim=1),
        lambda x: (x / 40).softmax(1),
        lambda x: x / x.sum((2, 3), keepdim=True),
        lambda x: F.normalize(x),
        lambda x: F.layer_norm(x, x.shape[1:]),
        nn.BatchNorm2d(4),
    ],
)
def test_norms_of_large_numbers_do_not_overflow_in_fp16(norm):
    torch.manual_seed(0)
    network, x = OwnNorm(norm).eval(), torch.rand(2, 4, 32, 32)
    if isinstance(norm, nn.Module):
        norm.running_var.fill_(1e6)  # more than float16 holds
    expected, got = network(x), half(network)(x)
    assert (got - expected).abs().max() <= 0.01 * expected.abs().max()


def test_squares_of_large_numbers_overflow_in_fp16():
    x = (torch.rand(2, 4, 32, 32) * 400).half()
    assert (x**2).isinf().any()
