"""Fused networks under torch.export, make_fx, symbolic tracing and torch.jit.trace."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

import fastgan
from fastgan.testing.networks import make

NAMES = ["plain_discriminator", "functional", "helper_function", "audio"]


def targets(graph):
    return {str(node.target).split(".")[0] for node in graph.nodes if node.op == "call_function"}


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_export(name, strict):
    network, x = make(name)
    ours = fastgan.fuse(copy.deepcopy(network))
    program = torch.export.export(ours, (x,), strict=strict)
    assert "fastgan" in targets(program.graph)
    torch.testing.assert_close(program.module()(x), network(x))


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
@pytest.mark.parametrize("name", NAMES)
def test_make_fx_of_a_penalty_step(name, mode):
    network, x = make(name)
    ours = fastgan.fuse(copy.deepcopy(network))

    def step(discriminator, x):
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(discriminator(x).sum(), x, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), list(discriminator.parameters()), allow_unused=True)

    graph = make_fx(lambda x: step(ours, x), tracing_mode=mode, _allow_non_fake_inputs=True)(x)
    assert "fastgan" in targets(graph.graph)
    for got, want in zip(graph(x), step(network, x), strict=True):
        if want is None or not want.any():
            assert got is None or not got.any()
        else:
            torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*", "ignore::torch.jit.TracerWarning")  # the latter of group_norm
@pytest.mark.parametrize("name", NAMES)
def test_symbolic_trace_and_jit_trace(name):
    network, x = make(name)
    ours = fastgan.fuse(copy.deepcopy(network))
    torch.testing.assert_close(torch.fx.symbolic_trace(ours)(x), network(x))
    script = torch.jit.trace(ours, (x,))
    assert "fastgan::" not in str(script.inlined_graph)
    torch.testing.assert_close(script(x), network(x))


class Overwrites(nn.Module):
    """Overwrites the output of a leaky ReLU, which our op would save for the backward pass."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        x = F.leaky_relu(self.conv(x), 0.2)
        x += 1
        return x.mean((2, 3))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_jit_trace_copies_no_output():
    script = torch.jit.trace(fastgan.fuse(Overwrites()), (torch.randn(2, 3, 6, 6),))
    assert "clone" not in str(script.inlined_graph)
