"""Convolutions of each channel with one filter in a graph become upfirdn2d: in every order of derivative, and no other
convolution does."""

import copy

import pytest
import runtime_gain_networks as networks
import torch
import torch.nn.functional as F
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import fastgan
from fastgan.engine.filters import use_upfirdn2d
from fastgan.engine.passes import convolution_passes

X = torch.randn(2, 3, 9, 8, dtype=torch.float64)
ROW = torch.tensor([1.0, 3.0, 2.0, 5.0], dtype=torch.float64)
KERNEL = ROW[:, None] * ROW.flip(0) + torch.randn(4, 4, dtype=torch.float64)


def rewritten(function, *inputs):
    with FakeTensorMode() as mode:
        traced = make_fx(function)(*(mode.from_tensor(x) for x in inputs))
    before = convolution_passes(traced.graph)
    use_upfirdn2d(traced.graph)
    traced.recompile()
    assert all("val" in node.meta for node in traced.graph.nodes if node.op == "call_function")
    return traced, before, convolution_passes(traced.graph)


def single(x, f, **options):
    n, c, h, w = x.shape
    y = F.conv2d(x.reshape(n * c, 1, h, w), f[None, None], **options)
    return y.reshape(n, c, *y.shape[2:])


def single_transposed(x, f, **options):
    n, c, h, w = x.shape
    y = F.conv_transpose2d(x.reshape(n * c, 1, h, w), f[None, None], **options)
    return y.reshape(n, c, *y.shape[2:])


FILTERS = {
    "single channels": lambda x, f: single(x, f, padding=(2, 1)),
    "with stride": lambda x, f: single(x, f, padding=1, stride=2),
    "strides that skip rows": lambda x, f: single(x, f, stride=(3, 2)),
    "zero insertion": lambda x, f: single(F.pad(x[..., None], (0, 1)).reshape(2, 3, 9, 16), f, padding=2),
    "strided slice": lambda x, f: single(x, f, padding=2)[:, :, ::2, ::2],
    "transposed": lambda x, f: single_transposed(x, f, stride=2, padding=1),
    "transposed, with output padding": lambda x, f: single_transposed(x, f, stride=2, padding=1, output_padding=1),
    "depthwise, expanded": lambda x, f: F.conv2d(x, f.expand(3, 1, 4, 4), padding=1, groups=3),
    "depthwise, repeated": lambda x, f: F.conv2d(x, f[None, None].repeat(3, 1, 1, 1), stride=2, groups=3),
    "reflected padding": lambda x, f: single(F.pad(x, (2, 1, 2, 1), mode="reflect"), f.flip(0, 1)),
}


@pytest.mark.parametrize("name", FILTERS)
def test_filters_become_upfirdn2d_in_every_order(name):
    def step(x, f):
        x = x.detach().requires_grad_()
        y = FILTERS[name](x, f)
        (first,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x)
        return y.detach(), first.detach(), second

    traced, before, after = rewritten(step, X, KERNEL)
    assert before >= 4
    assert after == 0
    for got, want in zip(traced(X, KERNEL), step(X, KERNEL), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-9)


def test_other_convolutions_stay():
    several = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    for function, weight in (
        (lambda x, w: F.conv2d(x, w, groups=3), several),
        (lambda x, w: F.conv2d(x[:, :1], w[:1].expand(3, 1, 4, 4)), several),
        (lambda x, w: single(x, w[0, 0], bias=w[0, 0, 0, :1]), several),
        (lambda x, w: single(x, w[0, 0], dilation=2), several),
        (lambda x, w: single(F.pad(x, (4, 4, 4, 4)), w), torch.randn(9, 9, dtype=torch.float64)),
    ):
        traced, before, after = rewritten(function, X, weight)
        assert before == after == 1
        torch.testing.assert_close(traced(X, weight), function(X, weight))


def test_the_gradient_of_a_learned_filter_stays_a_convolution():
    def step(x, f):
        f = f.detach().requires_grad_()
        return torch.autograd.grad(single(x, f).pow(3).sum(), f)[0]

    traced, before, after = rewritten(step, X, KERNEL)
    assert (before, after) == (2, 1)
    torch.testing.assert_close(traced(X, KERNEL), step(X, KERNEL))


@pytest.mark.full
def test_a_compiled_step_with_r1_runs_no_filter_as_a_convolution_and_no_zeros():
    torch.manual_seed(0)
    network, convolutions = networks.DecoratedDiscriminator(), 4
    exact = copy.deepcopy(network).double()

    def gradients(network, x):
        x = x.detach().requires_grad_()
        logits = network(x)
        (first,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
        loss = F.softplus(-logits).mean() + first.square().sum([1, 2, 3]).mean()
        return torch.autograd.grad(loss, list(network.parameters()))

    compiled = fastgan.compile(lambda x: gradients(network, x))
    x = torch.randn(4, 3, 16, 16)
    with torch._inductor.config.patch(fx_graph_cache=False):
        got = compiled(x)
    want, truth = gradients(network, x), gradients(exact, x.double())
    for mine, plain, true in zip(got, want, truth, strict=True):
        error, allowed = (float((value - true).norm()) for value in (mine, plain))
        assert error <= max(2 * allowed, 1e-6 * float(true.norm()))
    # Forward, input gradient, its derivative, an input gradient, and two weight gradients.
    assert not compiled.why_eager
    assert compiled.passes.after <= 6 * convolutions
    assert compiled.passes.before > 6 * convolutions
