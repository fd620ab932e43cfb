"""Convolutions of few pixels with large weights, which run as matrix products on the CPU."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fastgan
from fastgan._util import native
from fastgan.ops import conv2d, conv2d_bias_act, conv_transpose2d
from fastgan.ops.conv import cpu_products, register

pytestmark = pytest.mark.skipif(native.why_not("_cpu") is not None, reason="the C++ kernels were not built")

LAYOUTS = (torch.contiguous_format, torch.channels_last)
#: (N, C, side, K, kernel, stride, padding, dilation): pixels of the output 16, 8, 1, 48 and 25.
SHAPES = [
    (1, 256, 8, 512, (4, 4), 2, 1, 1),
    (2, 512, 4, 128, (4, 3), 2, 1, 1),
    (1, 512, 2, 512, (4, 4), 2, 1, 1),
    (4, 256, 4, 300, (3, 3), (2, 1), (1, 2), 1),
    (1, 256, 9, 256, (3, 3), 2, 2, 2),
]


def tensors(shape, images, weights):
    count, channels, side, out, kernel, *_ = shape
    x = torch.randn(count, channels, side, side).contiguous(memory_format=images)
    return x, torch.randn(out, channels, *kernel).contiguous(memory_format=weights)


def products_run(monkeypatch):
    """How many products were planned."""
    made = []
    for op in vars(register).values():
        if hasattr(op, "plans"):
            op.plans.clear()  # of other tests
    for name in ("plan_conv", "plan_dgrad", "plan_wgrad"):
        plan = getattr(cpu_products, name)
        monkeypatch.setattr(cpu_products, name, lambda *a, name=name, plan=plan: made.append(name) or plan(*a))
    return made


def close(got, want):
    for one, other in zip(got, want, strict=True):
        assert (one.double() - other).norm() <= 2e-6 * other.norm()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("images", LAYOUTS)
@pytest.mark.parametrize("weights", LAYOUTS)
def test_results_and_derivatives_are_those_of_float64(monkeypatch, shape, images, weights):
    made = products_run(monkeypatch)
    torch.manual_seed(0)
    x, w = (t.requires_grad_() for t in tensors(shape, images, weights))
    *_, stride, padding, dilation = shape
    y = conv2d(x, w, stride=stride, padding=padding, dilation=dilation)
    plain = F.conv2d(x.double(), w.double(), None, stride, padding, dilation)
    dy = torch.randn_like(y)
    found = torch.autograd.grad(y, [x, w], dy, create_graph=True)
    want = torch.autograd.grad(plain, [x, w], dy.double(), create_graph=True)
    close([y, *found], [plain, *want])
    assert found[1].stride() == w.stride()  # in the layout of the weight: nothing is converted after it
    second = torch.autograd.grad(found[0].square().sum(), w)
    close(second, torch.autograd.grad(want[0].square().sum(), w))
    pixels = y.shape[0] * y.shape[2] * y.shape[3]
    assert "plan_wgrad" in made
    assert ("plan_conv" in made) == ("plan_dgrad" in made) == (pixels <= cpu_products.FEW)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_transposed_convolutions_too(monkeypatch, layout):
    made = products_run(monkeypatch)
    torch.manual_seed(0)
    x = torch.randn(1, 512, 3, 3).contiguous(memory_format=layout).requires_grad_()
    w = torch.randn(512, 128, 4, 4).contiguous(memory_format=layout).requires_grad_()
    y = conv_transpose2d(x, w, stride=2, padding=1, output_padding=1)
    plain = F.conv_transpose2d(x.double(), w.double(), None, 2, 1, 1)
    dy = torch.randn_like(y)
    found, want = torch.autograd.grad(y, [x, w], dy), torch.autograd.grad(plain, [x, w], dy.double())
    close([y, *found], [plain, *want])
    assert made == ["plan_dgrad", "plan_wgrad", "plan_conv"]


def test_with_bias_and_activation():
    torch.manual_seed(0)
    x, w = tensors(SHAPES[0], *LAYOUTS)
    bias = torch.randn(512)
    y = conv2d_bias_act(x, w, bias, act="leaky_relu", stride=2, padding=1)
    close([y], [F.leaky_relu(F.conv2d(x.double(), w.double(), bias.double(), 2, 1), 0.2)])


def test_fused_layers_take_them_also_where_no_second_derivative_is_asked_for(monkeypatch):
    made = products_run(monkeypatch)
    torch.manual_seed(0)
    layers = [nn.Conv2d(256, 512, 4, 2, 1), nn.BatchNorm2d(512), nn.ReLU(True), nn.ConvTranspose2d(512, 256, 4, 2, 1)]
    plain = nn.Sequential(*layers)
    fused = fastgan.fuse(copy.deepcopy(plain))
    x = torch.randn(1, 256, 8, 8)
    fused(x).square().mean().backward()
    plain(x).square().mean().backward()
    assert {"plan_conv", "plan_dgrad", "plan_wgrad"} <= set(made)
    for a, b in zip(fused.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5 * float(b.grad.abs().max()) + 1e-9)


@pytest.mark.parametrize(
    ("pixels", "weight", "groups", "most"),
    [(17, (512, 512, 4, 4), 1, cpu_products.FEW), (4, (64, 64, 3, 3), 1, cpu_products.FEW),
     (4, (512, 512, 4, 4), 2, cpu_products.FEW), (65, (512, 512, 4, 4), 1, cpu_products.FEW_OF_GRADIENT),
     (4, (1, 1 << 20, 1, 1), 1, cpu_products.FEW), (0, (512, 512, 4, 4), 1, cpu_products.FEW)],
)  # fmt: skip
def test_other_convolutions_do_not(pixels, weight, groups, most):
    assert not cpu_products.fits(pixels, weight, groups, most)
