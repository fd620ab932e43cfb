"""fuse on networks in the styles of public code: the same gradients of every order, state dicts, copies and types."""

import copy
import io
import pickle
import re
from collections import Counter

import pytest
import torch
from torch import nn

import fastgan
from fastgan.engine.passes import passes_of
from fastgan.errors import UsageError
from fastgan.nn import SpectralNorm
from fastgan.testing.equivalence import assert_same, outputs_and_gradients
from fastgan.testing.networks import NETWORKS, make
from fastgan.testing.op_recorder import OpRecorder
from fastgan.testing.tolerances import assert_as_good_as

#: PyTorch pickles no module with parametrizations, fused or not.
PICKLED = [name for name in NETWORKS if name != "spectral_parametrized"]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_of_all_orders_are_equal_in_double(name, training, layout, fused):
    network, x = make(name)
    if layout is torch.channels_last:
        if x.dim() != 4:
            pytest.skip("not images")
        network, x = network.to(memory_format=layout), x.to(memory_format=layout)
    network.train(training)
    ours = fused(network)
    with OpRecorder() as calls:
        got = outputs_and_gradients(ours, x)
    assert calls.counts(), "nothing ran on our ops"
    assert_same(got, outputs_and_gradients(network, x))
    assert_same(list(ours.buffers()), list(network.buffers()))


@pytest.mark.parametrize(
    ("name", "ours", "left"),
    [
        ("dcgan", {"conv_bias_act": 2, "conv": 1, "bias_act": 1}, 0),
        ("resnet", {"conv_bias_act": 7, "bias_act": 3}, 0),
        ("resnet_inplace", {"conv_bias_act": 7, "bias_act": 3}, 0),
        ("torchvision_block", {"conv": 2, "bias_act": 2}, 0),
        ("functional", {"conv_bias_act": 2, "bias_act": 3}, 0),
        ("shared_inplace", {"conv_bias_act": 2, "bias_act": 1}, 0),
        ("function_attribute", {"conv_bias_act": 2, "bias_act": 1}, 0),
        ("helper_function", {"conv_bias_act": 2, "bias_act": 2}, 0),
        ("generator", {"conv_dgrad": 3, "bias_act": 3}, 0),
        ("spectral_parametrized", {"spectral_normalize": 1, "conv_stack": 1}, 0),
        ("spectral_hook", {"spectral_normalize": 1, "conv_stack": 1}, 0),
    ],
)
def test_a_layer_and_its_activation_are_one_op(name, ours, left):
    network, x = make(name)
    fastgan.fuse(network)
    with OpRecorder() as calls:
        network(x)
    assert calls.counts() == ours
    plain = calls.counts("aten")
    assert sum(plain.get(act, 0) for act in ("relu", "relu_", "leaky_relu", "leaky_relu_", "tanh", "sigmoid")) == left


@pytest.mark.parametrize("name", NETWORKS)
def test_as_good_as_pytorch_in_float32(name, fused):
    network, x = make(name, torch.float32)
    truth = outputs_and_gradients(copy.deepcopy(network).double(), x.double())
    plain, ours = outputs_and_gradients(copy.deepcopy(network), x), outputs_and_gradients(fused(network), x)
    for i, (mine, theirs, true) in enumerate(zip(ours, plain, truth, strict=True)):
        if true is not None and true.any() and theirs.abs().max() > 1e-4:
            assert_as_good_as(mine, theirs, true, 4.0, terms=256, what=f"quantity {i}")


