"""Modulated convolutions against the paper's formulation with weights for each sample, in float64."""

import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F

from fastgan.ops import bias_act, channel_dot, channel_scale, modulated_conv2d, modulated_layer, scale_noise_bias_act
from fastgan.testing.op_recorder import OpRecorder

FILTER = torch.tensor([1.0, 3.0, 2.0, 1.0], dtype=torch.float64) / 7  # not symmetric, so that a wrong flip shows
JOINT = {"conv_backward": ("conv_dgrad", "conv_wgrad"), "conv_dgrad_backward": ("conv", "conv_wgrad")}


def per_sample(x, weight, styles, *, demodulate=True, up=False, padding=0, filter=None, input_gain=None):
    """Weights for each sample, one sample at a time; upsampling inserts zeros and convolves."""
    outputs = []
    for n in range(len(x)):
        w = weight * styles[n].view(1, -1, 1, 1)
        if demodulate:
            w = w * (w.square().sum((1, 2, 3), keepdim=True) + 1e-8).rsqrt()
        if input_gain is not None:
            w = w * (input_gain[n] if input_gain.dim() == 2 else input_gain).view(1, -1, 1, 1)
        image = x[n : n + 1]
        if up:
            image = F.conv_transpose2d(image, w.transpose(0, 1), stride=2)
            image = filtered(image, filter, weight.shape[2], padding)
        else:
            image = F.conv2d(image, w, padding=padding)
        outputs.append(image)
    return torch.cat(outputs)


def filtered(y, filter, kernel, padding):
    f = torch.ones(1, 1) if filter is None else filter if filter.dim() == 2 else torch.outer(filter, filter)
    f = 4 * f.to(y).flip(0, 1)
    for axis, (before, after) in enumerate(_margins(taps, kernel, padding) for taps in f.shape):
        pad = [0, 0, before, after] if axis == 0 else [before, after, 0, 0]
        y = F.pad(y, pad)
    channels = y.shape[1]
    return F.conv2d(y, f.expand(channels, 1, *f.shape), groups=channels)


def _margins(taps, kernel, padding):
    # The size of the output is that of upsampling by 2: 2 · (size + 2 · padding − kernel + 1), centered.
    total = 2 * (2 * padding - kernel + 1) - (kernel - 2) + taps - 1
    return total - total // 2, total // 2


