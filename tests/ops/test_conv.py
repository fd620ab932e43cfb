import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fastgan.ops import ConvLayer, bias_act, conv2d, conv2d_bias_act, conv2d_stack, conv_transpose2d
from fastgan.ops._memory_format import channels_last_strides
from fastgan.ops.conv.stack import conv_stack_backward_op, conv_stack_op
from fastgan.ops.conv.stack_passes import conv_stack_dgrad_op
from fastgan.testing.op_recorder import OpRecorder

X, W = torch.randn(2, 4, 6, 6), torch.randn(8, 4, 3, 3)


@pytest.mark.parametrize(
    ("call", "named", "error"),
    [
        (lambda: conv2d(X.int(), W), "x: expected a floating tensor, got torch.int32", TypeError),
        (lambda: conv2d(X[0], W), r"x: expected \[N, C, H, W\], got \[4, 6, 6\]", ValueError),
        (lambda: conv2d(X, W[0]), r"weight: expected \[K, C/groups, R, S\]", ValueError),
        (lambda: conv2d(X, W.double()), "weight: expected x's dtype torch.float32, got torch.float64", TypeError),
        (lambda: conv2d(X[:, :3], W), r"x: expected 4 channels, as weight \[8, 4, 3, 3\] .* takes, got 3", ValueError),
        (lambda: conv2d(X, W, groups=3), "groups: expected a divisor of weight's 8 rows, got 3", ValueError),
        (lambda: conv2d(X, W, stride=0), "stride: expected a whole number >= 1, or two, got 0", ValueError),
        (lambda: conv2d(X, W, padding=(1, 2, 3)), "padding", ValueError),
        (lambda: conv2d(X, W, dilation=4), "x: expected at least 9 pixels in dimension 2, got 6", ValueError),
        (lambda: conv_transpose2d(X, W), "x: expected 8 channels", ValueError),
        (lambda: conv_transpose2d(X, W.mT.transpose(0, 1), output_padding=1), "output_padding", ValueError),
        (
            lambda: conv_transpose2d(X[..., :1, :1], W.transpose(0, 1), padding=2),
            "padding: expected an output",
            ValueError,
        ),
    ],
)
def test_bad_arguments_are_named(call, named, error):
    with pytest.raises(error, match=named):
        call()


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("output_padding", [0, 1])
def test_transposed_sizes_equal_pytorchs(output_padding, padding):
    options = {"stride": 3, "padding": padding, "output_padding": output_padding}
    w = W.transpose(0, 1)
    torch.testing.assert_close(conv_transpose2d(X, w, **options), F.conv_transpose2d(X, w, **options))


def test_autocast_casts_both_and_gradients_have_the_dtype_of_their_tensor():
    x, w = X.clone().requires_grad_(), W.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = conv2d(x, w, padding=1)
        plain = F.conv2d(x, w, padding=1)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, plain)
    for leaf, gradient in zip((x, w), torch.autograd.grad(y.float().sum(), (x, w)), strict=True):
        assert gradient.dtype == leaf.dtype


def discriminator(layers, x):
    for w, b in layers:
        x = bias_act(conv2d(x, w, stride=2, padding=1), b)
    return x.sum((1, 2, 3))


@pytest.mark.parametrize("depth", [1, 3, 4])
def test_a_penalty_through_a_discriminator_runs_only_the_passes_that_it_needs(depth):
    """L layers: L forward, L input gradients; then L tangents and L weight gradients in L ops, and no zeros."""
    layers = [(torch.randn(4, 4, 4, 4, requires_grad=True), torch.randn(4, requires_grad=True)) for _ in range(depth)]
    weights = [w for w, _ in layers]
    x = torch.randn(2, 4, 32, 32, requires_grad=True)
    with OpRecorder() as calls:
        (gradient,) = torch.autograd.grad(discriminator(layers, x).sum(), x, create_graph=True)
        assert calls.counts() == {"conv": depth, "bias_act": depth, "bias_act_grad": depth, "conv_dgrad": depth}
        penalty = (gradient.flatten(1).norm(dim=1) - 1).square().mean()
        penalty.backward(inputs=[tensor for layer in layers for tensor in layer])
    assert calls.counts() == {
        "conv": depth, "conv_dgrad": depth, "conv_dgrad_backward": depth, "bias_act": depth, "bias_act_grad": 2 * depth
    }  # fmt: skip
    smallest_activation = 2 * 4 * (32 >> depth) ** 2
    assert not calls.zeros(smallest_activation)
    assert all(w.grad is not None for w in weights)


