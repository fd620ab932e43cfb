"""Hooks see what they saw, and what is changed after fuse is right too."""

import copy

import pytest
import torch
from torch import nn

import fastgan
from fastgan.testing.networks import make
from fastgan.testing.orders import assert_same, quantities
from fastgan.testing.record import Recorder

X = torch.randn(2, 3, 16, 16, dtype=torch.float64)


def watch(network, seen):
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.LeakyReLU | nn.Linear):
            module.register_forward_hook(lambda m, args, y: seen.append(y))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", ["plain_critic", "functional", "shared_activation", "shared_inplace", "dcgan"])
def test_forward_hooks_see_what_they_saw(name, when):
    network, x = make(name)
    ours = copy.deepcopy(network)
    seen, want = [], []
    watch(network, want)
    if when == "before":
        watch(ours, seen)
    fastgan.fuse(ours)
    if when == "after":
        watch(ours, seen)
    assert_same([ours(x)], [network(x)])
    # Compared after the whole pass: an activation in place has by now overwritten what the hook before it kept.
    assert_same(seen, want)


def test_hooks_may_change_what_passes():
    network, x = make("plain_critic")
    ours = fastgan.fuse(copy.deepcopy(network))
    for critic in (network, ours):
        critic[2].register_forward_hook(lambda m, args, y: y * 2)
        critic[5].register_forward_pre_hook(lambda m, args: (args[0] + 1,))
        critic[4].register_full_backward_hook(lambda m, dx, dy: (dx[0] * 3,))
    results = [torch.autograd.grad(critic(x).sum(), list(critic.parameters())) for critic in (ours, network)]
    assert_same(*results)


def test_a_hook_of_all_modules_sees_all_modules():
    network, x = make("plain_critic")
    fastgan.fuse(network)
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda m, args, y: seen.append(m))
    try:
        network(x)
    finally:
        handle.remove()
    assert seen == [*network.children(), network]


def test_children_replaced_and_appended_later():
    network, x = make("plain_critic")
    ours = fastgan.fuse(copy.deepcopy(network))
    for critic in (network, ours):
        torch.manual_seed(1)
        critic[1] = nn.Softplus()
        critic[3] = nn.LeakyReLU(0.7)
        critic[4] = nn.Conv2d(4, 4, 3, 2, 1, padding_mode="reflect").double()
        critic.append(nn.Tanh())
        critic.append(nn.Identity())
    assert_same(quantities(ours, x), quantities(network, x))
    assert_same([ours[:4](x)], [network[:4](x)])


def test_attributes_changed_later():
    network, x = make("plain_critic")
    ours = fastgan.fuse(copy.deepcopy(network))
    for critic in (network, ours):
        critic[3].negative_slope, critic[5].inplace, critic[2].stride = 0.7, False, (1, 1)
    assert_same([ours[:6](x)], [network[:6](x)])
    for critic in (network, ours):
        critic[1].negative_slope = -0.5
    assert_same([ours[:6](x)], [network[:6](x)])


def test_modules_assigned_to_a_fused_module_later():
    network, x = make("shared_activation")
    ours = fastgan.fuse(copy.deepcopy(network))
    for critic in (network, ours):
        critic.act = nn.GELU()
    assert_same(quantities(ours, x), quantities(network, x))


def test_parametrizations_registered_and_removed_later():
    network, x = make("plain_critic")
    ours = fastgan.fuse(copy.deepcopy(network))
    for critic in (network, ours):
        torch.manual_seed(1)
        nn.utils.parametrizations.spectral_norm(critic[2])
    assert_same(quantities(ours, x), quantities(network, x))
    for critic in (network, ours):
        nn.utils.parametrize.remove_parametrizations(critic[2], "weight")
    assert_same(quantities(ours, x), quantities(network, x))


def test_a_parametrized_weight_is_computed_once_a_pass():
    """While it trains, a spectral norm steps at every look at the weight."""
    network, x = make("spectral_parametrized")
    ours = fastgan.fuse(copy.deepcopy(network)).train()
    looks = []
    ours[0].parametrizations.weight[0].register_forward_hook(lambda *_: looks.append(1))
    ours(x)
    assert len(looks) == 1
    with torch.no_grad():
        ours(x)
    assert len(looks) == 2


def test_the_old_spectral_norm_keeps_its_steps():
    network, x = make("spectral_hook")
    ours = fastgan.fuse(copy.deepcopy(network)).train()
    network.train()
    for _ in range(3):
        assert_same([ours(x)], [network(x)])
    assert_same(list(ours.buffers()), list(network.buffers()))
    with Recorder() as calls:
        ours(x)
    assert calls.counts() == {"power_iteration": 1, "spectral_scale": 1, "conv_tower": 1}


def test_without_gradients_no_tower_keeps_inner_results():
    network, x = make("plain_critic")
    fastgan.fuse(network)
    with Recorder() as calls, torch.no_grad():
        network(x)
    assert calls.counts() == {"conv_bias_act": 3, "bias_act": 1}
    with Recorder() as calls:
        network(x)
    assert calls.counts() == {"conv_tower": 1, "bias_act": 1}


@pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch without distributed")
def test_distributed_data_parallel(tmp_path):
    network, x = make("plain_critic")
    plain, ours = copy.deepcopy(network), fastgan.fuse(network)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        for inner in (lambda: ours, lambda: copy.deepcopy(plain)):
            wrapped = nn.parallel.DistributedDataParallel(inner())
            fastgan.fuse(wrapped)  # around what is fused, and around what is not
            with Recorder() as calls:
                wrapped(x).square().sum().backward()
            assert calls.counts()["conv_tower"] == 1
            plain.zero_grad()
            plain(x).square().sum().backward()
            assert_same([p.grad for p in wrapped.parameters()], [p.grad for p in plain.parameters()])
    finally:
        torch.distributed.destroy_process_group()
