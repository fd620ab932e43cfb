"""The graph passes on small graphs: what they remove and keep, and that numbers do not change."""

import operator

import pytest
import torch
from torch import fx
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import fastgan
from fastgan.engine.passes import convolution_passes
from fastgan.engine.weight_gradients import restore_weight_gradients
from fastgan.engine.zero_gradients import remove_zeros

aten = torch.ops.aten


def graph_of(function, *inputs):
    """The input of the passes: a functional ATen graph, every node with a fake value."""
    with FakeTensorMode() as mode:
        traced = make_fx(function)(*(mode.from_tensor(x) for x in inputs))
    return traced


def targets(traced):
    return [node.target for node in traced.graph.nodes if node.op == "call_function"]


def cleaned(function, *inputs):
    traced = graph_of(function, *inputs)
    remove_zeros(traced.graph)
    traced.recompile()
    assert all("val" in node.meta for node in traced.graph.nodes if node.op == "call_function")
    return traced


X, Y = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
W = torch.randn(5, 3, 4, 4)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: x + torch.zeros_like(y),
        lambda x, y: torch.zeros_like(y) + x,
        lambda x, y: x - torch.zeros_like(y),
        lambda x, y: x + torch.zeros_like(y).permute(0, 1, 3, 2) * y,
        lambda x, y: x + torch.where(y > 0, torch.zeros_like(y), torch.zeros_like(y) * 0.2),
        lambda x, y: x + y * 0,
        lambda x, y: x + torch.cat([torch.zeros_like(y)[:1], torch.zeros_like(y)[1:]]),
    ],
)
def test_a_sum_with_zeros_is_replaced_by_its_other_term(function):
    traced = cleaned(lambda x, y: function(x.exp(), y), X, Y)
    assert targets(traced) == [aten.exp.default]
    assert torch.equal(traced(X, Y), function(X.exp(), Y))


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: x + y * 0,
        lambda x, y: (x.view(-1) + y.view(-1) * 0).view(x.shape),
        lambda x, y: (x.exp() + y * 0, x.exp()),
        lambda x, y: (lambda e: (e, e + y * 0, e - y * 0))(x.exp()),
        lambda x, y: (lambda e: (e + y * 0, e - y * 0))(x.exp()),
    ],
)
def test_results_have_memory_of_their_own(function):
    x = X.clone()
    traced, want = cleaned(function, X, Y), function(X, Y)
    results = traced(x, Y)
    results, want = ([r] if isinstance(r, torch.Tensor) else list(r) for r in (results, want))
    for tensor in (x, *results):
        tensor.add_(1)  # with shared memory, one tensor would be changed twice
    for result, expected in zip(results, want, strict=True):
        assert torch.equal(result, expected + 1)


def test_a_sum_with_zeros_keeps_the_value_from_before_a_change_in_place():
    weight = torch.ones(3)

    def step(y):
        before = weight + y * 0
        weight.mul_(2)
        return before

    compiled = fastgan.compile(step)
    for want in (1.0, 2.0, 4.0):
        assert torch.equal(compiled(torch.ones(3)), torch.full((3,), want))
    assert not compiled.why_eager


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: torch.zeros_like(y) - x,
        lambda x, y: x + torch.zeros(2, 3, 8, 8, dtype=torch.float64),  # another dtype
        lambda x, y: x[:1, :1] + torch.zeros_like(y),  # another shape
        lambda x, y: x + torch.nn.functional.pad(torch.zeros_like(y)[..., 1:], (1, 0), value=3.0),
        lambda x, y: torch.where(x > 0, torch.zeros_like(y), y),
        lambda x, y: torch.add(x, torch.zeros_like(y) + 1, alpha=2),
        lambda x, y: x + torch.zeros_like(y).exp(),
        lambda x, y: aten.convolution(x * 0, y, torch.ones(2), [1, 1], [0, 0], [1, 1], False, [0, 0], 1),
        lambda x, y: torch.zeros_like(y),
        lambda x, y: torch.zeros_like(y).sum(1),
    ],
)
def test_other_operations_stay(function):
    traced = cleaned(function, X, Y)
    assert torch.equal(traced(X, Y), function(X, Y))


