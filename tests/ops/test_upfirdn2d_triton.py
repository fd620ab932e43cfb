"""The Triton kernel of upfirdn2d for factors, paddings and sizes that the cases of the contract do not have.

On a GPU, or in Triton's interpreter (tests/interpret/test_interpret.py runs this file there).
"""

import itertools

import pytest
import torch

from fastgan._util import env
from fastgan.ops.upfirdn2d import reference, triton

DEVICE = "cpu" if env.flag("TRITON_INTERPRET") else "cuda"
pytestmark = [
    pytest.mark.parametrize("device", [DEVICE]),
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="neither a GPU nor the interpreter"),
]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
FILTERS = {
    "none": None,
    "three": torch.tensor([0.25, 0.5, 0.125]),
    "six": torch.arange(1.0, 7) / 21,
    "square": torch.arange(10.0).view(2, 5) / 45,
}
FACTORS = [(1, 1), (2, 2), (1, 2), (3, 2), (4, 1)]
PADDINGS = [(0, 0, 0, 0), (2, 1, 3, 4), (-2, 7, 5, -3)]
OPTIONS = list(itertools.product(FACTORS, FACTORS[:4], PADDINGS, (False, True)))


def check(x, f, up, down, padding, flip):
    f = None if f is None else f.to(x.device)
    arguments = (x, f, up, down, padding, flip, -1.5)
    y, expected = triton.plan_upfirdn2d(*arguments)(*arguments), reference.upfirdn2d(*arguments)
    assert (y.shape, y.stride()) == (expected.shape, expected.stride())
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("name", FILTERS)
def test_factors_paddings_and_flips(device, name, layout):
    # Every option in some combination: 13 has no divisor in common with the numbers of options.
    start = 3 * list(FILTERS).index(name) + 6 * LAYOUTS.index(layout)
    for up, down, padding, flip in OPTIONS[start % 13 :: 13]:
        x = torch.randn(2, 3, 8, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        check(x.to(device, memory_format=layout), FILTERS[name], up, down, padding, flip)


@pytest.mark.parametrize("shape", [(1, 70, 3, 18), (3, 2, 18, 150), (1, 1, 1, 1)], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels_last"])
def test_tiles_cover_any_shape(device, shape, layout):
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    check(x.to(device, memory_format=layout), FILTERS["three"], (2, 1), (1, 1), (2, 2, 1, 2), False)


def test_a_filter_too_long_to_unroll_is_refused(device):
    x = torch.zeros(1, 1, 64, 64, device=device)
    long = torch.ones(17, device=device)
    options = ([1, 1], [1, 1], [0, 0, 0, 0], False, 1.0)
    assert "takes filters that meet up to 256 pixels, not [17, 17]" in triton.FORWARD.why_not(x, long, *options)
    assert triton.FORWARD.why_not(x, long[:16], *options) is None
    assert triton.FORWARD.why_not(x, long, [2, 2], *options[1:]) is None
    square = torch.ones(9, 9, device=device)
    assert "meet up to 64 pixels" in triton.FORWARD.why_not(x, square, *options)
    assert triton.FORWARD.why_not(x, square[1:, 1:], *options) is None
