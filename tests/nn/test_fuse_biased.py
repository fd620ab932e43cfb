"""fuse on users' activations with a bias, a gain and a clamp, and on filters: StyleGAN2's and R3GAN's spellings."""

import copy
import math
import pickle

import numpy
import pytest
import runtime_gain_networks as networks
import torch
import torch.nn.functional as F
from torch import nn

import fastgan
from fastgan.testing.equivalence import assert_same, outputs_and_gradients
from fastgan.testing.op_recorder import OpRecorder

X = torch.randn(2, 3, 7, 6, dtype=torch.float64)
#: The channels of what the activations below get.
C = 5


class Activation(nn.Module):
    def __init__(self, shape=(C,)):
        super().__init__()
        self.bias, self.gain, self.limit = nn.Parameter(torch.randn(shape)), 1.5, 0.7
        self.act, self.scale = nn.LeakyReLU(0.3), nn.Parameter(torch.rand(1))


class Inline(Activation):
    def forward(self, x):
        return F.leaky_relu(x + self.bias[None, :, None, None], 0.2) * math.sqrt(2)


class GainFirst(Activation):
    def forward(self, x):
        return self.gain * self.act(x + self.bias.view(1, -1, 1, 1))


class Clamped(Activation):
    def forward(self, x):
        x = F.leaky_relu(x + self.bias.reshape(1, C, 1, 1), 0.2) * self.gain
        return x.clamp(-self.limit, self.limit)


class ClampedByAFunction(Activation):
    def forward(self, x):
        return torch.clamp(torch.relu(x + self.bias.reshape(-1, 1, 1)), -0.7, 0.7)


class BiasFirst(Activation):
    def forward(self, x):
        return torch.relu(self.bias.view(1, -1, 1, 1) + x) / 0.5


class Conditions(Activation):
    def forward(self, x):
        if self.bias is not None:
            x = x + self.bias.to(x.dtype).view(1, x.shape[1], 1, 1)
        x = self.act(x)
        if self.gain != 1:
            x = x * self.gain
        return x


class GainOfNumPy(Activation):
    def forward(self, x):
        return numpy.sqrt(2) * F.leaky_relu(x + self.bias.view(1, -1, 1, 1), 0.2)


class Curved(Activation):
    def forward(self, x):
        return F.silu(x + self.bias.view(1, -1, 1, 1)) * 1.2


class Method(Activation):
    def forward(self, x):
        return (x + self.bias.view(1, -1, 1, 1)).tanh() * 2


class GainAlone(Activation):
    def forward(self, x):
        return F.leaky_relu(x, 0.2) * 2**0.5


class Nested(Activation):
    def __init__(self):
        super().__init__()
        self.inner = Inline()

    def forward(self, x):
        return self.inner(x) * 0.5


JOINED = {
    "helper function": lambda: networks.BiasedLeakyReLU(C),
    "attribute of the class": lambda: networks.BiasedActivation(C),
    **{kind.__name__: kind for kind in (
        Inline, GainFirst, Clamped, ClampedByAFunction, BiasFirst, Conditions, GainOfNumPy, Method, GainAlone, Nested,
    )},
}  # fmt: skip


class WideBias(Activation):
    def forward(self, x):
        return F.leaky_relu(x + self.bias.view(1, C, 1, 1).expand(1, C, x.shape[2], 1), 0.2)


class TensorGain(Activation):
    def forward(self, x):
        return F.leaky_relu(x + self.bias.view(1, -1, 1, 1), 0.2) * self.scale


class NegativeGain(Activation):
    def forward(self, x):
        return F.leaky_relu(x + self.bias.view(1, -1, 1, 1), 0.2) * -1.5


class OneSidedClamp(Activation):
    def forward(self, x):
        return F.leaky_relu(x + self.bias.view(1, -1, 1, 1), 0.2).clamp(-0.1, 0.7)


class GainOfAClamp(Activation):
    def forward(self, x):
        return F.leaky_relu(x + self.bias.view(1, -1, 1, 1), 0.2).clamp(-0.7, 0.7) * 1.5


class BiasAfter(Activation):
    def forward(self, x):
        return torch.relu(x) + self.bias.view(1, -1, 1, 1)


class TwoActivations(Activation):
    def forward(self, x):
        return F.leaky_relu(torch.tanh(x + self.bias.view(1, -1, 1, 1)) * 2, 0.2) * 1.5


class UsedTwice(Activation):
    def forward(self, x):
        y = x + self.bias.view(1, -1, 1, 1)
        return y * torch.sigmoid(y) + x


class AddsItsInput(Activation):
    def forward(self, x):
        return F.leaky_relu(x + self.bias.view(1, -1, 1, 1), 0.2) * 2**0.5 + x


class GainBefore(Activation):
    def forward(self, x):
        return torch.relu((x * 0.5 + self.bias.view(1, -1, 1, 1)) / 3)


class TwoBiases(Activation):
    def forward(self, x):
        return torch.relu(x + self.bias.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1))


