"""Modules that cannot be fused exactly are skipped: same bits as before, and the report gives the reason."""

import copy
import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastgan
from fastgan.testing.op_recorder import OpRecorder

X = torch.randn(2, 3, 8, 8)


class OwnSequential(nn.Sequential):
    def forward(self, x):
        return super().forward(x) + 1


def replaced():
    conv = nn.Conv2d(3, 4, 3)
    conv.forward = lambda x: F.conv2d(x, conv.weight) * 3
    return conv


SKIPPED = {
    "replaced": (replaced, "its forward was replaced on the module itself"),
    "softplus": (nn.Softplus, "PyTorch's is linear above a threshold, ours is not"),
    "gelu": (nn.GELU, "runs as in PyTorch: its second derivative is not zero"),
    "prelu": (nn.PReLU, "its slope is a parameter"),
    "negative_slope": (lambda: nn.LeakyReLU(-0.1), "slope -0.1 is not a number >= 0"),
    "inplace": (lambda: nn.SiLU(inplace=True), "in place: fused only after a layer"),
    "own_sequential": (lambda: OwnSequential(nn.Identity()), "calls no activation or convolution as a function"),
    "linear": (lambda: nn.Linear(8, 3), "one op already"),
    "conv3d": (lambda: nn.Conv3d(2, 4, 3, padding=1), "runs as in PyTorch"),
}


@pytest.mark.parametrize("name", SKIPPED)
def test_skipped_modules_stay_as_they_are(name):
    make, reason = SKIPPED[name]
    module = make()
    row = fastgan.fusion_report(module)[""]
    assert row.status == "skipped"
    assert reason in row.reason
    kind = type(module)
    plain = copy.deepcopy(module) if name != "replaced" else module
    want = plain(X.clone())
    with OpRecorder() as calls:
        got = fastgan.fuse(module)(X.clone())
    assert type(module) is kind
    assert torch.equal(got, want)
    assert not calls.counts()


def test_a_lazy_module_is_skipped_until_it_has_run():
    network = nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU())
    assert "lazy" in fastgan.fusion_report(network)["0"].reason
    fastgan.fuse(network)(X)
    fastgan.fuse(network)
    assert fastgan.fusion_report(network)["0"].reason == "conv + relu"
    with OpRecorder() as calls:
        network(X)
    assert calls.counts() == {"conv_bias_act": 1}


IN_PLACE = {
    "first": lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 3)),
    "identity": lambda: nn.Sequential(nn.Identity(), nn.ReLU(inplace=True)),
    "flatten": lambda: nn.Sequential(nn.Flatten(), nn.LeakyReLU(0.2, inplace=True)),
    "dropout": lambda: nn.Sequential(nn.Dropout(0.0), nn.LeakyReLU(0.2, inplace=True)).eval(),
    "nested": lambda: nn.Sequential(nn.Sequential(nn.Identity()), nn.SiLU(inplace=True)),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_an_activation_in_place_overwrites_an_input_that_others_use(name):
    plain = IN_PLACE[name]()
    ours = fastgan.fuse(copy.deepcopy(plain))
    x, v = X.clone(), X.clone()
    assert torch.equal(ours(x), plain(v))
    assert torch.equal(x, v)
    assert not torch.equal(x, X)


class Custom(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 3, 3, padding=1), nn.LeakyReLU(0.2, inplace=True)
        self.calls, self.alpha = [], 0.5


class InPlaceOnTheInput(Custom):
    def forward(self, x):
        h = F.relu(x, inplace=True)
        return self.conv(h) + x


class InPlaceUsedLater(Custom):
    def forward(self, x):
        y = self.conv(x)
        h = self.act(y)
        return h * 2 + y


class UsedInALoop(Custom):
    def forward(self, x):
        kept = []
        for _ in range(2):
            y = self.conv(x)
            kept.append(y)
            x = self.act(y)
        return sum(kept) + x


class OverwrittenLater(Custom):
    """PyTorch allows to overwrite the output of a leaky ReLU before the backward pass."""

    def forward(self, x):
        h = F.leaky_relu(self.conv(x), 0.2)
        h += 1
        h = F.leaky_relu(h, 0.2)
        h.mul_(2)
        return h


class ReadByANestedFunction(Custom):
    def forward(self, x):
        mean = lambda: y.abs().mean().item()  # noqa: E731
        y = self.conv(x)
        y = F.leaky_relu(y, mean())
        return y


class Swallowed(Custom):
    def forward(self, x):
        try:
            x = self.conv(x)
            x = self.act(x, None)
        except TypeError:
            return x
        return x


class Shadowed(Custom):
    def forward(self, x, torch=None):
        relu = self.conv
        return relu(relu(x)) + (0 if torch is None else torch.relu(x))


class PythonState(Custom):
    """Side effects, branches, keyword arguments and contexts, which tracing would lose."""

    def forward(self, x, *rest, gate=None, **named):
        self.calls.append(len(rest))
        x = F.leaky_relu(self.conv(x), self.alpha)
        if random.random() < 2 and x.sum() > -1e9 and self.training:
            x = torch.tanh(x)
        if gate is not None:
            x = torch.sigmoid(gate) * x
        with torch.no_grad():
            offset = torch.relu(self.conv(x))
        return x + offset + sum(rest) + named.get("extra", 0)