def test_that_penalty_equals_plain_pytorch_s():
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(4, 4, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(4, 4, 4, 2, 1), nn.LeakyReLU(0.2)
    ).double()
    layers = [(plain[0].weight, plain[0].bias), (plain[2].weight, plain[2].bias)]
    x = torch.randn(3, 4, 16, 16, dtype=torch.double)
    found = []
    for network in (lambda v: discriminator(layers, v), lambda v: plain(v).sum((1, 2, 3))):
        v = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(network(v).sum(), v, create_graph=True)
        penalty = (gradient.flatten(1).norm(dim=1) - 1).square().mean()
        found.append([penalty, *torch.autograd.grad(penalty, [plain[0].weight, plain[2].weight])])
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-14)


def test_autocast_does_not_cast_double():
    x, w = X.double(), W.double()
    with torch.autocast("cpu", torch.bfloat16):
        assert conv2d(x, w).dtype == torch.float64 == F.conv2d(x, w).dtype


@pytest.mark.parametrize("act", ["relu", "leaky_relu", "linear"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_block_passes_nan_and_infinity_on(act, value):
    x = X.clone()
    x[0, 1, 2, 3] = value
    got = conv2d_bias_act(x, W, torch.zeros(8), act, padding=1)
    want = bias_act(conv2d(x, W, padding=1), torch.zeros(8), act)
    torch.testing.assert_close(got, want, equal_nan=True)
    assert got.isfinite().all() == want.isfinite().all()


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16], ids=str)
def test_first_layers_do_not_depend_on_the_default_dtype(default):
    x = torch.randn(2, 64, 8, 8).contiguous(memory_format=torch.channels_last)
    w = torch.randn(64, 3, 4, 4)
    want = F.conv_transpose2d(x, w, stride=2, padding=1)
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        got = conv_transpose2d(x, w, stride=2, padding=1)
    finally:
        torch.set_default_dtype(before)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("function", [conv2d, lambda x, w: conv2d_bias_act(x, w, torch.ones(8))], ids=["conv", "block"])
@pytest.mark.parametrize("shape", [(8, 1, 4, 4), (8, 3, 1, 1)], ids=str)
def test_the_strides_of_weights_that_fit_both_layouts_decide(shape, function):
    x, plain = torch.randn(2, shape[1], 9, 9), torch.randn(shape)
    strided = plain.as_strided(shape, channels_last_strides(plain.shape))
    assert strided.is_contiguous()
    for weight, layout in ((plain, torch.contiguous_format), (strided, torch.channels_last)):
        y = function(x, weight)
        torch.testing.assert_close(y, function(x, plain))
        assert y.is_contiguous(memory_format=layout)
        with FakeTensorMode() as mode:
            assert function(mode.from_tensor(x), mode.from_tensor(weight)).stride() == y.stride()