class NumberAsBias(Activation):
    def forward(self, x):
        return torch.relu(x + 0.5)


class InPlace(Activation):
    def forward(self, x):
        return F.leaky_relu(x, 0.2, inplace=True) * 2


ALSO = [
    Curved, WideBias, TensorGain, NegativeGain, OneSidedClamp, GainOfAClamp, BiasAfter, TwoActivations, UsedTwice,
    AddsItsInput, GainBefore, TwoBiases, NumberAsBias, InPlace,
]  # fmt: skip

CONVOLUTIONS = {
    "Conv2d": lambda: nn.Conv2d(3, C, 3, bias=False),
    "with a bias": lambda: nn.Conv2d(3, C, 3),
    "reflected": lambda: nn.Conv2d(3, C, 3, padding=1, padding_mode="reflect"),
    "spectral norm": lambda: nn.utils.spectral_norm(nn.Conv2d(3, C, 3, bias=False)),
    "scaled": lambda: networks.ScaledConv(3, C, 3, 2, 1, bias=False),
    "of another module": lambda: networks.Convolution(3, C, 3),
    "transposed": lambda: nn.ConvTranspose2d(3, C, 3, stride=2, bias=False),
}


class Pair(nn.Module):
    def __init__(self, conv, act):
        super().__init__()
        self.conv, self.act = conv, act

    def forward(self, x):
        y = self.conv(x)
        return self.act(y) + 1


def counted(network, x):
    with OpRecorder() as calls:
        network(x)
    return calls.counts()


@pytest.mark.parametrize("kind", [Pair, nn.Sequential])
@pytest.mark.parametrize("name", JOINED)
def test_a_convolution_and_the_activation_with_bias_and_gain_are_one_op(fused, kind, name):
    torch.manual_seed(0)
    plain = kind(networks.ScaledConv(3, C, 3, bias=False), JOINED[name]()).double()
    ours = fused(plain)
    assert counted(ours, X) == {"conv_bias_act": 1}
    assert_same(outputs_and_gradients(ours, X), outputs_and_gradients(plain, X))
    assert ours.state_dict().keys() == plain.state_dict().keys()
    again = pickle.loads(pickle.dumps(copy.deepcopy(ours)))
    assert counted(again, X) == {"conv_bias_act": 1}


@pytest.mark.parametrize(
    ("conv", "act"),
    [
        *(("Conv2d", act) for act in ALSO),
        *((conv, act) for conv in CONVOLUTIONS for act in (Inline, Clamped, BiasFirst)),
    ],
)
def test_numbers_are_the_same_in_every_order(fused, conv, act):
    torch.manual_seed(0)
    plain = Pair(CONVOLUTIONS[conv](), act()).double().eval()
    ours = fused(plain)
    assert_same(outputs_and_gradients(ours, X), outputs_and_gradients(plain, X))


@pytest.mark.parametrize("act", [UsedTwice, AddsItsInput])
def test_a_layer_whose_output_is_used_twice_runs_once(fused, act):
    ours = fused(Pair(nn.Conv2d(3, C, 3, bias=False), act()).double())
    counts = counted(ours, X)
    assert counts.get("conv", 0) + counts.get("conv_bias_act", 0) == 1