def test_a_sum_over_two_devices_stays():
    with FakeTensorMode():
        number, zero = torch.ones(()), torch.ones((), device="cuda")
        traced = make_fx(lambda x, y: x.exp() + y * 0)(number, zero)
    remove_zeros(traced.graph)
    assert targets(traced)[-1] is aten.add.Tensor


def test_convolutions_of_zeros_are_removed():
    def function(x, w, y):
        zeros = torch.zeros(2, 5, 4, 4)
        out = aten.convolution_backward(zeros, x, w, [5], [2, 2], [1, 1], [1, 1], False, [0, 0], 1, [True, True, True])
        more = aten.convolution(x * 0, w, None, [2, 2], [1, 1], [1, 1], False, [0, 0], 1)
        return out[0] + x, out[1] + w, out[2] + 1, more + y

    y = torch.randn(2, 5, 4, 4)
    traced = cleaned(function, X, W, y)
    assert convolution_passes(traced.graph) == 0
    for got, want in zip(traced(X, W, y), function(X, W, y), strict=True):
        assert torch.equal(got, want)


def test_only_gradients_that_are_used_are_computed():
    def function(dy, x, w):
        return aten.convolution_backward(
            dy, x * 0, w, [5], [2, 2], [1, 1], [1, 1], False, [0, 0], 1, [True, True, True]
        )[:2]

    dy = torch.randn(2, 5, 4, 4)
    traced = cleaned(function, dy, X, W)
    (node,) = [n for n in traced.graph.nodes if n.target is aten.convolution_backward.default]
    assert node.args[-1] == [True, False, False]  # the weight's is zero, the bias' is not used
    for got, want in zip(traced(dy, X, W), function(dy, X, W), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1])
def test_the_weight_gradient_of_the_double_backward_is_restored(stride, padding):
    x, w = torch.randn(2, 3, 9, 9).double(), torch.randn(5, 3, 4, 4).double().requires_grad_()

    def function(x, w, v):
        x = x.detach().requires_grad_()
        y = torch.nn.functional.conv2d(x, w, None, stride, padding)
        (g,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return torch.autograd.grad((g * v).sum(), w)[0]

    v = torch.randn(2, 3, 9, 9).double()
    traced = make_fx(function, tracing_mode="fake")(x, w, v)
    before = [n for n in traced.graph.nodes if n.target is aten.convolution.default]
    restore_weight_gradients(traced.graph)
    after = [n for n in traced.graph.nodes if n.target is aten.convolution.default]
    traced.recompile()
    assert len(after) == len(before) - 1
    torch.testing.assert_close(traced(x, w, v), function(x, w, v), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 3])
def test_other_transposed_convolutions_stay(groups):
    def function(x, w):
        y = torch.nn.functional.conv2d(x.permute(1, 0, 2, 3), w, None, groups=groups)
        return y.permute(1, 0, 2, 3)

    traced = graph_of(function, torch.randn(3, 2, 8, 8), torch.randn(6, 3 // groups, 3, 3))
    before = targets(traced)
    restore_weight_gradients(traced.graph)
    assert targets(traced) == before


@pytest.mark.parametrize(
    "cut", [lambda y: y[:, :, ::2], lambda y: y[:, :, :2], lambda y: y[..., :3], lambda y: y[:, :, :2, :2]]
)
def test_a_correlation_that_is_sliced_otherwise_is_no_weight_gradient(cut):
    def function(x, y):
        return cut(torch.nn.functional.conv2d(x.permute(1, 0, 2, 3), y.permute(1, 0, 2, 3))).permute(1, 0, 2, 3)

    y = torch.randn(2, 5, 4, 4)
    traced = graph_of(function, X, y)
    restore_weight_gradients(traced.graph)
    traced.recompile()
    assert torch.equal(traced(X, y), function(X, y))


def test_the_graph_stays_valid():
    traced = cleaned(lambda x: (x.exp() + torch.zeros_like(x)).relu(), X)
    assert isinstance(traced.graph, fx.Graph)
    assert operator.getitem not in targets(traced)
    traced.graph.lint()
