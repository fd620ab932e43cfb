"""Spectral norms in networks: PyTorch's numbers, groups, every="step", copies, compilation and errors."""

import copy
import pickle

import pytest
import torch
import torch.nn.utils
import torch.utils.checkpoint
from torch import nn
from torch.nn.utils import parametrizations

from fastgan.errors import UsageError
from fastgan.nn import (
    ConvBlock,
    ConvStack,
    LinearBlock,
    SpectralNorm,
    fold,
    group_spectral_norms,
    spectral_norm,
)
from fastgan.testing.op_recorder import OpRecorder

KINDS = {"parametrization": parametrizations.spectral_norm, "hook": torch.nn.utils.spectral_norm}
X = torch.randn(4, 3, 8, 8, dtype=torch.float64)


class Network(nn.Module):
    """One of each: convolution, transposed convolution, linear, embedding."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(3, 6, 4, 2, 1)
        self.up = nn.ConvTranspose2d(6, 5, 4, 2, 1)
        self.head = nn.Linear(5, 4)
        self.table = nn.Embedding(7, 5)

    def forward(self, x):
        h = self.up(torch.tanh(self.down(x))).mean((2, 3))
        return self.head(h) + (self.table(torch.arange(len(x))) * h).sum(1, keepdim=True)


def layers(network):
    return [network.down, network.up, network.head, network.table]


def torchs(kind, seed=0):
    """The network with PyTorch's norms."""
    torch.manual_seed(seed)
    network = Network().double()
    for layer in layers(network):
        KINDS[kind](layer)
    return network


def ours(kind, seed=0):
    if kind == "parametrization":
        torch.manual_seed(seed)
        return spectral_norm(Network().double())
    network = torchs(kind, seed)
    assert set(group_spectral_norms(network).values()) == {""}
    return network


def assert_same_state(a, b):
    assert list(a.state_dict()) == list(b.state_dict())
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-12, msg=lambda m, at=name: f"{at}: {m}")


def vectors(network):
    return {k: v.clone() for k, v in network.state_dict().items() if k.endswith(("_u", "_v"))}


def changed(before, network):
    return [k for k, v in vectors(network).items() if not torch.equal(v, before[k])]


def discriminator_step(network, optimizer):
    optimizer.zero_grad()
    (network(X).mean() - network(2 * X).tanh().mean()).backward()
    optimizer.step()


@pytest.mark.parametrize("kind", KINDS)
def test_training_gives_pytorch_s_numbers(kind):
    pair = [torchs(kind), ours(kind)]
    assert_same_state(*pair)
    optimizers = [torch.optim.SGD(network.parameters(), 0.1) for network in pair]
    for _ in range(4):
        for network, optimizer in zip(pair, optimizers, strict=True):
            discriminator_step(network, optimizer)
        assert_same_state(*pair)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("network", [torchs, ours])
