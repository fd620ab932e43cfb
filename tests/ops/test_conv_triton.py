"""The Triton convolutions against the reference: shapes and configs that the small cases of the contract do not have.

On a GPU, or in Triton's interpreter (tests/interpret/test_interpret.py runs this file there).
"""

import math

import pytest
import torch

from fastgan._util import env
from fastgan.ops import ACTIVATIONS
from fastgan.ops.conv import reference, triton
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
CONFIGS = [
    pytest.param(c, marks=[] if c is triton.CONFIGS[-1] else pytest.mark.full, id=str(c)) for c in triton.CONFIGS
]
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
    out = triton._forward_shape(x, w, *options)
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


@pytest.mark.parametrize(("name", "dtype", "layout"), CASES)
def test_every_geometry(device, name, dtype, layout):
    x, w, b, dy, options = draw(name, dtype, device, layout)
    rows, outputs = dy.numel() // dy.shape[1], dy.shape[1]
    check_forward(x, w, b, options, triton.configs(rows, outputs, dtype)[0])
    check_backward(dy, w, x, options, triton.configs(x.numel() // x.shape[1], x.shape[1], dtype)[0])


@pytest.mark.parametrize("config", CONFIGS)
def test_every_config(device, config):
    x, w, b, dy, options = draw("3x3", torch.float16, device)
    check_forward(x, w, b, options, config)
    check_backward(dy, w, x, options, config)


@pytest.mark.parametrize("act", ACTS)
def test_every_activation(device, act):
    x, w, b, _, options = draw("first_layer", torch.float32, device)
    check_forward(x, w, b, options, triton.CONFIGS[-1], (act, 0.3, 0.7, None))
    check_forward(x, w, None, options, triton.CONFIGS[-1], (act, 0.3, 0.7, 0.5))


def test_a_float32_bias_is_added_before_rounding(device):
    x, w, b, _, options = draw("first_layer", torch.bfloat16, device)
    b = b.float() + 1 / 300
    ours = triton.forward(x, w, b, *options, "linear", 0.0, 1.0, None, triton.CONFIGS[-1])
    truth = reference.conv_bias_act(*double(x, w, b), *options, 1, "linear", 0.0, 1.0, None)
    assert_as_good_as(ours, truth.to(x.dtype), truth, factor=1.01)


def test_a_pixel_of_a_strided_gradient_depends_only_on_the_taps_that_reach_it(device):
    # Of a 4×4 kernel with stride 2 and padding 1, tap (0, 0) reaches the odd rows and columns; a product with an
    # inserted zero would spread its NaN.
    x, w, _, dy, options = draw("4x4_stride2", torch.float32, device)
    w[:, :, 0, 0] = float("nan")
    dx, _ = triton.backward(dy, w, list(x.shape[2:]), *options, triton.CONFIGS[-1])
    assert dx[:, :, 1::2, 1::2].isnan().any()
    dx[:, :, 1::2, 1::2] = 0
    assert not dx.isnan().any()
