"""upfirdn2d against zero insertion and depthwise convolutions in plain PyTorch, for many sizes and options."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from fastgan.ops import _backend, upfirdn2d

LAYOUTS = (torch.contiguous_format, torch.channels_last)


def plain(x, f, up, down, padding, flip, gain):
    f = x.new_ones(1, 1) if f is None else f.to(x.dtype)
    f = torch.outer(f, f) if f.dim() == 1 else f
    f = (f if flip else f.flip(0, 1)) * gain
    n, c, h, w = x.shape
    y = x.new_zeros(n, c, h * up[0], w * up[1])
    y[:, :, :: up[0], :: up[1]] = x
    top, bottom, left, right = padding
    y = F.pad(y, (left, right, top, bottom))
    return F.conv2d(y, f.expand(c, 1, *f.shape), groups=c)[:, :, :: down[0], :: down[1]]


FILTERS = {
    "none": None,
    "three": torch.tensor([0.25, 0.5, 0.125]),
    "six": torch.arange(1.0, 7) / 21,
    "square": torch.arange(10.0).view(2, 5) / 45,
}


@pytest.mark.parametrize("backend", ["cpp", "reference"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("name", FILTERS)
def test_values_and_gradients(name, layout, backend, monkeypatch):
    monkeypatch.setattr(_backend, "forced", backend)
    generator = torch.Generator().manual_seed(0)
    factors = [(1, 1), (2, 2), (1, 2), (3, 2)]
    paddings = [(0, 0, 0, 0), (2, 1, 3, 4), (-2, 7, 5, -3)]
    for up, down, padding, flip in itertools.product(factors, factors, paddings, (False, True)):
        x = torch.randn(2, 3, 8, 11, generator=generator, dtype=torch.float64)
        x = x.contiguous(memory_format=layout).requires_grad_()
        y = upfirdn2d(x, FILTERS[name], up, down, padding, flip=flip, gain=-1.5)
        expected = plain(x, FILTERS[name], up, down, padding, flip, -1.5)
        torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
        assert y.is_contiguous(memory_format=layout)
        dy = torch.randn(y.shape, generator=generator, dtype=torch.float64).requires_grad_()
        (dx,) = torch.autograd.grad(y, x, dy, create_graph=True)
        torch.testing.assert_close(dx, torch.autograd.grad(expected, x, dy)[0], rtol=1e-10, atol=1e-10)
        (ddy,) = torch.autograd.grad(dx, dy, x.detach())  # the adjoint of the adjoint is the operation
        torch.testing.assert_close(ddy, y, rtol=1e-10, atol=1e-10)


def test_padding_beyond_the_image_gives_zeros():
    x = torch.ones(1, 1, 2, 2)
    f = torch.tensor([[1.0, 2.0]])
    y = upfirdn2d(x, f, padding=(3, 0, 0, 0))
    assert torch.equal(y[0, 0], torch.tensor([[0.0], [0.0], [0.0], [3.0], [3.0]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"x": torch.zeros(3, 4, 4)}, r"x: expected \[N, C, H, W\]"),
        ({"up": 0}, "up: expected a whole number >= 1"),
        ({"down": (1, 2, 3)}, "down: expected a whole number or 2"),
        ({"padding": (1, 2, 3)}, "padding: expected a whole number or 2 or 4"),
        ({"padding": -4}, "padding: expected a padded, upsampled image of at least the filter's size"),
        ({"filter": torch.zeros(2, 2, 2)}, r"filter: expected \[taps\] or \[kh, kw\]"),
        ({"filter": torch.ones(3, requires_grad=True)}, "filter: expected a constant"),
    ],
)
def test_errors_name_the_argument(options, message):
    arguments = {"x": torch.zeros(1, 1, 4, 4), "filter": torch.ones(3), **options}
    with pytest.raises(ValueError, match=message):
        upfirdn2d(**arguments)
