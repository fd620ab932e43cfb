"""On a CPU a fused layer runs PyTorch's operations where no input gradient can follow."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastgan
from fastgan.nn.fusion.first_order import first_order
from fastgan.testing.op_recorder import OpRecorder


@pytest.fixture(autouse=True)
def fused_on_a_cpu():
    """Overrides the fixture that makes fastgan's ops run everywhere."""


class Network(nn.Module):
    """Blocks in a forward of its own, a norm in between."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.norm = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4)
        self.head = nn.Linear(4, 1)

    def forward(self, x):
        x = F.leaky_relu(self.first(x), 0.2)
        x = F.silu(self.norm(self.second(x)))
        return self.head(x.mean((2, 3)))


@pytest.fixture
def networks():
    torch.manual_seed(0)
    plain = Network().double()
    return plain, fastgan.fuse(copy.deepcopy(plain)), torch.randn(2, 3, 8, 8, dtype=torch.float64)


def _step(network, x):
    F.softplus(network(x)).mean().backward()
    return [weight.grad for weight in network.parameters()]


def test_steps_and_inference_are_those_of_pytorch_bit_for_bit(networks):
    plain, fused, x = networks
    for got, want in zip(_step(fused, x), _step(plain, x), strict=True):
        assert torch.equal(got, want)
    with torch.no_grad():
        assert torch.equal(fused(x), plain(x))


def test_what_is_first_order(networks):
    _, fused, x = networks
    points = x.clone().requires_grad_()
    weight = nn.Parameter(x.clone())
    assert first_order(x)
    assert first_order(weight)  # as a generator's constant
    assert first_order(weight * 2)  # as a generator's images
    assert first_order(F.leaky_relu(fused.first(x)))
    assert not first_order(points)
    assert not first_order(F.avg_pool2d(points * 2, 2))
    assert not first_order(weight * points)
    with torch.no_grad():
        assert first_order(points)


def test_the_search_is_made_once(networks, monkeypatch):
    _, fused, x = networks
    y = fused.norm(fused.second(fused.first(x)))
    assert first_order(y)
    monkeypatch.setattr("fastgan.nn.fusion.first_order._search", lambda node: pytest.fail("searched again"))
    assert first_order(y)


@pytest.mark.parametrize("inner", [False, True])
def test_a_penalty_runs_on_fused_ops(networks, inner):
    plain, fused, x = networks
    results = []
    for network in (plain, fused):
        points = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(network(points * 1 if inner else points).sum(), points, create_graph=True)
        gradient.square().sum().backward()
        results.append([weight.grad for weight in network.parameters()])
    for want, got in zip(*results, strict=True):
        assert (got is None) == (want is None)
        if got is not None:
            torch.testing.assert_close(got, want)
    node = fused.first(x.clone().requires_grad_()).grad_fn
    assert "fastgan" in node.name()
    assert "fastgan" not in fused.first(x).grad_fn.name()


class Overwrites(Network):
    def forward(self, x):
        x = F.leaky_relu(self.first(x), 0.2)
        x += 1
        return x


def test_an_output_that_is_overwritten_is_copied_only_if_our_op_saved_it():
    network, x = fastgan.fuse(Overwrites()), torch.randn(2, 3, 8, 8)
    for points, before in ((x, "Leaky"), (nn.Parameter(x.clone()), "Leaky"), (x.clone().requires_grad_(), "Clone")):
        y = network(points)
        assert y.grad_fn.next_functions[0][0].name().startswith(before)
        y.sum().backward()


@pytest.mark.parametrize("inplace", [False, True])
def test_a_stack_of_activations_in_place_is_left_to_pytorch_too(inplace):
    torch.manual_seed(0)
    blocks = [(nn.Conv2d(i, 4, 3), nn.LeakyReLU(0.2, inplace)) for i in (3, 4)]
    plain = nn.Sequential(*(module for block in blocks for module in block))
    fused, x = fastgan.fuse(copy.deepcopy(plain)), torch.randn(2, 3, 8, 8)
    assert ("conv_stack" in fused(x).grad_fn.name()) == (not inplace)
    assert "conv_stack" in fused(x.requires_grad_()).grad_fn.name()
    if inplace:
        for got, want in zip(_step(fused, x.detach()), _step(plain, x.detach()), strict=True):
            assert torch.equal(got, want)


def test_filters_are_ours_in_every_run():
    class Filter(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("taps", torch.randn(1, 1, 4, 4))

        def forward(self, x):
            return F.conv2d(x, self.taps)

    plain, x = Filter(), torch.randn(4, 1, 9, 8)
    fused = fastgan.fuse(copy.deepcopy(plain))
    with torch.no_grad(), OpRecorder() as calls:
        got = fused(x)
    assert calls.counts() == {"upfirdn2d": 1}
    torch.testing.assert_close(got, plain(x))
