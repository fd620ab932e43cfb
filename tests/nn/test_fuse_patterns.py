"""fuse on the patterns of users' forwards: conditions, loops, convolutions of their own, activations in place."""

import copy
import functools
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import spectral_norm, weight_norm

import fastgan
from fastgan.engine.dynamo import DynamoStep
from fastgan.engine.host_state import HostState
from fastgan.errors import UsageError
from fastgan.testing.equivalence import assert_same, outputs_and_gradients
from fastgan.testing.op_recorder import OpRecorder

X = torch.randn(2, 3, 9, 8, dtype=torch.float64)


class OwnNorm(nn.Conv2d):
    """A convolution that computes its weight, with a state that changes at every run."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.register_buffer("runs", torch.ones(1))

    def own_weight(self):
        self.runs += 1
        return self.weight / self.runs

    def forward(self, x):
        return F.conv2d(x, self.own_weight(), self.bias, self.stride, self.padding, self.dilation, self.groups)


class PadsFirst(nn.Conv2d):
    def forward(self, x):
        x = F.pad(x, [0, 1, 0, 1])
        return super().forward(x)


class OwnInner(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight.abs(), bias)


class CallsInner(nn.Conv2d):
    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight, self.bias)


class OwnLinear(nn.Linear):
    def forward(self, x):
        return F.linear(x, self.weight * 2, self.bias)


class Named(nn.Conv2d):
    """Another constructor alone."""

    def __init__(self, channels, out):
        super().__init__(channels, out, 3)


class ActNorm(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(1, channels, 1, 1))

    def forward(self, x):
        return x * self.scale + 0.1


class Block(nn.Module):
    """Norm and activation behind conditions."""

    def __init__(self, conv, norm=None, act=None):
        super().__init__()
        self.conv, self.norm, self.act = conv, norm, act

    def forward(self, x):
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x)
        if self.act:
            x = self.act(x)
        return x


class Branches(nn.Module):
    def __init__(self, mode):
        super().__init__()
        self.mode = mode
        self.conv1, self.conv2, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 1), nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        skip = x
        x = self.conv1(x)
        if self.mode == "norm":
            x = self.norm(x)
        elif self.mode == "double" and self.training:
            x = x * 2
        x = self.act(x)
        x = self.conv2(x)
        x += skip
        return x


class AnotherName(Branches):
    def forward(self, x):
        x = self.conv1(x)
        if self.mode == "norm":
            x = self.norm(x)
        out = self.act(x)
        return self.conv2(out)


class AnotherNameIsReadLater(Branches):
    def forward(self, x):
        for _ in range(2):
            y = self.conv1(x)
            out = F.relu(y)
            x = self.conv2(out)
        z = self.conv1(x)
        out = torch.tanh(z)
        return self.conv2(out) + z.mean() + y.mean()


class ReadsInACondition(Branches):
    def forward(self, x):
        x = self.conv1(x)
        if x.mean() > -1e9:
            x = self.act(x)
        return self.conv2(x) + x.mean()


class UsedInOneBranch(Branches):
    """The name is read again where the activation did not replace it."""

    def forward(self, x):
        y = self.conv1(x)
        if self.mode == "norm":
            z = torch.relu(y)
        else:
            z = y * 3
            z = z + 1
        return self.conv2(z + y)


class ModulesInALoop(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Conv2d(3, 3, 3), nn.LeakyReLU(0.2, True), OwnNorm(3, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 1)]
        )

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return F.leaky_relu(x, 0.3)


class PairsInALoop(nn.Module):
    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([PadsFirst(3, 3, 2), CallsInner(3, 3, 2)])
        self.acts = nn.ModuleList([nn.ReLU(True), nn.Tanh()])

    def forward(self, x):
        for conv, act in zip(self.convs, self.acts, strict=True):
            x = act(conv(x))
        for i in range(2):
            x = self.convs[i](x)
            x = self.acts[i](x)
        return x


class FeatureMaps(nn.Module):
    """Collects what a loss compares, and adds to the last one in place."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(3, 3, 3, padding=1) for _ in range(3)])
        self.post = nn.Conv2d(3, 1, 1)

    def forward(self, x):
        maps = []
        for i, conv in enumerate(self.convs):
            x = conv(x)
            x = F.leaky_relu(x, 0.1)
            if i > 0:
                maps.append(x)
        x += x.mean()
        return self.post(x) + sum(m.mean() for m in maps)