@pytest.mark.parametrize(
    ("weight_grad", "bias_grad", "input_grad"),
    [([True, True], [True, True], True), ([False, True], [False, False], False), ([True, False], [False, True], False)],
)
def test_the_gradients_of_a_stack_in_one_call_equal_its_passes_and_have_gradients(weight_grad, bias_grad, input_grad):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    weights = [torch.randn(4, 3, 3, 3, dtype=torch.float64), torch.randn(2, 4, 3, 2, dtype=torch.float64)]
    options = [1, 1, 2, 1], [1, 1, 1, 0], [1, 1, 1, 1], [1, 1], "leaky_relu", 0.2, 1.5, None
    outputs = [y.detach() for y in conv_stack_op(x, weights, [], *options, True)]
    dy = torch.randn_like(outputs[-1])
    leaves = [t.requires_grad_() for t in (dy, x, *weights)]

    def backward(dy, x, *weights):
        return tuple(
            conv_stack_backward_op(dy, x, list(weights), outputs, *options, weight_grad, bias_grad, input_grad)
        )

    dzs = conv_stack_dgrad_op(dy, weights, outputs, x.shape[2:], *options, 0, True, True)
    dws = [
        torch.nn.grad.conv2d_weight(y, w.shape, dz, stride, padding)
        for y, w, dz, stride, padding in (
            (x, weights[0], dzs[0], options[0][:2], options[1][:2]),
            (outputs[0], weights[1], dzs[1], options[0][2:], options[1][2:]),
        )
    ]
    expected = [dw for dw, want in zip(dws, weight_grad, strict=True) if want]
    expected += [db for db, want in zip(dzs[2:4], bias_grad, strict=True) if want]
    expected += [dzs[4]] if input_grad else []
    torch.testing.assert_close(list(backward(*leaves)), expected)
    assert torch.autograd.gradcheck(backward, leaves)


def test_a_stack_that_keeps_nothing_has_no_gradient():
    x = torch.randn(1, 1, 4, 4, requires_grad=True)
    arguments = [torch.ones(1, 1, 3, 3)], [], [1, 1], [1, 1], [1, 1], [1], "relu", 0.0, 1.0, None
    with pytest.raises(RuntimeError, match="conv_stack: without keep it has no gradient"):
        conv_stack_op(x, *arguments, False)
    with torch.no_grad():
        (last,) = conv_stack_op(x, *arguments, False)
    assert torch.equal(last, conv_stack_op(x, *arguments, True)[-1])


@pytest.mark.parametrize("act", ["linear", "leaky_relu"])
@pytest.mark.parametrize("bias", [torch.randn(32)[::2], torch.tensor([1.5]).expand(16)], ids=["strided", "expanded"])
def test_a_bias_may_have_any_strides(act, bias):
    x, weight = torch.randn(2, 3, 40, 40), torch.randn(16, 3, 3, 3)
    found = conv2d_bias_act(x, weight, bias, act, padding=1)
    torch.testing.assert_close(found, conv2d_bias_act(x, weight, bias.contiguous(), act, padding=1))


@pytest.mark.parametrize("act", [None, "leaky_relu"])
def test_the_layout_for_an_expanded_input_is_that_of_the_fake(act):
    def run(x, weight):
        return conv2d(x, weight) if act is None else conv2d_bias_act(x, weight, None, act)

    x, weight = torch.randn(2, 8, 1, 1).expand(2, 8, 6, 6), torch.randn(16, 8, 3, 3)
    with FakeTensorMode() as mode:
        fake = run(mode.from_tensor(x), mode.from_tensor(weight))
    assert run(x, weight).stride() == fake.stride()
    dy = torch.randn(2, 16, 1, 1).expand(2, 16, 4, 4)
    with FakeTensorMode() as mode:
        fake = conv_transpose2d(mode.from_tensor(dy), mode.from_tensor(weight))
    assert conv_transpose2d(dy, weight).stride() == fake.stride()


def test_a_stack_with_other_strides_in_height_than_in_width_avoids_onednn_s_channels_last():
    x = torch.randn(2, 1, 5, 1, 2)[..., 0]  # one channel, not dense
    layers = [
        ConvLayer(torch.randn(1, 1, 1, 1), torch.randn(1), 2, 2),
        ConvLayer(torch.randn(16, 1, 3, 3), torch.randn(16), (1, 2)),
    ]
    expected = x
    for layer in layers:
        expected = F.leaky_relu(F.conv2d(expected, *layer), 0.2)
    torch.testing.assert_close(conv2d_stack(x, layers), expected)