@pytest.mark.parametrize("name", NETWORKS)
def test_state_dicts_are_unchanged_and_load_both_ways(name, fused):
    network, _ = make(name)
    ours = fused(network)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in network.state_dict().items()}
    file = io.BytesIO()
    torch.save(ours.state_dict(), file)
    file.seek(0)
    network.load_state_dict(torch.load(file), strict=True)
    ours.load_state_dict(network.state_dict(), strict=True)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_deep_copy_is_fused_and_independent(name, fused):
    network, x = make(name)
    ours = fused(network)
    ema = copy.deepcopy(ours)
    assert [type(m).__mro__[1:] for m in ema.modules()] == [type(m).__mro__[1:] for m in ours.modules()]
    assert_same(outputs_and_gradients(copy.deepcopy(ema), x), outputs_and_gradients(copy.deepcopy(ours), x))
    with torch.no_grad():
        for slow, fast in zip(ema.parameters(), ours.parameters(), strict=True):
            slow.lerp_(fast + 1, 0.5)
        for slow, fast in zip(ema.parameters(), network.parameters(), strict=True):
            fast.copy_(slow)
    network.eval(), ema.eval()
    torch.testing.assert_close(ema(x), network(x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", PICKLED)
def test_pickles(name, fused):
    network, x = make(name)
    ours = fused(network).eval()
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    for again in (pickle.loads(pickle.dumps(ours)), torch.load(file, weights_only=False), copy.copy(ours)):
        assert [type(m) for m in again.modules()] == [type(m) for m in ours.modules()]
        assert torch.equal(again(x), ours(x))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_report_is_the_same_before_and_after_and_fuse_is_idempotent(name):
    network, _ = make(name)
    before = fastgan.fusion_report(network)
    assert [row.name for row in before] == [n for n, _ in network.named_modules() if "parametrizations" not in n]
    classes = [type(m) for m in fastgan.fuse(network).modules()]
    assert str(fastgan.fusion_report(network)) == str(before)
    assert fastgan.fuse(network) is network
    assert [type(m) for m in network.modules()] == classes


@pytest.mark.parametrize("name", NETWORKS)
def test_types_and_names_are_those_of_the_original(name, fused):
    network, _ = make(name)
    ours = fused(network)
    assert re.sub(r"SpectralNorm\(n_power_iterations=1, every='forward'\)", "_SpectralNorm()", repr(ours)) == repr(
        network
    )
    for plain, own in zip(network.modules(), ours.modules(), strict=True):
        if isinstance(own, SpectralNorm):
            continue
        kind = nn.utils.parametrize.type_before_parametrizations(plain)
        assert isinstance(own, kind)
        assert isinstance(nn.utils.parametrize.type_before_parametrizations(own), type)
        assert nn.utils.parametrize.type_before_parametrizations(own).__name__ == kind.__name__


# Dynamo reads `grad` of every tensor that enters a graph.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("name", NETWORKS)
def test_compiles_whole(name, fused):
    network, x = make(name)
    if "spectral" in name:
        network.eval()  # PyTorch's spectral norm changes buffers in training mode
    ours = fused(network)
    torch._dynamo.reset()
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    results = []
    for call in (compiled, network):
        v = x.clone().requires_grad_()
        y = call(v)
        parameters = list((ours if call is compiled else network).parameters())
        results.append([y, *torch.autograd.grad(y.square().sum(), [v, *parameters], allow_unused=True)])
    assert_same(*results)


@pytest.mark.parametrize("name", NETWORKS)
def test_autocast(name, fused):
    network, x = make(name, torch.float32)
    network.eval()
    ours = fused(network)
    with torch.autocast("cpu", torch.bfloat16):
        got, want = ours(x), network(x)
    assert got.dtype == want.dtype
    torch.testing.assert_close(got, want, rtol=0.05, atol=0.05)


def test_frozen_parameters_get_no_gradient(fused):
    network, x = make("plain_discriminator")
    ours = fused(network).requires_grad_(False)
    ours[0].weight.requires_grad_(True)
    ours(x).sum().backward()
    assert [n for n, p in ours.named_parameters() if p.grad is not None] == ["0.weight"]


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_a_penalty_runs_only_the_passes_that_it_needs(depth):
    """L layers: L input gradients, L − 1 tangents, L weight gradients, and no zeros of an activation's size."""
    torch.manual_seed(0)
    layers = [module for _ in range(depth) for module in (nn.Conv2d(4, 4, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True))]
    discriminator = fastgan.fuse(nn.Sequential(*layers))
    x = torch.randn(2, 4, 32, 32, requires_grad=True)
    with OpRecorder() as calls:
        (gradient,) = torch.autograd.grad(discriminator(x).sum(), x, create_graph=True)
        penalty = (gradient.flatten(1).norm(dim=1) - 1).square().mean()
        penalty.backward(inputs=list(discriminator.parameters()))
    passes = Counter()
    for call in calls.calls:
        passes[call.name] += passes_of(call.overload, call.args)
    for name in ("conv", "conv_wgrad"):  # both in one op
        passes[name] += passes["conv_dgrad_backward"]
    # One block runs as conv_bias_act, more as a stack. The sum has a constant gradient, so that nothing depends on the
    # tangent of the output; the ops of a single block compute it all the same.
    assert passes["conv_dgrad"] + passes["conv_stack_dgrad"] == depth
    assert passes["conv"] + passes["conv_stack_tangent"] == max(1, depth - 1)
    assert passes["conv_wgrad"] + passes["conv_stack_wgrad"] == depth
    assert not calls.zeros(2 * 4 * (32 >> depth) ** 2)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (lambda: nn.functional.relu, "module: expected a torch.nn.Module, got function"),
        (lambda: torch.compile(nn.Conv2d(1, 1, 1), backend="eager"), "then compile.*torch.compile"),
    ],
)
def test_compiled_modules_and_other_objects_are_refused(value, named):
    for function in (fastgan.fuse, fastgan.fusion_report):
        with pytest.raises(UsageError, match=named):
            function(value())


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_script_modules_are_refused_and_skipped_as_submodules():
    script = torch.jit.script(nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()))
    with pytest.raises(UsageError, match="ScriptModule"):
        fastgan.fuse(script)
    network = fastgan.fuse(nn.Sequential(nn.Conv2d(1, 1, 1), script))
    assert network[1] is script
    assert fastgan.fusion_report(network)["1"].reason == "a torch.jit.ScriptModule"
    assert network(torch.ones(1, 1, 2, 2)).shape == (1, 1, 2, 2)