class PreActivation(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.skip = (OwnNorm(3, 3, n, padding=n // 2) for n in (3, 3, 1))
        self.act, self.linear, self.pre = nn.ReLU(), OwnLinear(3, 4), True

    def forward(self, x):
        h = F.relu(x) if self.pre else x
        h = self.conv1(h)
        h = self.conv2(self.act(h))
        h = h + self.skip(x)
        return F.leaky_relu(self.linear(h.mean((2, 3))), 0.2)


class MadeWhereCalled(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return nn.ReLU(inplace=True)(nn.LeakyReLU(0.1)(self.conv(x)) - 0.1)


class Wrapper(nn.Module):
    """Returns what a layer returns: its activation is in the Sequential around it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)

    def forward(self, x):
        x = F.pad(x, (1, 1, 1, 1), mode="reflect")
        return self.conv(x)


class InAContext(nn.Module):
    """What a context returns is computed inside of it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)

    def forward(self, x):
        with torch.no_grad():
            return self.conv(x)


def followed(*layers, act=None):
    return nn.Sequential(*[m for layer in layers for m in (layer, act or nn.LeakyReLU(0.2, True))])


def padded(mode):
    first = nn.Conv2d(3, 4, 3, padding=(1, 2), padding_mode=mode)
    return followed(first, nn.Conv2d(4, 4, (3, 1), padding=1, padding_mode=mode))


#: name → (how it is made, the ops of one run, activations and convolutions that PyTorch runs).
NETWORKS = {
    "own_norm": (lambda: Block(OwnNorm(3, 4, 3), act=nn.LeakyReLU(0.2, True)), {"conv_bias_act": 1}),
    "act_norm": (
        lambda: Block(nn.Conv2d(3, 4, 3), ActNorm(4), nn.LeakyReLU(0.2, True)),
        {"conv_bias_act": 1, "bias_act": 1},
    ),
    "batch_norm": (
        lambda: Block(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(True)),
        {"conv_bias_act": 1, "bias_act": 1},
    ),
    "no_norm": (lambda: Block(nn.Conv2d(3, 4, 3), act=nn.ReLU()), {"conv_bias_act": 1}),
    "no_act": (lambda: Block(nn.Conv2d(3, 4, 3)), {"conv_bias_act": 1}),
    "blocks": (
        lambda: nn.Sequential(Block(nn.Conv2d(3, 3, 3)), nn.ReLU(True), Block(nn.Conv2d(3, 4, 3)), nn.Tanh()),
        {"conv_bias_act": 2},
    ),
    "branch_norm": (lambda: Branches("norm"), {"conv_bias_act": 2, "bias_act": 1}),
    "branch_double": (lambda: Branches("double"), {"conv_bias_act": 2, "bias_act": 1}),
    "branch_none": (lambda: Branches(""), {"conv_bias_act": 2}),
    "another_name": (lambda: AnotherName(""), {"conv_bias_act": 2}),
    "another_name_is_read_later": (lambda: AnotherNameIsReadLater(""), {"conv_bias_act": 6, "bias_act": 3}),
    "reads_in_a_condition": (lambda: ReadsInACondition(""), {"conv_bias_act": 2, "bias_act": 1}),
    "used_in_one_branch": (lambda: UsedInOneBranch("norm"), {"conv_bias_act": 2, "bias_act": 1}),
    "modules_in_a_loop": (ModulesInALoop, {"conv_bias_act": 3}),
    "pairs_in_a_loop": (PairsInALoop, {"conv_bias_act": 4}),
    "feature_maps": (FeatureMaps, {"conv_bias_act": 4}),
    "pre_activation": (PreActivation, {"conv_bias_act": 3, "bias_act": 2}),
    "made_where_called": (MadeWhereCalled, {"conv_bias_act": 1, "bias_act": 1}),
    "wrapper": (lambda: followed(Wrapper(), Wrapper()), {"conv_bias_act": 2}),
    "pads_first": (lambda: followed(PadsFirst(3, 4, 2)), {"conv_bias_act": 1}),
    "own_inner": (lambda: followed(OwnInner(3, 4, 2)), {"conv_bias_act": 1, "bias_act": 1}),
    "named": (lambda: followed(Named(3, 4), Named(4, 4)), {"conv_stack": 1}),
    "elu": (lambda: followed(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), act=nn.ELU(0.7, True)), {"conv_bias_act": 2}),
    "reflect": (lambda: padded("reflect"), {"conv_bias_act": 2}),
    "circular": (lambda: padded("circular"), {"conv_bias_act": 2}),
    "replicate": (lambda: padded("replicate"), {"conv_bias_act": 2}),
    "same": (
        lambda: followed(nn.Conv2d(3, 4, (5, 3), padding="same", dilation=(1, 2)), nn.Conv2d(4, 4, 3, padding="valid")),
        {"conv_bias_act": 2},
    ),
}
PLAIN = {"relu", "relu_", "leaky_relu", "leaky_relu_", "tanh", "elu", "elu_", "convolution"}


def pair_of(name):
    torch.manual_seed(0)
    network = NETWORKS[name][0]().double()
    return network, fastgan.fuse(copy.deepcopy(network))


@pytest.mark.parametrize("name", NETWORKS)
def test_one_op_for_a_layer_and_its_activation_and_the_same_gradients(name):
    network, ours = pair_of(name)
    with OpRecorder() as calls:
        copy.deepcopy(ours)(X)
    assert calls.counts() == NETWORKS[name][1]
    assert not PLAIN & calls.counts("aten").keys()
    assert_same(outputs_and_gradients(ours, X), outputs_and_gradients(network, X))
    assert_same(list(ours.buffers()), list(network.buffers()))
    assert str(fastgan.fusion_report(network)) == str(fastgan.fusion_report(ours))
    assert type(pickle.loads(pickle.dumps(ours))) is type(ours)


def test_what_a_context_returns_is_computed_inside_of_it():
    ours = fastgan.fuse(followed(InAContext(), act=nn.ReLU()).double())
    assert not ours(X).requires_grad


def test_an_even_kernel_with_padding_same():
    network = nn.Conv2d(3, 4, (4, 2), padding="same").double()
    ours = fastgan.fuse(copy.deepcopy(network))
    with pytest.warns(UserWarning, match="zero-padded copy"):
        want = network(X)
    torch.testing.assert_close(ours(X), want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "name", ["own_norm", "branch_none", "feature_maps", "pads_first", "pairs_in_a_loop", "reflect"]
)
def test_compiles_whole(name):
    network, ours = pair_of(name)
    torch._dynamo.reset()
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    v = X.clone().requires_grad_()
    torch.testing.assert_close(compiled(v), network(v), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no_norm", "1 activation called in its forward, 1 as one op where a layer runs directly before it"),
        ("act_norm", "1 activation called in its forward, 1 as one op where a layer runs directly before it"),
        ("no_act", "its result, with the activation after it"),
        ("modules_in_a_loop", "a loop over modules, a layer with the activation after it as one op"),
        ("made_where_called", "2 activations called in its forward, 1 as one op with the layer before"),
        ("pre_activation", "3 activations called in its forward, 2 as one op where a layer runs directly before it"),
    ],
)
def test_the_report_says_what_runs(name, reason):
    report = fastgan.fusion_report(pair_of(name)[0])
    assert reason in report[""].reason
    rows = {row.name: row.reason for row in report}
    assert rows.get("norm", "") in (
        "",
        "calls no activation or convolution as a function; its children have rows of their own",
    )
    assert rows.get("act", "leaky_relu") in ("relu", "leaky_relu", "tanh")


# --- activations in place ---------------------------------------------------------------------------------------------


class Aliases(nn.Module):
    """Whoever refers to the tensor sees that it was overwritten."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.conv = kind, nn.Conv2d(3, 3, 3, padding=1)
        self.act = nn.LeakyReLU(0.2, inplace=True)

    def forward(self, x):
        y = self.conv(x) * 2
        kept = [y]
        if self.kind == "view":
            kept.append(y[:, :1])
        elif self.kind == "detached":
            kept.append(y.detach())
        elif self.kind == "saved":
            y = y.exp()
            kept.append(y)
        z = self.act(y)
        return self.conv(z) + sum(k.mean() for k in kept)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("kind", ["name", "view", "detached"])
def test_an_activation_in_place_is_seen_by_all_that_refer_to_its_input(kind, grad):
    torch.manual_seed(0)
    network = Aliases(kind).double()
    ours = fastgan.fuse(copy.deepcopy(network))
    if grad:
        assert_same(outputs_and_gradients(ours, X), outputs_and_gradients(network, X))
    else:
        with torch.no_grad():
            assert_same([ours(X)], [network(X)])


def test_overwriting_what_another_op_saved_is_pytorchs_error():
    ours = fastgan.fuse(Aliases("saved").double())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        ours(X).sum().backward()


def test_an_input_is_overwritten_where_it_lies():
    network = fastgan.fuse(nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 3, 1))).double()
    x = X.clone()
    address = x.data_ptr()
    network(x)
    assert torch.equal(x, X.relu())
    assert x.data_ptr() == address
    with pytest.raises(RuntimeError, match="leaf Variable"):
        network(X.clone().requires_grad_())


# --- the older norms ----------------------------------------------------------------------------------------------


class Period(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.convs = nn.ModuleList([norm(nn.Conv2d(3, 4, 3, 2, 1)), norm(nn.Conv2d(4, 4, 3, 2, 1))])
        self.post, self.linear = norm(nn.Conv2d(4, 1, 1)), norm(nn.Linear(6, 1))

    def forward(self, x):
        maps = []
        for conv in self.convs:
            x = conv(x)
            x = F.leaky_relu(x, 0.1)
            maps.append(x)
        x = self.post(x)
        return self.linear(x.flatten(1)) + sum(m.mean() for m in maps)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
@pytest.mark.parametrize("norm", [weight_norm, spectral_norm])
def test_a_hook_computes_the_weight_once_and_leaves_it_where_pytorch_does(norm):
    torch.manual_seed(0)
    ours, network = fastgan.fuse(Period(norm).double()), Period(norm).double()
    network.load_state_dict(ours.state_dict())
    with OpRecorder() as calls:
        ours(X)
    network(X)
    assert calls.counts()["conv_bias_act"] == 3
    assert calls.counts("aten").get("_weight_norm_interface", 4) == 4
    assert_same(outputs_and_gradients(ours, X), outputs_and_gradients(network, X))
    assert_same([ours.convs[0].weight, ours.linear.weight], [network.convs[0].weight, network.linear.weight])
    assert ours.convs[0].weight.requires_grad


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
@pytest.mark.parametrize("norm", [weight_norm, spectral_norm])
def test_a_network_with_hooks_can_be_copied_after_a_run(norm):
    ours = fastgan.fuse(Period(norm).double())
    ours(X)
    ours.eval()
    for again in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), copy.copy(ours)):
        assert [type(m) for m in again.modules()] == [type(m) for m in ours.modules()]
        assert torch.equal(again(X), ours(X))
    again = copy.deepcopy(ours)
    with torch.no_grad():
        again.convs[0].bias.add_(1)
    assert not torch.equal(again(X), ours(X))


# Dynamo reads `grad` of every tensor that enters a graph.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
@pytest.mark.parametrize("norm", [weight_norm, spectral_norm])
def test_dynamo_takes_a_step_with_a_penalty_through_hooks(norm):
    ours, plain = fastgan.fuse(Period(norm).double()), Period(norm).double()
    plain.load_state_dict(ours.state_dict())

    def step_of(network):
        parameters = list(network.parameters())

        def step(x):
            x = x.detach().requires_grad_()
            y = network(x).sum()
            (gradient,) = torch.autograd.grad(y, x, create_graph=True)
            # The weights that the hooks left in the layers have a graph within the step.
            decay = sum(layer.weight.square().sum() for layer in [*network.convs, network.linear])
            return torch.autograd.grad(y + gradient.square().sum() + decay, parameters)

        return step

    step = step_of(ours)
    torch._dynamo.reset()
    compiled = DynamoStep(
        step, functools.partial(torch.compile, backend="aot_eager", fullgraph=True), HostState(step).computed_weights()
    )
    assert_same(compiled(X), step_of(plain)(X))
    assert not ours.convs[0].weight.requires_grad


# --- scripts ----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
@pytest.mark.parametrize("name", ["wrapper", "no_norm", "reflect"])
def test_torch_jit_script_is_refused_in_one_sentence(name):
    with pytest.raises(UsageError, match=r"torch\.jit\.script: expected a network before fuse"):
        torch.jit.script(pair_of(name)[1])