def test_state_dicts_load_both_ways(kind, network):
    other = ours if network is torchs else torchs
    source, target = network(kind, seed=1), other(kind, seed=2)
    target.load_state_dict(source.state_dict())
    torch.testing.assert_close(source.eval()(X), target.eval()(X), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_pytorch_s_norms_are_replaced_in_place(kind):
    network = torchs(kind)
    alone = copy.deepcopy(network)
    buffers = {name: buffer.data_ptr() for name, buffer in network.named_buffers()}
    assert group_spectral_norms(network) == {"down": "", "up": "", "head": "", "table": ""}
    assert {name: buffer.data_ptr() for name, buffer in network.named_buffers()} == buffers
    torch.testing.assert_close(network(X), alone(X), rtol=1e-10, atol=1e-12)
    assert_same_state(network, alone)


def test_a_run_of_the_network_computes_all_norms_as_one_operation():
    network = ours("parametrization")
    with OpRecorder() as calls:
        network(X).sum().backward()
    assert calls.counts() == {"spectral_normalize": 1, "spectral_scale_grad": 1}


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_that_is_called_alone_is_normalized_alone(kind):
    pair = [torchs(kind), ours(kind)]
    for network in pair:
        network.down(X)
    assert_same_state(*pair)


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_that_does_not_run_keeps_its_vectors_and_one_that_runs_twice_iterates_twice(kind):
    class Odd(Network):
        def forward(self, x):
            return self.down(x).sum() + self.down(x + 1).sum()

    pair = [torchs(kind), ours(kind)]
    for network in pair:
        network.__class__ = Odd
        before = vectors(network)
        network(X)
        assert {name.split(".")[0] for name in changed(before, network)} == {"down"}
    assert_same_state(*pair)


@pytest.mark.parametrize("kind", KINDS)
def test_eval_changes_nothing_and_uses_the_vectors(kind):
    network, reference = ours(kind).eval(), torchs(kind).eval()
    before = vectors(network)
    torch.testing.assert_close(network(X), reference(X), rtol=1e-12, atol=1e-12)
    assert changed(before, network) == []


def test_a_part_in_eval_mode_does_not_iterate():
    network, reference = ours("parametrization"), torchs("parametrization")
    before = vectors(network)
    for one in (network, reference):
        one.up.eval()
        one(X)
    assert {name.split(".")[0] for name in changed(before, network)} == {"down", "head", "table"}
    assert_same_state(network, reference)


# --- every="step" ----------------------------------------------------------------------------------------------------


def test_every_step_iterates_once_per_step_of_its_optimizer():
    network = spectral_norm(Network().double(), every="step")
    own = torch.optim.Adam(network.parameters(), 1e-2)
    unrelated = torch.optim.Adam([nn.Parameter(torch.zeros(1))])
    unrelated.param_groups[0]["params"][0].grad = torch.zeros(1)
    network(X)
    for _ in range(3):
        discriminator_step(network, own)
        before = vectors(network)
        network(X)
        assert len(changed(before, network)) == 8, "the first run after a step iterates"
        before = vectors(network)
        network(X)
        unrelated.step()
        network(X)
        assert changed(before, network) == [], "no other run does"


def test_every_step_normalizes_with_the_current_weights():
    network = spectral_norm(Network().double(), every="step")
    network(X)
    y = network(X)
    with torch.no_grad():
        for layer in layers(network):
            layer.parametrizations.weight.original.mul_(3)
    torch.testing.assert_close(network(X), y, rtol=1e-12, atol=1e-12)


def test_gradients_of_every_step_are_those_of_every_forward():
    networks = [spectral_norm(copy.deepcopy(Network().double()), every="step")]
    networks.append(copy.deepcopy(networks[0]).eval())
    gradients = []
    networks[0](X)
    networks[1].load_state_dict(networks[0].state_dict())
    for network in networks:
        gradients.append(torch.autograd.grad(network(X).square().sum(), list(network.parameters())))
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


def test_a_copy_with_every_step_follows_its_own_optimizer():
    original = spectral_norm(Network().double(), every="step")
    copied = copy.deepcopy(original)
    for network in (original, copied):
        network(X)
    discriminator_step(copied, torch.optim.SGD(copied.parameters(), 0.1))
    before, kept = vectors(copied), vectors(original)
    copied(X)
    original(X)
    assert changed(before, copied)
    assert not changed(kept, original)


def single_layer():
    return nn.Linear(5, 4).double(), lambda layer: layer(torch.ones(2, 5, dtype=torch.float64)).sum()


def one_in_eval():
    network = Network().double()
    network.up.eval()
    return network, lambda network: network(X).sum()


def not_through_call():
    return Network().double(), lambda network: network.forward(X).sum()


@pytest.mark.parametrize("case", [single_layer, one_in_eval, not_through_call])
def test_every_step_iterates_however_the_network_is_run(case):
    network, run = case()
    spectral_norm(network, every="step")
    if case is one_in_eval:
        network.up.eval()
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    run(network)
    for _ in range(3):
        optimizer.zero_grad()
        run(network).backward()
        optimizer.step()
        before = vectors(network)
        run(network)
        run(network)
        once = vectors(network)
        assert changed(before, network), "iterates after the step"
        run(network)
        assert changed(once, network) == [], "and only once"


# --- other uses ------------------------------------------------------------------------------------------------------


# Dynamo reads `grad` of every tensor that enters a graph.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("every", ["forward", "step"])
def test_compiles_whole_and_gives_the_same_numbers(every):
    network = spectral_norm(Network().double(), every=every)
    eager, graph = copy.deepcopy(network), torch.compile(network, fullgraph=True, backend="aot_eager")
    optimizers = [torch.optim.SGD(n.parameters(), 0.1) for n in (eager, network)]
    for _ in range(3):
        for call, optimizer in ((eager, optimizers[0]), (graph, optimizers[1])):
            optimizer.zero_grad()
            (call(X).mean() - call(2 * X).tanh().mean()).backward()
            optimizer.step()
        assert_same_state(eager, network)


def test_deepcopy_and_pickle():
    network = ours("hook")
    for copied in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        before = vectors(network)
        with OpRecorder() as calls:
            copied(X)
        assert calls.counts()["spectral_normalize"] == 1
        assert changed(before, network) == []
        assert changed(before, copied)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_a_weight_that_is_not_finite_is_named_and_buffers_are_kept(value):
    network = ours("parametrization")
    with torch.no_grad():
        weight = network.up.parametrizations.weight.original
        if value:
            weight[1, 2, 0, 0] = value
        else:
            weight.zero_()
    before = vectors(network)
    reason = "NaN, infinity or too large numbers in it" if value else "zero everywhere"
    with pytest.raises(RuntimeError, match=rf"the weight of up \({reason}\) has no spectral norm; .* last good values"):
        network(X)
    assert changed(before, network) == []
    with torch.no_grad():
        weight.normal_()
    assert network(X).isfinite().all()


def test_a_failed_run_leaves_the_same_state_as_pytorch_s():
    pair = [torchs("parametrization"), ours("parametrization")]
    for network in pair:
        with pytest.raises(RuntimeError):
            network(X[:, :2])  # the first layer has read its weight, the others have not
        with torch.no_grad():
            network.down.parametrizations.weight.original[0].mul_(5)
    assert_same_state(*pair)
    torch.testing.assert_close(fold(pair[1]).down.weight, pair[0].eval().down.weight, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(pair[1](X), pair[0].train()(X), rtol=1e-12, atol=1e-12)


def test_checkpointing_gives_pytorch_s_numbers():
    # Recomputation reads every weight again, as with PyTorch's norms, and stops in the middle of the network.
    pair = [torchs("parametrization"), ours("parametrization")]
    for network in pair:
        for _ in range(2):
            torch.utils.checkpoint.checkpoint(network, X, use_reentrant=False).sum().backward()
    assert_same_state(*pair)


def test_half_precision_and_mixed_dtypes():
    network = spectral_norm(Network()).bfloat16()
    assert network(X.bfloat16()).isfinite().all()
    mixed = spectral_norm(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    mixed[1].double()
    h = mixed[0](torch.randn(2, 4))
    assert mixed[1](h.double()).dtype == torch.float64


def test_a_frozen_network_and_a_frozen_layer():
    network = ours("parametrization")
    network.down.requires_grad_(False)
    x = X.clone().requires_grad_()
    network(x).sum().backward()
    assert x.grad is not None
    assert network.down.parametrizations.weight.original.grad is None
    assert network.up.parametrizations.weight.original.grad is not None
    network.requires_grad_(False)
    (g,) = torch.autograd.grad(network(x).sum(), x)
    assert g.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("network", [torchs, ours])
def test_fold(kind, network):
    source = network(kind)
    source(X)
    folded = fold(source)
    assert set(folded.state_dict()) == set(Network().state_dict())
    assert type(folded.down) is nn.Conv2d
    torch.testing.assert_close(folded(X), source.eval()(X), rtol=1e-12, atol=1e-12)
    source.train()(X).sum().backward()  # the original still works


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: spectral_norm(nn.ReLU()), UsageError, "module: expected layers to normalize, got none in ReLU"),
        (lambda: spectral_norm(spectral_norm(Network())), UsageError, "module: down has a spectral norm already"),
        (lambda: spectral_norm(Network(), 0), UsageError, "n_power_iterations: expected a whole number >= 1, got 0"),
        (lambda: spectral_norm(Network(), every="epoch"), UsageError, "every: expected one of forward, step, got 'epo"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_ungrouped_norms_have_a_reason():
    class Twice(nn.Module):
        def forward(self, weight):
            return 2 * weight

    network = nn.Sequential(*(parametrizations.spectral_norm(nn.Linear(3, 3)) for _ in range(3)))
    torch.nn.utils.parametrize.register_parametrization(network[1], "weight", Twice())
    reasons = group_spectral_norms(network)
    assert reasons == {"0": "", "1": "the weight has other parametrizations besides the spectral norm", "2": ""}
    assert network(torch.randn(2, 3)).shape == (2, 3)


def test_the_norm_bounds_the_layer():
    torch.manual_seed(0)
    network = spectral_norm(Network().double(), n_power_iterations=3)
    for _ in range(30):
        network(X)
    matrix = network.down.weight.flatten(1)
    assert torch.linalg.matrix_norm(matrix, 2).item() == pytest.approx(1, abs=1e-3)
    assert isinstance(network.down.parametrizations.weight[0], SpectralNorm)


def test_norms_may_be_removed_by_pytorch_s_functions():
    for kind, remove in (
        ("parametrization", lambda layer: torch.nn.utils.parametrize.remove_parametrizations(layer, "weight")),
        ("hook", torch.nn.utils.remove_spectral_norm),
    ):
        pair = [torchs(kind), ours(kind)]
        for network in pair:
            network(X)
            remove(network.up)
            for _ in range(2):
                network(X)
        assert_same_state(*pair)


def test_a_user_s_own_norm_is_not_replaced():
    class Doubled(torch.nn.utils.parametrizations._SpectralNorm):
        def forward(self, weight):
            return 2 * super().forward(weight)

    layers = [nn.Linear(3, 3).double() for _ in range(2)]
    for layer in layers:
        torch.nn.utils.parametrize.register_parametrization(layer, "weight", Doubled(layer.weight))
    network = nn.Sequential(*layers)
    alone = copy.deepcopy(network)
    assert group_spectral_norms(network) == {}
    x = torch.randn(2, 3, dtype=torch.float64)
    assert torch.equal(network(x), alone(x))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch.func.jvp's own
def test_transforms_of_torch_func_use_plain_pytorch():
    network, reference = ours("parametrization").eval(), torchs("parametrization").eval()
    tangent = torch.randn_like(X)
    got, want = (torch.func.jvp(one, (X,), (tangent,)) for one in (network, reference))
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)

    def total(network, parameters):
        return torch.func.functional_call(network, parameters, (X,)).square().sum()

    found = [
        torch.func.grad(lambda p, one=one: total(one, p))({k: v.detach() for k, v in one.named_parameters()})
        for one in (network, reference)
    ]
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("hook", [torch.nn.utils.spectral_norm, torch.nn.utils.weight_norm], ids=["spectral", "weight"])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_blocks_train_under_hooks_on_their_layers(hook):
    torch.manual_seed(0)
    stack = ConvStack(ConvBlock(3, 4, 3, padding=1), ConvBlock(4, 4, 3, padding=1)).double()
    linear = LinearBlock(4, 2).double()
    for layer in (stack[0].conv, stack[1].conv, linear.linear):
        hook(layer)
    for _ in range(2):
        y = linear(stack(X).mean((2, 3)))
        y.square().sum().backward()
    assert all(parameter.grad is not None for parameter in [*stack.parameters(), *linear.parameters()])
    plain = [stack[0].conv, stack[1].conv]
    stack.eval()
    expected = X
    for conv in plain:
        expected = torch.nn.functional.leaky_relu(conv(expected), 0.2)
    torch.testing.assert_close(stack(X), expected)


def test_a_stack_follows_the_attributes_of_its_blocks():
    class Loud(ConvBlock):
        def forward(self, x):
            return 2 * super().forward(x)

    stack = ConvStack(ConvBlock(3, 4, 3, padding=1), Loud(4, 4, 3, padding=1), ConvBlock(4, 4, 1)).double()
    expected = X
    for block in stack:
        expected = block(expected)
    torch.testing.assert_close(stack(X), expected)
    stack[2].forward = lambda x: 0 * x
    assert not stack(X).any()
