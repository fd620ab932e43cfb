"""instance_norm_act beyond the contract tests: large means, every order of gradients, errors."""

import pytest
import torch
from torch.nn import functional as F

import fastgan
from fastgan.ops import instance_norm_act
from fastgan.ops._library import registry

LAYOUTS = (torch.contiguous_format, torch.channels_last)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_large_means_cancel_no_digits(layout):
    torch.manual_seed(0)
    x = (torch.randn(2, 3, 40, 50) + 1000).contiguous(memory_format=layout)
    x[:, :, 0, 0] = 0  # the first pixel is far from the others
    exact = F.instance_norm(x.double())
    assert (instance_norm_act(x) - exact).abs().max() <= 4 * (F.instance_norm(x) - exact).abs().max()


def normalized(x):
    """Without F.instance_norm, whose third derivative is wrong: it takes the saved mean for a constant."""
    centered = x - x.mean((2, 3), keepdim=True)
    return centered / (centered.square().mean((2, 3), keepdim=True) + 1e-5).sqrt()


@pytest.mark.parametrize("act", ["linear", "relu", "leaky_relu"])
def test_gradients_of_three_orders(act):
    torch.manual_seed(0)
    x = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(3, *x.shape, dtype=torch.float64)

    def third(function):
        y = function(x)
        (first,) = torch.autograd.grad((y * weights[0]).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad((first.square() * weights[1]).sum(), x, create_graph=True)
        (last,) = torch.autograd.grad((second.square() * weights[2]).sum(), x)
        return y, first, second, last

    plain = {"linear": lambda x: x, "relu": F.relu, "leaky_relu": lambda x: F.leaky_relu(x, 0.2)}[act]
    for got, want in zip(
        third(lambda x: instance_norm_act(x, act)), third(lambda x: plain(normalized(x))), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9 * want.abs().max().item())


def test_mean_and_scale_have_gradients():
    """Of the op itself, whose other outputs the public function hides."""
    torch.manual_seed(0)
    x = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    op = registry["instance_norm_act"]
    assert torch.autograd.gradcheck(lambda x: op(x, 0.2, 1e-5), x)
    assert torch.autograd.gradgradcheck(lambda x: op(x, 0.2, 1e-5)[1:], x)


def test_other_epsilon():
    x = torch.randn(2, 2, 3, 4)
    torch.testing.assert_close(instance_norm_act(x, epsilon=0.1), F.instance_norm(x, eps=0.1))


def test_wrong_arguments():
    x = torch.zeros(1, 2, 3, 3)
    for error, sentence, call in (
        (TypeError, "x: expected a floating tensor", lambda: instance_norm_act(x.int())),
        (ValueError, r"x: expected \[N, C, \*\] with more than one pixel", lambda: instance_norm_act(x[:, :, :1, :1])),
        (ValueError, "act: expected one of linear, relu, leaky_relu", lambda: instance_norm_act(x, "tanh")),
        (ValueError, "alpha: expected a slope >= 0", lambda: instance_norm_act(x, "leaky_relu", alpha=-1)),
        (ValueError, "epsilon: expected a number > 0", lambda: instance_norm_act(x, epsilon=0)),
    ):
        with pytest.raises(error, match=sentence):
            call()


def test_one_image_whose_gradient_comes_in_another_layout():
    """PyTorch's own (2.13) takes such a gradient for a contiguous one."""
    torch.manual_seed(0)
    x, weights = torch.randn(1, 8, 6, 6, dtype=torch.float64), torch.randn(1, 36, 8, dtype=torch.float64)

    def formula(y):
        centered = y - y.mean((2, 3), keepdim=True)
        return centered * torch.rsqrt(centered.square().mean((2, 3), keepdim=True) + 1e-5)

    found = []
    for norm in (formula, fastgan.fuse(torch.nn.Sequential(torch.nn.InstanceNorm2d(8)))):
        y = x.clone().requires_grad_()
        loss = (norm(y).permute(0, 2, 3, 1).flatten(1, 2)[:, :5] * weights[:, :5]).sum()
        found.append(torch.autograd.grad(loss, y)[0])
    torch.testing.assert_close(*found)
