"""The Triton convolutions against the reference: shapes and configs that the small cases of the contract do not have.

On a GPU, or in Triton's interpreter (tests/interpret/test_interpret.py runs this file there).
"""

import math

import pytest
import torch

from fastgan._util import env
from fastgan.ops import ACTIVATIONS, _backend
from fastgan.ops.bias_act import reference as bias_act_reference
from fastgan.ops.conv import reference, triton
from fastgan.ops.conv.triton_configs import CONFIGS, Config, Gpu, configs, wgrad_configs
from fastgan.ops.conv.triton_launch import forward_shape, wgrad
from fastgan.testing.tolerances import assert_as_good_as

DEVICE = "cpu" if env.flag("TRITON_INTERPRET") else "cuda"
pytestmark = [
    pytest.mark.parametrize("device", [DEVICE]),
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="neither a GPU nor the interpreter"),
]

# x, weight, stride, padding, dilation. Odd sizes; fewer and more channels than a block.
GEOMETRIES = {
    "3x3": ((2, 20, 7, 6), (17, 20, 3, 3), (1, 1), (1, 1), (1, 1)),
    "first_layer": ((2, 3, 9, 8), (40, 3, 4, 4), (2, 2), (1, 1), (1, 1)),
    "4x4_stride2": ((2, 70, 8, 7), (33, 70, 4, 4), (2, 2), (1, 1), (1, 1)),
    "last_layer": ((3, 512, 4, 4), (1, 512, 4, 4), (1, 1), (0, 0), (1, 1)),
    "1x1": ((2, 16, 5, 3), (130, 16, 1, 1), (1, 1), (0, 0), (1, 1)),
    "phases_without_taps": ((2, 20, 7, 6), (17, 20, 1, 1), (3, 2), (0, 1), (1, 1)),
    "dilated": ((1, 20, 13, 12), (7, 20, 5, 5), (3, 3), (4, 3), (2, 2)),
    "stride_and_dilation_share_a_factor": ((2, 5, 11, 14), (18, 5, 3, 3), (4, 2), (1, 3), (2, 4)),
    "no_padding_leaves_a_rest": ((2, 17, 8, 9), (16, 17, 3, 2), (3, 4), (0, 0), (1, 1)),
}
#: What Triton's interpreter runs by default; the full run takes all.
DEFAULT = {"3x3", "first_layer", "4x4_stride2"}
KINDS = [(torch.float32, torch.contiguous_format), (torch.bfloat16, torch.channels_last)]
CASES = [
    pytest.param(
        name, *kind, marks=[] if name in DEFAULT and kind is KINDS[0] else pytest.mark.full, id=f"{name}-{kind}"
    )
    for name in GEOMETRIES
    for kind in KINDS
]
SMALL = CONFIGS[-1]
#: Programs that share a sum, some of them with nothing to add; an input whose channels are padded; both.
LARGE = Config(128, 64, 16, 8, 2)  # the interpreter's time is a matter of the number of programs
VARIANTS = [LARGE._replace(splits=3), LARGE._replace(pad=True), LARGE._replace(splits=40, pad=True)]
ALL = [
    pytest.param(c, marks=[] if c in (SMALL, *VARIANTS) else pytest.mark.full, id=str(c)) for c in (*CONFIGS, *VARIANTS)
]
H200 = Gpu(processors=132, shared=227 * 1024)
ACTS = [
    pytest.param(name, marks=[] if name == "leaky_relu" else pytest.mark.full)
    for name, row in ACTIVATIONS.items()
    if row.saves == "output"
]
ACT = ("leaky_relu", 0.2, 1.5, 0.9)


def draw(name, dtype, device, layout=torch.channels_last):
    """x, weight, bias, a cotangent of the output, and the options."""
    shape, weight, *options = GEOMETRIES[name]
    options = [list(o) for o in options]
    generator = torch.Generator().manual_seed(0)

    def normal(*size):
        return torch.randn(size, generator=generator)

    x, w, b = normal(*shape), normal(*weight) / (weight[1] * weight[2] * weight[3]) ** 0.5, normal(weight[0])
    out = forward_shape(x, w, *options)
    tensors = [x.contiguous(memory_format=layout), w, b, normal(*out).contiguous(memory_format=layout)]
    return *(t.to(device, dtype) for t in tensors), options


