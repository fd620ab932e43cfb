"""The Triton kernel of filtered_lrelu: its tiles, masks, and the cases that it leaves to others.

On a GPU, or in Triton's interpreter (tests/interpret/test_interpret.py runs this file there).
"""

import pytest
import torch

from fastgan._util import env
from fastgan.ops.filtered_lrelu import reference, triton
from fastgan.ops.filtered_lrelu.register import adjoint

DEVICE = "cpu" if env.flag("TRITON_INTERPRET") else "cuda"
pytestmark = [
    pytest.mark.parametrize("device", [DEVICE]),
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="neither a GPU nor the interpreter"),
]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
# Taps, up, down, padding: StyleGAN3-T's two kinds of layers, a last row of masks that no pixel of y reads, filters that
# are shorter than the factors, and no filter.
KINDS = [
    ((12, 12), (2, 2), (2, 2), (11, 10, 11, 10)),
    ((24, 12), (4, 4), (2, 2), (17, 16, 17, 16)),
    ((5, 4), (4, 4), (3, 3), (3, 2, 4, 1)),
    ((4, 2), (1, 3), (3, 4), (-1, 2, 0, -2)),
    ((0, 0), (1, 1), (1, 1), (0, 0, 0, 0)),
]


def taps(count, device):
    f = torch.rand(count, generator=torch.Generator().manual_seed(count)) + 0.1
    return (f / f.sum()).to(device) if count else None


@pytest.mark.parametrize(("counts", "up", "down", "padding"), KINDS, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_several_tiles_give_the_reference_with_equal_masks(device, counts, up, down, padding, layout):
    """Forward, gradient, and the gradient's own gradient, which pads at the high rate otherwise."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 2, 22, 19, generator=generator).to(device).contiguous(memory_format=layout)
    bias, first, second = torch.linspace(-1, 1, 2, device=device), taps(counts[0], device), taps(counts[1], device)
    forward = (x, bias, first, second, up, down, padding, 1.4, 0.2, 0.9, True)
    assert triton.why_not_forward(*forward) is None
    (y, masks), (plain_y, plain_masks) = triton.FORWARD.run(*forward), reference.filtered_lrelu(*forward)
    torch.testing.assert_close(y, plain_y, rtol=1e-5, atol=1e-6)
    assert torch.equal(masks, plain_masks)
    assert masks.max() > 127  # some samples of the last of four are on the clamp
    pads = adjoint(x, y, first, second, up, down, padding, (0, 0, 0, 0))
    dy = torch.randn(y.shape, generator=generator).to(device).contiguous(memory_format=layout)
    gradient = (dy, masks, second, first, down, up, *pads, True, 1.7, 0.2)
    dx = triton.LINEAR.run(*gradient)
    torch.testing.assert_close(dx, reference.filtered_lrelu_linear(*gradient), rtol=1e-5, atol=1e-6)
    assert dx.shape == x.shape
    assert dx.is_contiguous(memory_format=layout)
    tangent = (dx, masks, first, second, up, down, padding, (0, 0, 0, 0), False, 1.7, 0.2)
    torch.testing.assert_close(
        triton.LINEAR.run(*tangent), reference.filtered_lrelu_linear(*tangent), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_filters_of_two_dimensions_are_applied_before_and_after_the_kernel(device, dtype):
    x = torch.randn(1, 2, 9, 8, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    first, second = (torch.outer(f, f.flip(0) ** 2) for f in (taps(6, device), taps(5, device)))
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-3}
    for up_filter, down_filter in ((taps(4, device), second), (first, taps(4, device)), (first, second)):
        forward = (x, torch.ones(2, device=device), up_filter, down_filter, (2, 2), (2, 3), (5, 4, 6, 5), 1.4, 0.2, 0.9)
        assert triton.why_not_forward(*forward, True) is None
        y, masks = triton.FORWARD.run(*forward, True)
        plain_y, plain_masks = reference.filtered_lrelu(*forward, True)
        torch.testing.assert_close(y, plain_y, **tolerance)
        assert torch.equal(masks, plain_masks) or dtype != torch.float32
        pads = adjoint(x, y, up_filter, down_filter, (2, 2), (2, 3), (5, 4, 6, 5), (0, 0, 0, 0))
        gradient = (plain_y, plain_masks, down_filter, up_filter, (2, 3), (2, 2), *pads, True, 1.7, 0.2)
        dx = triton.LINEAR.run(*gradient)
        torch.testing.assert_close(dx, reference.filtered_lrelu_linear(*gradient), **tolerance)
        assert dx.dtype == dtype


def test_tiles_of_the_layers_of_stylegan3_waste_little(device):
    for channels_last in (False, True):
        for taps, up, down in (((12, 12), 2, 2), ((24, 12), 4, 2), ((12, 24), 2, 4), ((12, 12), 2, 4)):
            tile = triton.select_tile((276, 276), 128, taps, (up, up), (down, down), channels_last, 2)
            assert tile is not None
            own = tile.vertical.own * tile.horizontal.own
            assert tile.flops / own / down**2 < 800, (taps, tile)  # for each sample at the high rate
            assert tile.channels * tile.vertical.high * tile.horizontal.high <= 16384
            assert tile.channels >= (2 if channels_last else 1)


def test_long_filters_and_wide_padding_are_left_to_the_reference(device):
    x = torch.zeros(1, 1, 8, 8, device=device)
    long = torch.ones(140, device=device)
    args = (x, None, long, None, (1, 1), (1, 1), (150,) * 4, 1.0, 0.2, None, False)
    assert triton.why_not_forward(*args) == "the filters are longer than a tile of the Triton kernel"
    wide = (x, None, None, None, (1, 1), (1, 1), (1 << 20, 0, 0, 0), 1.0, 0.2, None, False)
    assert "a padding of less than" in triton.why_not_forward(*wide)