def inputs(shape=(3, 4, 5, 6), out=5, kernel=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)

    def normal(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    n, channels = shape[:2]
    return normal(*shape), normal(out, channels, kernel, kernel), normal(n, channels)


OPTIONS = {
    "plain": {"padding": 1},
    "without_demodulation": {"demodulate": False},
    "up": {"up": True, "padding": 1, "filter": FILTER},
    "up_2d_filter": {"up": True, "padding": 1, "filter": torch.outer(FILTER, FILTER.flip(0))},
    "up_no_filter": {"up": True, "padding": 1},
    "input_gain_scalar": {"padding": 2, "input_gain": torch.tensor(0.7)},
    "input_gain_channels": {"padding": 2, "input_gain": torch.linspace(0.5, 2, 4)},
    "input_gain_samples": {"padding": 2, "input_gain": torch.linspace(0.5, 2, 12).view(3, 4)},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_two_orders_equal_weights_for_each_sample(options):
    ours, plain = inputs(), inputs()
    results = []
    for function, arguments in ((modulated_conv2d, ours), (per_sample, plain)):
        y = function(*arguments, **options)
        # A path length: the gradient with respect to x and styles, squared, differentiated by everything.
        dy = torch.sin(torch.arange(y.numel(), dtype=y.dtype)).view(y.shape)
        first = torch.autograd.grad((y * dy).sum(), (arguments[0], arguments[2]), create_graph=True)
        value = sum(g.square().sum() for g in first) + y.square().sum()
        results.append([y, *first, *torch.autograd.grad(value, arguments)])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("noises", [None, 1, 3])
def test_a_layer_equals_its_parts(layout, up, noises):
    x, weight, styles = inputs()
    x = x.detach().contiguous(memory_format=layout).requires_grad_()
    options = {"up": up, "padding": 1, "filter": FILTER if up else None}
    size = (10, 12) if up else (5, 6)
    noise = None if noises is None else torch.randn(noises, 1, *size, dtype=x.dtype, requires_grad=True)
    bias = torch.randn(5, dtype=x.dtype, requires_grad=True)
    leaves = [t for t in (x, weight, styles, noise, bias) if t is not None]
    y = modulated_layer(x, weight, styles, noise, bias, clamp=1.5, **options)
    expected = per_sample(x, weight, styles, **options) + (0 if noise is None else noise) + bias.view(1, -1, 1, 1)
    expected = (math.sqrt(2) * F.leaky_relu(expected, 0.2)).clamp(-1.5, 1.5)
    torch.testing.assert_close(y, expected)
    assert y.is_contiguous(memory_format=layout)
    dy = torch.randn_like(y)
    torch.testing.assert_close(torch.autograd.grad(y, leaves, dy), torch.autograd.grad(expected, leaves, dy))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow(dtype):
    x, weight, styles = (t.detach() for t in inputs((2, 64, 4, 4), 8))
    x, weight, styles = 200 * x, 300 * weight, 500 * styles
    expected = per_sample(x.to(dtype).double(), weight, styles, padding=1)
    got = modulated_conv2d(x.to(dtype), weight.float(), styles.float(), padding=1)
    assert got.dtype == dtype
    assert (got.double() - expected).norm() < (0.002 if dtype == torch.float16 else 0.015) * expected.norm()


def test_prenormalization_leaves_the_gradients_exact():
    x, weight, styles = inputs((2, 6, 4, 4), 3, dtype=torch.float32)
    dy = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    y = modulated_conv2d(x.to(torch.bfloat16), weight, styles, padding=1)
    got = torch.autograd.grad(y, (weight, styles), dy.to(y.dtype))
    expected = torch.autograd.grad(per_sample(x, weight, styles, padding=1), (weight, styles), dy)
    for ours, exact in zip(got, expected, strict=True):
        assert (ours - exact).norm() < 0.02 * exact.norm()


def test_path_length_runs_no_wasted_convolution():
    """Two layers and an output layer without demodulation: the gradient with respect to w, and its backward pass."""
    torch.manual_seed(0)
    w = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    const = torch.randn(1, 4, 4, 4, dtype=torch.float64, requires_grad=True)
    affine = [torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    weights = [torch.randn(size, 4, 3, 3, dtype=torch.float64, requires_grad=True) for size in (4, 4, 3)]
    with OpRecorder() as calls:
        x = const.expand(2, 4, 4, 4)
        for a, weight in zip(affine[:2], weights[:2], strict=True):
            x = modulated_layer(x, weight, w @ a, torch.ones(1, 1, 4, 4, dtype=w.dtype), padding=1)
        images = modulated_layer(x, weights[2], w @ affine[2], demodulate=False, padding=1, act="linear", gain=1.0)
        noise = torch.randn_like(images)
        (gradient,) = torch.autograd.grad((images * noise).sum(), w, create_graph=True)
        gradient.square().sum().backward()
    passes = Counter()
    for name, count in calls.counts().items():
        for part in JOINT.get(name, (name,)):
            passes[part] += count
    assert {name: passes[name] for name in ("conv", "conv_dgrad", "conv_wgrad")} == {
        # Three of the forward pass; tangents of two layers, since nothing depends on the output layer's.
        "conv": 3 + 2,
        # Three of the first gradient, two in its backward pass: it does not depend on the images themselves.
        "conv_dgrad": 3 + 2,
        "conv_wgrad": 3 + 2,
    }


def test_channel_dot_of_rows_without_pixels():
    a, b = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    dot = channel_dot(a, b)
    assert torch.equal(dot, a * b)
    torch.testing.assert_close(torch.autograd.grad(dot.sum(), (a, b)), (b, a))
    assert torch.equal(channel_scale(a, b), a * b)


@pytest.mark.parametrize("act", ["relu", "tanh", "silu"])
def test_other_activations(act):
    x, scale = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    noise, bias = torch.randn(1, 1, 4, 5, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    expected = bias_act(x * scale[:, :, None, None] + noise, bias, act, gain=1.5)
    torch.testing.assert_close(scale_noise_bias_act(x, scale, noise, bias, act, gain=1.5), expected)


def test_errors_name_the_argument():
    x, weight, styles = (t.detach() for t in inputs())
    for message, arguments, options in (
        (r"x: expected \[N, I, H, W\]", (x[0], weight, styles), {}),
        (r"weight: expected \[O, 4, k, k\]", (x, weight[:, :3], styles), {}),
        (r"styles: expected \[3, 4\]", (x, weight, styles[:1]), {}),
        (r"padding: expected a whole number >= 0, got -1", (x, weight, styles), {"padding": -1}),
        (r"input_gain: expected a scalar, \[4\] or \[3, 4\], got \[3\]", (x, weight, styles),
         {"input_gain": torch.ones(3)}),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            modulated_conv2d(*arguments, **options)
    with pytest.raises(TypeError, match="styles: expected x's dtype"):
        modulated_conv2d(x, weight, styles.float())
    with pytest.raises(ValueError, match=r"scale: expected \[3, 4\]"):
        channel_scale(x, styles[:2])
    with pytest.raises(ValueError, match=r"noise: expected \[3, 1, 5, 6\] or \[1, 1, 5, 6\]"):
        scale_noise_bias_act(x, styles, torch.ones(3, 4, 5, 6, dtype=x.dtype))
    with pytest.raises(ValueError, match=r"b: expected \[3, 4, 5, 6\]"):
        channel_dot(x, x[:1])
