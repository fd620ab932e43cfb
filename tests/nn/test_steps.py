"""The plan of a fused Sequential is made once, and again when its children change."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import fastgan
from fastgan.nn import ConvBlock, ConvStack
from fastgan.nn.fusion import steps
from fastgan.ops.conv import layers


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(4, 4, 3, padding=1), nn.LeakyReLU(0.2),
        nn.Flatten(), nn.Linear(4 * 6 * 6, 2),
    )  # fmt: skip


X = torch.randn(2, 3, 6, 6)


def replace_child(net):
    net[2] = nn.Conv2d(4, 4, 3, padding=1, bias=False)
    torch.manual_seed(1)
    nn.init.normal_(net[2].weight)


def append(net):
    net.append(nn.Tanh())


def delete(net):
    del net[3]


def set_attribute(index, name, value):
    return lambda net: setattr(net[index], name, value)


def overwrite_forward(net):
    net[4].forward = lambda x: x.flatten(1) * 2


def hook(index):
    return lambda net: net[index].register_forward_hook(lambda module, inputs, output: output + 1)


def pre_hook(index):
    return lambda net: net[index].register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,))


def swap_hooks(net):
    net[1].register_forward_hook(lambda module, inputs, output: output + 1).remove()
    net[1].register_forward_hook(lambda module, inputs, output: output - 1)


def remove_bias(net):
    net[0].bias = net[2].bias = None


def remove_one_bias(net):
    net[2].bias = None


def spectral(net):
    torch.manual_seed(2)
    parametrizations.spectral_norm(net[2])
    net.eval()


def replace_weight(net):
    net[5].weight = nn.Parameter(torch.ones_like(net[5].weight))


def swap_data(net):
    net[0].weight.data = net[0].weight.data * 2


CHANGES = {
    "child": replace_child, "append": append, "delete": delete, "padding": set_attribute(2, "padding", (2, 2)),
    "padding_mode": set_attribute(0, "padding_mode", "circular"),
    "slope": set_attribute(1, "negative_slope", 0.3), "inplace": set_attribute(3, "inplace", True),
    "forward": overwrite_forward, "hook": hook(1), "hook_at_the_end": hook(5), "pre_hook": pre_hook(2),
    "pre_hook_of_linear": pre_hook(5), "hooks_swapped": swap_hooks, "no_biases": remove_bias,
    "one_bias_removed": remove_one_bias, "parametrized": spectral, "weight": replace_weight, "data": swap_data,
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
def test_changes_between_runs_are_seen(name, grad):
    plain, ours = network(), fastgan.fuse(network())
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(ours(X), plain(X))
        before = plain(X)
        for net in (plain, ours):
            if name == "padding":  # the images grow
                net[5] = nn.Identity()
            if name == "padding_mode":
                net[0]._reversed_padding_repeated_twice = [1, 1, 1, 1]
            CHANGES[name](net)
        after = plain(X)
        torch.testing.assert_close(ours(X), after)
    assert name == "inplace" or after.shape != before.shape or not torch.equal(after, before)


@pytest.mark.parametrize("both", [True, False], ids=["both", "one"])
def test_a_bias_can_be_added(both):
    plain, ours = network(), network()
    for net in (plain, ours):
        net[0].bias = net[2].bias = None
    fastgan.fuse(ours)
    torch.testing.assert_close(ours(X), plain(X))
    for net in (plain, ours):
        net[0].bias = nn.Parameter(torch.ones(4))
        net[2].bias = nn.Parameter(torch.full((4,), 2.0)) if both else None
    torch.testing.assert_close(ours(X), plain(X))


def test_padding_given_as_text_runs_as_in_pytorch():
    plain, ours = network(), network()
    for net in (plain, ours):
        net[0].padding, net[0]._reversed_padding_repeated_twice = "same", [1, 1, 1, 1]
    torch.testing.assert_close(fastgan.fuse(ours)(X), plain(X))


def test_global_hooks_are_called():
    ours = fastgan.fuse(network())
    ours(X)
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, inputs, output: seen.append(type(module)))
    try:
        ours(X)
    finally:
        handle.remove()
    assert seen.count(type(ours[0])) == 2
    assert seen.count(nn.Linear) == 1


def test_the_plan_is_made_once_and_belongs_to_no_copy(monkeypatch):
    made = []
    new = steps._Plan
    monkeypatch.setattr(steps, "_Plan", lambda *given: (made.append(given), new(*given))[1])
    ours = fastgan.fuse(network())
    for _ in range(3):
        ours(X)
        ours.eval()
    assert len(made) == 1
    twin = copy.deepcopy(ours)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(2)
    plain = network()
    plain.load_state_dict(twin.state_dict())
    torch.testing.assert_close(twin(X), plain(X))
    assert len(made) == 2


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", ["weight", "bias"])
def test_parameters_may_become_buffers(name, when):
    def freeze(net):
        for layer in (net[0], net[2], net[5]):
            value = getattr(layer, name).detach()
            delattr(layer, name)
            layer.register_buffer(name, value)

    plain, fused = network(), fastgan.fuse(network())
    if when == "after":
        fused(X)
    freeze(plain)
    freeze(fused)
    torch.testing.assert_close(fused(X), plain(X))


def test_the_older_spectral_norm_of_a_layer_used_twice_iterates_before_each_use():
    torch.manual_seed(0)
    layer = nn.utils.spectral_norm(nn.Conv2d(3, 3, 3, padding=1))
    plain = nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU())
    fused = fastgan.fuse(copy.deepcopy(plain))
    torch.testing.assert_close(fused(X), plain(X))


def test_a_stack_follows_norms_that_are_removed_and_added():
    stack = ConvStack(ConvBlock(3, 4, 3, padding=1, norm="batch"), ConvBlock(4, 4, 3, padding=1)).eval()
    stack[0].norm = None  # the first convolution has no bias, the second has one
    torch.testing.assert_close(stack(X), stack[1](stack[0](X)))
    stack[0].conv.bias = nn.Parameter(torch.randn(4))
    torch.testing.assert_close(stack(X), stack[1](stack[0](X)))
    stack[0].norm = nn.BatchNorm2d(4).eval()
    nn.init.constant_(stack[0].norm.weight, 3.0)
    torch.testing.assert_close(stack(X), stack[1](stack[0](X)))


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
def test_a_stack_keeps_inner_results_only_for_gradients(grad, monkeypatch):
    ours, kept = fastgan.fuse(network()), []
    op = layers.conv_stack_op
    monkeypatch.setattr(layers, "conv_stack_op", lambda *args: kept.append(len(op(*args))) or op(*args))
    with torch.set_grad_enabled(grad):
        ours(X)
    assert kept == [2 if grad else 1]