def double(*tensors):
    return [None if t is None else t.double() for t in tensors]


def check_forward(x, w, b, options, config, act=ACT):
    ours = triton.forward(x, w, b, *options, *act, config)
    plain = reference.conv_bias_act(x, w, b, *options, 1, *act)
    assert ours.dtype == plain.dtype
    assert ours.is_contiguous(memory_format=reference.activation_layout(x, w))
    truth = reference.conv_bias_act(*double(x, w, b), *options, 1, *act)
    assert_as_good_as(ours, plain, truth, terms=math.prod(w.shape[1:]), what="y")


def check_backward(dy, w, saved, options, config):
    size = list(saved.shape[2:])
    dx, db = triton.backward(dy, w, size, *options, config, saved, ACT, True)
    plain_dx, plain_db = reference.conv_dgrad_act(dy, w, saved, *options, 1, *ACT, True)
    true_dx, true_db = reference.conv_dgrad_act(*double(dy, w, saved), *options, 1, *ACT, True)
    assert (dx.dtype, db.dtype) == (plain_dx.dtype, plain_db.dtype)
    assert dx.is_contiguous(memory_format=reference.activation_layout(dy, w))
    terms = w.shape[0] * math.prod(w.shape[2:])
    assert_as_good_as(dx, plain_dx, true_dx, terms=terms, what="dx")
    assert_as_good_as(db, plain_db, true_db, terms=dx.numel() // dx.shape[1], what="db")
    alone, nothing = triton.backward(dy, w, size, *options, config)
    assert nothing.numel() == 0
    plain = reference.conv_dgrad(dy, w, size, *options, 1)
    truth = reference.conv_dgrad(*double(dy, w), size, *options, 1)
    assert_as_good_as(alone, plain, truth, terms=terms, what="dx alone")


def check_slope(x, w, saved, options, config):
    ours = triton.forward(x, w, None, *options, *ACT, config, saved)

    def expected(x, w, saved):
        return bias_act_reference.bias_act_grad(reference.conv(x, w, *options, 1), saved, None, *ACT, False)[0]

    assert ours.stride() == expected(x, w, saved).stride()
    truth = expected(*double(x, w, saved))
    assert_as_good_as(ours, expected(x, w, saved), truth, terms=math.prod(w.shape[1:]), what="tangent")


def check_wgrad(dy, x, kernel, options, config):
    for channels_last in (True, False):
        ours = wgrad(dy, x, kernel, *options, channels_last, config)
        plain = reference.conv_wgrad(dy, x, kernel, *options, 1, channels_last)
        assert ours.dtype == plain.dtype
        assert ours.is_contiguous(memory_format=reference.weight_layout(channels_last))
        truth = reference.conv_wgrad(*double(dy, x), kernel, *options, 1, channels_last)
        assert_as_good_as(ours, plain, truth, terms=dy.numel() // dy.shape[1], what="dw")


@pytest.mark.parametrize(("name", "dtype", "layout"), CASES)
def test_every_geometry(device, name, dtype, layout):
    x, w, b, dy, options = draw(name, dtype, device, layout)
    rows, outputs = dy.numel() // dy.shape[1], dy.shape[1]
    few, taps = x.shape[1] < 16, math.prod(w.shape[2:])
    config = configs(rows, outputs, x.shape[1] * taps, dtype, H200, few=few)[0]
    check_forward(x, w, b, options, config)
    check_slope(x, w, dy, options, config)
    check_backward(dy, w, x, options, configs(x.numel() // x.shape[1], x.shape[1], outputs, dtype, H200)[0])
    check_wgrad(dy, x, list(w.shape[2:]), options, wgrad_configs(rows, outputs, x.shape[1], taps, dtype, H200)[0])


@pytest.mark.parametrize("config", ALL)
@pytest.mark.parametrize("name", ["3x3", "first_layer"])
def test_every_config(device, name, config):
    x, w, b, dy, options = draw(name, torch.float16, device)
    check_forward(x, w, b, options, config)
    check_slope(x, w, dy, options, config)
    check_backward(dy, w, x, options, config)
    check_wgrad(dy, x, list(w.shape[2:]), options, config)


@pytest.mark.parametrize(
    "dtype",
    [torch.bfloat16, *(pytest.param(d, marks=pytest.mark.full) for d in (torch.float16, torch.float32, torch.float64))],
)
def test_split_sums_repeat_bit_for_bit(device, dtype):
    x, w, b, dy, options = draw("4x4_stride2", dtype, device)
    config = LARGE._replace(splits=5)
    check_forward(x, w, b, options, config)
    check_backward(dy, w, x, options, config)
    check_wgrad(dy, x, [4, 4], options, config)
    runs = [
        (
            triton.forward(x, w, b, *options, *ACT, config),
            *triton.backward(dy, w, list(x.shape[2:]), *options, config, x, ACT, True),
            wgrad(dy, x, [4, 4], *options, True, config),
        )
        for _ in range(2)
    ]
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # NumPy's, of ∞ − ∞
def test_a_weight_depends_only_on_the_pixels_of_dy_that_its_tap_reaches(device):
    # Where padding is read, a product with zero would spread an infinite dy.
    for name in ("3x3", "first_layer"):
        x, w, _, dy, options = draw(name, torch.float32, device)
        dy[:, :, 0] = float("inf")
        kernel = list(w.shape[2:])
        ours, expected = (
            wgrad(dy, x, kernel, *options, True, LARGE),
            reference.conv_wgrad(dy, x, kernel, *options, 1, True),
        )
        assert expected.isfinite().any()
        assert torch.equal(ours.isfinite(), expected.isfinite())


def test_packed_weights_give_the_same_gradient(device, monkeypatch):
    x, w, _, dy, options = draw("4x4_stride2", torch.float32, device)
    size = list(x.shape[2:])
    expected, _ = triton.backward(dy, w, size, *options, SMALL)
    monkeypatch.setattr("fastgan.ops.conv.triton_launch.precision", lambda x: "tf32")
    packed, _ = triton.backward(dy, w, size, *options, SMALL)
    assert packed.dtype == expected.dtype
    assert (packed - expected).norm() <= (1e-6 if device == "cpu" else 1e-2) * expected.norm()


def test_the_tangent_and_the_weight_gradient_through_their_back_ends(device, monkeypatch):
    monkeypatch.setattr(_backend, "forced", "triton")
    x, w, _, dy, options = draw("first_layer", torch.float32, device)
    tangent = triton.conv_slope(x, w, dy, *options, 1, *ACT)
    expected, _ = bias_act_reference.bias_act_grad(reference.conv(x, w, *options, 1), dy, None, *ACT, False)
    torch.testing.assert_close(tangent, expected)
    assert triton.CONV_WGRAD.why_not(dy, x, [4, 4], *options, 1, True) is None
    dw = triton.CONV_WGRAD.run(dy, x, [4, 4], *options, 1, True)
    torch.testing.assert_close(dw, reference.conv_wgrad(dy, x, [4, 4], *options, 1, True))
    assert "one group" in triton.CONV_WGRAD.why_not(dy, x, [4, 4], *options, 2, True)


@pytest.mark.parametrize("act", ACTS)
def test_every_activation(device, act):
    x, w, b, _, options = draw("first_layer", torch.float32, device)
    check_forward(x, w, b, options, SMALL, (act, 0.3, 0.7, None))
    check_forward(x, w, None, options, SMALL, (act, 0.3, 0.7, 0.5))


def test_a_float32_bias_is_added_before_rounding(device):
    x, w, b, _, options = draw("first_layer", torch.bfloat16, device)
    b = b.float() + 1 / 300
    ours = triton.forward(x, w, b, *options, "linear", 0.0, 1.0, None, SMALL)
    truth = reference.conv_bias_act(*double(x, w, b), *options, 1, "linear", 0.0, 1.0, None)
    assert_as_good_as(ours, truth.to(x.dtype), truth, factor=1.01)


def test_a_pixel_of_a_strided_gradient_depends_only_on_the_taps_that_reach_it(device):
    # Of a 4×4 kernel with stride 2 and padding 1, tap (0, 0) reaches the odd rows and columns; a product with an
    # inserted zero would spread its NaN.
    x, w, _, dy, options = draw("4x4_stride2", torch.float32, device)
    w[:, :, 0, 0] = float("nan")
    dx, _ = triton.backward(dy, w, list(x.shape[2:]), *options, SMALL)
    assert dx[:, :, 1::2, 1::2].isnan().any()
    dx[:, :, 1::2, 1::2] = 0
    assert not dx.isnan().any()