CUSTOM = [
    InPlaceOnTheInput, InPlaceUsedLater, UsedInALoop, OverwrittenLater, ReadByANestedFunction, Swallowed, Shadowed,
    PythonState,
]  # fmt: skip


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", CUSTOM)
def test_a_rewritten_forward_computes_the_same(kind, training):
    plain = kind().train(training)
    ours = fastgan.fuse(copy.deepcopy(plain))
    assert [m for m in ours.modules() if type(m).__module__ == "fastgan.nn.fusion.fused_layers"]
    results = []
    for network in (ours, plain):
        leaf = X.clone().requires_grad_()
        x = leaf * 1
        y = network(x)
        results.append([y, x, *torch.autograd.grad(y.square().sum(), [leaf, *network.parameters()])])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_all_kinds_of_calls_and_attributes_read_at_run_time():
    plain = PythonState()
    ours = fastgan.fuse(copy.deepcopy(plain))
    assert fastgan.fusion_report(plain)[""].reason.startswith("4 activations called in its forward, 2 as one op with")
    for network in (ours, plain):
        network.alpha = 0.3
    for args, kwargs in [((X,), {}), ((X, 1, 2), {"gate": X}), ((), {"x": X, "extra": X}), ((X,), {"gate": None})]:
        torch.testing.assert_close(ours(*args, **kwargs), plain(*args, **kwargs))
    assert ours.calls == plain.calls


def test_a_method_whose_source_is_not_what_runs_is_not_rewritten():
    class Changed(Custom):
        def forward(self, x):
            return F.relu(self.conv(x))

    code = Changed.forward.__code__
    Changed.forward.__code__ = code.replace(co_consts=(*code.co_consts, "edited since"))
    reason = fastgan.fusion_report(Changed())[""].reason
    assert reason.startswith("its forward is not rewritten: its source is not what runs; in a step of fastgan.compile")

    scope = {"Custom": Custom, "F": F}
    exec("class Typed(Custom):\n    def forward(self, x):\n        return F.relu(self.conv(x))", scope)
    reason = fastgan.fusion_report(scope["Typed"]())[""].reason
    assert reason.startswith("its forward is not rewritten: its source is not available;")

    class Decorated(Custom):
        @torch.no_grad()
        def forward(self, x):
            return F.relu(self.conv(x))

    network = fastgan.fuse(Decorated())
    assert fastgan.fusion_report(network)[""].reason.startswith("its forward is not rewritten: it is decorated;")
    assert not network(X).requires_grad


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_functional_transforms_run_on_pytorch():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(144, 1), nn.Tanh())
    ours = fastgan.fuse(copy.deepcopy(network))
    parameters = dict(network.named_parameters())

    def loss(net, p, x):
        return torch.func.functional_call(net, p, (x[None],)).sum()

    def per_sample(net):
        return torch.func.vmap(torch.func.grad(lambda p, x: loss(net, p, x)), in_dims=(None, 0))(parameters, X)

    for name, want in per_sample(network).items():
        torch.testing.assert_close(per_sample(ours)[name], want)
    tangents = [torch.func.jvp(net, (X,), (torch.ones_like(X),))[1] for net in (ours, network)]
    torch.testing.assert_close(*tangents)


@pytest.mark.parametrize("shape", [(3, 8, 8), (0, 3, 8, 8)], ids=["one image", "no image"])
def test_inputs_of_other_shapes(shape):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.2), nn.ConvTranspose2d(4, 3, 3), nn.Tanh())
    ours = fastgan.fuse(copy.deepcopy(network))
    x = torch.randn(shape)
    torch.testing.assert_close(ours(x), network(x))
    torch.testing.assert_close(ours[1](x[..., 0].flatten()), network[1](x[..., 0].flatten()))


def test_double_under_autocast_stays_double():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3)).double()
    ours = fastgan.fuse(copy.deepcopy(network))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ours(X.double()), network(X.double()))


def test_a_transposed_convolution_takes_its_output_size():
    plain = nn.ConvTranspose2d(3, 4, 3, stride=2)
    ours = fastgan.fuse(copy.deepcopy(plain))
    torch.testing.assert_close(ours(X, output_size=[18, 18]), plain(X, output_size=[18, 18]))


def test_the_output_of_a_convolution_may_be_overwritten():
    """PyTorch's convolution does not save its output, and many networks add their skip connection to it in place."""
    for plain in (nn.Conv2d(3, 3, 3, padding=1), nn.ConvTranspose2d(3, 3, 3, padding=1), nn.Conv1d(3, 3, 1)):
        ours = fastgan.fuse(copy.deepcopy(plain))
        gradients = []
        for layer in (ours, plain):
            y = layer(X if not isinstance(plain, nn.Conv1d) else X[..., 0])
            y += 1
            y.square().sum().backward()
            gradients.append([p.grad for p in layer.parameters()])
        for got, want in zip(*gradients, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_a_leaky_relu_before_a_dropout_in_place_is_skipped():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.2), nn.Dropout(0.5, inplace=True))
    fastgan.fuse(network)(X).sum().backward()
    assert network[0].weight.grad is not None
    assert fastgan.fusion_report(network)["1"].status == "skipped"