def test_an_activation_in_place_overwrites_the_caller_s_tensor(fused):
    class Owner(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = InPlace()

        def forward(self, x):
            y = x * 1
            z = self.act(y)
            return z + y

    plain = Owner()
    torch.testing.assert_close(fused(plain)(X), plain(X))


def test_hooks_attributes_and_layers_changed_later_are_seen(fused):
    ours = fused(nn.Sequential(networks.ScaledConv(3, C, 3, bias=False), networks.BiasedLeakyReLU(C)).double())
    plain = nn.Sequential(networks.ScaledConv(3, C, 3, bias=False), networks.BiasedLeakyReLU(C)).double()
    plain.load_state_dict(ours.state_dict())
    for network in (plain, ours):
        network[0].scale, network[1].scale, network[1].negative_slope = 0.1, 3.0, 0.5
    torch.testing.assert_close(ours(X), plain(X))
    seen = []
    ours[1].register_forward_pre_hook(lambda module, inputs: seen.append(type(inputs[0])))
    ours[0].register_forward_hook(lambda module, inputs, output: seen.append(type(output)))
    torch.testing.assert_close(ours(X), plain(X))
    assert seen == [torch.Tensor, torch.Tensor]
    ours[1] = nn.Identity()
    torch.testing.assert_close(ours(X), plain[0](X))


def test_autocast_gives_pytorch_s_dtypes(fused):
    plain = Pair(nn.Conv2d(3, C, 3, bias=False), networks.BiasedLeakyReLU(C))
    with torch.autocast("cpu", torch.bfloat16):
        got, want = fused(plain)(X.float()), plain(X.float())
    assert got.dtype == want.dtype == torch.float32
    torch.testing.assert_close(got, want, rtol=0.02, atol=0.02)


def test_code_that_does_something_else_gets_a_tensor(fused):
    class Inspects(Activation):
        def forward(self, x):
            assert isinstance(x, torch.Tensor)
            return F.leaky_relu(x + self.bias.view(1, -1, 1, 1)) * x.mean()

    plain = Pair(nn.Conv2d(3, C, 3), Inspects()).double()
    assert_same(outputs_and_gradients(fused(plain), X), outputs_and_gradients(plain, X))


def test_dynamo_traces_them(fused):
    for kind in (Pair, nn.Sequential):
        plain = kind(networks.ScaledConv(3, C, 3, bias=False), networks.BiasedLeakyReLU(C)).double()
        compiled = torch.compile(fused(plain), backend="aot_eager", fullgraph=True)
        x = X.clone().requires_grad_()
        got, want = (torch.autograd.grad(net(x).square().sum(), x)[0] for net in (compiled, plain))
        torch.testing.assert_close(got, want)


ROWS = {networks.StyleDiscriminator: "convs.1.conv1.1", networks.ResidualDiscriminator: "MainLayers.0.NonLinearity1"}


@pytest.mark.parametrize("kind", ROWS)
def test_whole_discriminators(fused, kind):
    torch.manual_seed(0)
    plain, x = kind().double(), torch.randn(4, 3, 16, 16, dtype=torch.float64)
    ours = fused(plain)
    assert_same(outputs_and_gradients(ours, x), outputs_and_gradients(plain, x), rtol=1e-8, atol=1e-10)
    counts = counted(ours, x)
    assert counts["conv_bias_act"] == {networks.StyleDiscriminator: 6, networks.ResidualDiscriminator: 4}[kind]
    assert "it joins the layer before" in fastgan.fusion_report(ours)[ROWS[kind]].reason
    assert str(fastgan.fusion_report(ours)) == str(fastgan.fusion_report(plain))
    assert counts["upfirdn2d"] == {networks.StyleDiscriminator: 4, networks.ResidualDiscriminator: 2}[kind]


# --- filters ----------------------------------------------------------------------------------------------------------


class Filter(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("taps", torch.randn(4, 4))


class SingleChannels(Filter):
    def forward(self, x):
        return F.conv2d(x.reshape(-1, 1, 7, 6), self.taps[None, None], padding=(2, 1))


class Strided(Filter):
    def forward(self, x):
        return F.conv2d(x.reshape(-1, 1, 7, 6), self.taps[None, None], stride=(2, 3), padding=1)


class Expanded(Filter):
    def forward(self, x):
        return F.conv2d(x, self.taps.expand(3, 1, 4, 4), None, 2, 1, 1, 3)


class Transposed(Filter):
    def forward(self, x):
        return F.conv_transpose2d(x.reshape(-1, 1, 7, 6), self.taps[None, None], None, 2, 1)


class TransposedBeyond(Filter):
    def forward(self, x):
        return F.conv_transpose2d(x.reshape(-1, 1, 7, 6), self.taps[None, None, :3], None, (2, 3), (0, 3), (1, 2))


class Repeated(Filter):
    def forward(self, x):
        return F.conv2d(x, self.taps.repeat(3, 1, 1, 1), groups=3)


class Dilated(Filter):
    def forward(self, x):
        return F.conv2d(x.reshape(-1, 1, 7, 6), self.taps[None, None], dilation=2, padding=2)


class Learned(Filter):
    def __init__(self):
        super().__init__()
        self.learned = nn.Parameter(torch.randn(1, 1, 4, 4))

    def forward(self, x):
        return F.conv2d(x.reshape(-1, 1, 7, 6), self.learned)


class WithBias(Filter):
    def forward(self, x):
        return F.conv2d(x.reshape(-1, 1, 7, 6), self.taps[None, None], self.taps[0, :1])


class Large(Filter):
    def forward(self, x):
        return F.conv2d(x.reshape(-1, 1, 7, 6), self.taps.repeat(3, 3)[None, None], padding=4)


@pytest.mark.parametrize("kind", [SingleChannels, Strided, Expanded, Transposed, TransposedBeyond])
def test_a_constant_filter_of_each_channel_is_upfirdn2d(fused, kind):
    plain = nn.Sequential(nn.Conv2d(3, 3, 1), kind()).double()
    ours = fused(plain)
    assert counted(ours, X)["upfirdn2d"] == 1
    assert_same(outputs_and_gradients(ours, X), outputs_and_gradients(plain, X))


@pytest.mark.parametrize("kind", [Repeated, Dilated, Learned, WithBias, Large])
def test_other_convolutions_of_single_channels_stay_convolutions(fused, kind):
    plain = nn.Sequential(nn.Conv2d(3, 3, 1), kind()).double()
    ours = fused(plain)
    assert "upfirdn2d" not in counted(ours, X)
    assert_same(outputs_and_gradients(ours, X), outputs_and_gradients(plain, X))
