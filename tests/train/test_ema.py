"""The exponential moving average of a generator's weights."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm as torch_norm

from fastgan.nn import spectral_norm
from fastgan.train.ema import Ema


def network(value):
    module = nn.BatchNorm1d(2)
    nn.init.constant_(module.weight, value)
    module.running_mean.fill_(value)
    module.num_batches_tracked.fill_(int(value))
    return module


def test_follows_weights_and_statistics_with_the_half_life():
    ema = Ema(network(0.0), half_life=100)
    ema.update(network(8.0), ema.weight(images=100, step=10**6))
    assert ema.module.weight.tolist() == pytest.approx([4.0, 4.0])
    assert ema.module.running_mean.tolist() == pytest.approx([4.0, 4.0])
    assert ema.module.num_batches_tracked.item() == 8  # counters are copied
    ema.update(network(8.0), ema.weight(images=100, step=10**6))
    assert ema.module.weight.tolist() == pytest.approx([6.0, 6.0])


def test_another_network_and_replaced_tensors_are_averaged():
    ema, grown = Ema(nn.Linear(1, 1), half_life=0), nn.Linear(1, 1)
    for followed in (nn.Linear(1, 1), grown):
        ema.update(followed, ema.weight(images=1, step=1))
        assert torch.equal(ema.module.weight, followed.weight)
    grown.weight = nn.Parameter(torch.full((1, 1), 5.0))
    ema.forget()
    ema.update(grown, ema.weight(images=1, step=2))
    assert ema.module.weight.item() == 5.0


def test_ramps_up_and_can_be_off():
    ema = Ema(network(0.0), half_life=1e9)
    ema.update(network(11.0), ema.weight(images=1, step=1))
    assert ema.module.weight[0].item() == pytest.approx(11 * 9 / 11)
    off = Ema(network(0.0), half_life=0)
    off.update(network(3.0), off.weight(images=1, step=10))
    assert off.module.weight[0].item() == 3.0


def test_the_copy_takes_no_gradient_and_stays_in_eval_mode():
    original = network(1.0)
    ema = Ema(original, half_life=10)
    assert not ema.module.training
    assert original.training
    assert not any(p.requires_grad for p in ema.module.parameters())
    assert all(p.requires_grad for p in original.parameters())
    assert torch.equal(ema.module.weight, original.weight)


def test_a_mask_of_infinities_stays_one():
    network = nn.Linear(2, 2)
    network.register_buffer("mask", torch.tensor([0.0, -float("inf")]))
    ema = Ema(network, half_life=100.0)
    for step in (1, 2):
        ema.update(network, ema.weight(images=10, step=step))
    assert torch.equal(ema.module.mask, network.mask)


def test_spectral_norms_stay_norms():
    """The vectors of their power iterations have length 1; averaged, they would be shorter, and weights too large."""
    torch.manual_seed(0)
    network = nn.Sequential(spectral_norm(nn.Linear(8, 8)), nn.ReLU(), torch_norm(nn.Linear(8, 8)))
    ema = Ema(network, 1000)
    for step in range(1, 20):
        with torch.no_grad():
            for weight in network.parameters():
                weight.copy_(torch.randn_like(weight))
        network(torch.randn(2, 8))
        ema.update(network, ema.weight(64, step))
    found = {name: buffer for name, buffer in ema.module.named_buffers() if name.endswith(("_u", "_v"))}
    assert len(found) == 4
    for name, vector in found.items():
        torch.testing.assert_close(vector, network.get_buffer(name))


def test_the_half_life_is_at_most_a_part_of_the_images_so_far():
    ema = Ema(network(0.0), half_life=10_000, ramp_up=0.05)
    assert ema.weight(images=32, step=1) == pytest.approx(1 - 0.5 ** (1 / 0.05))
    assert ema.weight(images=32, step=100) == pytest.approx(1 - 0.5 ** (32 / 160))
    assert ema.weight(images=32, step=10**6) == pytest.approx(1 - 0.5 ** (32 / 10_000))
    assert Ema(network(0.0), half_life=0, ramp_up=0.05).weight(images=32, step=5) == 1


def test_the_average_takes_the_strides_of_the_network():
    """The optimizer's step moves only averages that walk through memory as their weights do."""
    original = nn.Conv2d(3, 4, 3)
    ema = Ema(original, half_life=100)
    before = ema.module.weight.clone()
    original.to(memory_format=torch.channels_last)
    ema.match_strides(original)
    assert ema.module.weight.stride() == original.weight.stride()
    assert torch.equal(ema.module.weight, before)
    assert not ema.module.weight.requires_grad
