"""Hooks get the same tensors as without fuse, and changes after fuse are respected."""

import copy

import pytest
import torch
from torch import nn

import fastgan
from fastgan.testing.equivalence import assert_same, outputs_and_gradients
from fastgan.testing.networks import make
from fastgan.testing.op_recorder import OpRecorder

X = torch.randn(2, 3, 16, 16, dtype=torch.float64)


def watch(network, seen):
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.LeakyReLU | nn.Linear):
            module.register_forward_hook(lambda m, args, y: seen.append(y))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", ["plain_discriminator", "functional", "shared_activation", "shared_inplace", "dcgan"])
def test_forward_hooks_get_the_same_tensors(name, when):
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
    # Compared after the run, when activations in place have overwritten what hooks before them stored.
    assert_same(seen, want)


def test_hooks_may_change_results():
    network, x = make("plain_discriminator")
    ours = fastgan.fuse(copy.deepcopy(network))
    for discriminator in (network, ours):
        discriminator[2].register_forward_hook(lambda m, args, y: y * 2)
        discriminator[5].register_forward_pre_hook(lambda m, args: (args[0] + 1,))
        discriminator[4].register_full_backward_hook(lambda m, dx, dy: (dx[0] * 3,))
    results = [
        torch.autograd.grad(discriminator(x).sum(), list(discriminator.parameters()))
        for discriminator in (ours, network)
    ]
    assert_same(*results)


def test_a_global_hook_runs_for_all_modules():
    network, x = make("plain_discriminator")
    fastgan.fuse(network)
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda m, args, y: seen.append(m))
    try:
        network(x)
    finally:
        handle.remove()
    assert seen == [*network.children(), network]


def test_children_replaced_and_appended_later():
    network, x = make("plain_discriminator")
    ours = fastgan.fuse(copy.deepcopy(network))
    for discriminator in (network, ours):
        torch.manual_seed(1)
        discriminator[1] = nn.Softplus()
        discriminator[3] = nn.LeakyReLU(0.7)
        discriminator[4] = nn.Conv2d(4, 4, 3, 2, 1, padding_mode="reflect").double()
        discriminator.append(nn.Tanh())
        discriminator.append(nn.Identity())
    assert_same(outputs_and_gradients(ours, x), outputs_and_gradients(network, x))
    assert_same([ours[:4](x)], [network[:4](x)])


def test_attributes_changed_later():
    network, x = make("plain_discriminator")
    ours = fastgan.fuse(copy.deepcopy(network))
    for discriminator in (network, ours):
        discriminator[3].negative_slope, discriminator[5].inplace, discriminator[2].stride = 0.7, False, (1, 1)
    assert_same([ours[:6](x)], [network[:6](x)])
    for discriminator in (network, ours):
        discriminator[1].negative_slope = -0.5
    assert_same([ours[:6](x)], [network[:6](x)])


def test_modules_assigned_to_a_fused_module_later():
    network, x = make("shared_activation")
    ours = fastgan.fuse(copy.deepcopy(network))
    for discriminator in (network, ours):
        discriminator.act = nn.GELU()
    assert_same(outputs_and_gradients(ours, x), outputs_and_gradients(network, x))


def test_parametrizations_registered_and_removed_later():
    network, x = make("plain_discriminator")
    ours = fastgan.fuse(copy.deepcopy(network))
    for discriminator in (network, ours):
        torch.manual_seed(1)
        nn.utils.parametrizations.spectral_norm(discriminator[2])
    assert_same(outputs_and_gradients(ours, x), outputs_and_gradients(network, x))
    for discriminator in (network, ours):
        nn.utils.parametrize.remove_parametrizations(discriminator[2], "weight")
    assert_same(outputs_and_gradients(ours, x), outputs_and_gradients(network, x))


def test_a_parametrized_weight_is_computed_once_a_run():
    """In training mode a spectral norm iterates at every read of the weight."""
    network, x = make("spectral_parametrized")
    ours = fastgan.fuse(copy.deepcopy(network)).train()
    looks = []
    ours[0].parametrizations.weight[0].register_forward_hook(lambda *_: looks.append(1))
    ours(x)
    assert len(looks) == 1
    with torch.no_grad():
        ours(x)
    assert len(looks) == 2


def test_the_older_spectral_norm_iterates_as_before():
    network, x = make("spectral_hook")
    ours = fastgan.fuse(copy.deepcopy(network)).train()
    network.train()
    for _ in range(3):
        assert_same([ours(x)], [network(x)])
    assert_same(list(ours.buffers()), list(network.buffers()))
    with OpRecorder() as calls:
        ours(x)
    assert calls.counts() == {"spectral_normalize": 1, "conv_stack": 1}


def test_a_traced_run_without_gradients_has_no_stack():
    network, x = make("plain_discriminator")
    fastgan.fuse(network)
    with OpRecorder() as calls, torch.no_grad():
        network(x)
    assert calls.counts() == {"conv_bias_act": 3, "bias_act": 1}
    with OpRecorder() as calls:
        network(x)
    assert calls.counts() == {"conv_stack": 1, "bias_act": 1}


@pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch without distributed")
def test_distributed_data_parallel(tmp_path):
    network, x = make("plain_discriminator")
    plain, ours = copy.deepcopy(network), fastgan.fuse(network)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        for inner in (lambda: ours, lambda: copy.deepcopy(plain)):
            wrapped = nn.parallel.DistributedDataParallel(inner())
            fastgan.fuse(wrapped)  # fused and skipped modules inside
            with OpRecorder() as calls:
                wrapped(x).square().sum().backward()
            assert calls.counts()["conv_stack"] == 1
            plain.zero_grad()
            plain(x).square().sum().backward()
            assert_same([p.grad for p in wrapped.parameters()], [p.grad for p in plain.parameters()])
    finally:
        torch.distributed.destroy_process_group()
