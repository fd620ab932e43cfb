"""filtered_lrelu: errors that name the argument, the masks, what backward keeps, and derivatives by differences."""

import pytest
import torch

from fastgan._util import native
from fastgan.ops import filtered_lrelu
from fastgan.ops._library import registry
from fastgan.ops.filtered_lrelu import cpu, reference
from fastgan.ops.filtered_lrelu.register import adjoint

X = torch.zeros(2, 3, 4, 4)
TAPS = torch.ones(3)


@pytest.mark.parametrize(
    ("args", "options", "error", "message"),
    [
        ((None, None, None, None), {}, TypeError, "x: expected a floating tensor, got <class 'NoneType'>"),
        ((X.int(), None, None, None), {}, TypeError, r"x: expected a floating tensor, got torch\.int32"),
        ((X[0], None, None, None), {}, ValueError, r"x: expected \[N, C, H, W\], got \[3, 4, 4\]"),
        ((X, torch.zeros(4), None, None), {}, ValueError, r"bias: expected \[3\].*, got \[4\]"),
        ((X, torch.zeros(3).double(), None, None), {}, TypeError, r"bias: expected x's dtype torch\.float32, got"),
        ((X, None, torch.zeros(0), None), {}, ValueError, r"up_filter: expected \[taps\] or \[kh, kw\], got \[0\]"),
        ((X, None, None, TAPS.int()), {}, TypeError, "down_filter: expected a floating tensor, got torch.int32"),
        ((X, None, TAPS.clone().requires_grad_(), None), {}, ValueError, "up_filter: expected a constant"),
        ((X, None, None, None), {"up": 0}, ValueError, r"up: expected a whole number >= 1, .*got \[0, 0\]"),
        ((X, None, None, None), {"down": 1.5}, ValueError, "down: expected a whole number or 2 of them, got 1.5"),
        ((X, None, None, None), {"padding": (1, 2, 3)}, ValueError, r"padding: expected .*, got \(1, 2, 3\)"),
        ((X, None, None, torch.ones(5)), {}, ValueError, "padding: expected enough for one pixel"),
        ((X, None, None, None), {"gain": 0.0}, ValueError, "gain: expected a finite number > 0, got 0.0"),
        ((X, None, None, None), {"slope": float("nan")}, ValueError, "slope: expected a finite number > 0, got nan"),
        ((X, None, None, None), {"clamp": 0.0}, ValueError, "clamp: expected None or a number > 0, got 0.0"),
    ],
)
def test_errors_name_the_argument(args, options, error, message):
    with pytest.raises(error, match=message):
        filtered_lrelu(*args, **options)


def test_masks_hold_two_bits_per_sample():
    x = torch.tensor([1.0, -1.0, 9.0, -99.0, 0.0, 2.0]).view(1, 1, 1, 6)
    op = registry["filtered_lrelu"]
    arguments = (x, None, None, None, [1, 1], [1, 1], [0, 0, 0, 0], 1.0, 0.2, 4.0)
    y, masks = op(*arguments, True)
    assert torch.allclose(y.flatten(), torch.tensor([1.0, -0.2, 4.0, -4.0, 0.0, 2.0]))
    # From the lowest bits: positive 0, negative 1, clamped 2, negative and clamped 3; then zero 1, positive 0.
    assert masks.tolist() == [[[[0 + 1 * 4 + 2 * 16 + 3 * 64, 1]]]]
    assert op(*arguments, False)[1].shape == (0,)


def test_backward_keeps_two_bits_per_upsampled_sample():
    x, kept = torch.randn(1, 2, 8, 8, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = filtered_lrelu(x, None, torch.ones(4) / 4, torch.ones(4) / 4, up=2, down=2, padding=3)
    assert y.requires_grad
    images = [t for t in kept if t.dim() == 4]
    assert [(t.dtype, tuple(t.shape)) for t in images] == [(torch.uint8, (1, 2, 19, 5))]


@pytest.mark.parametrize("padding", [(3, 2, 4, 1), (-1, 2, 0, -2)])
@pytest.mark.parametrize(("up", "down"), [(2, 2), ((1, 3), (2, 1)), (4, 3)])
@pytest.mark.parametrize("radial", [False, True])
def test_derivatives_of_two_orders_by_differences(padding, up, down, radial):
    generator = torch.Generator().manual_seed(0)

    def draw(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64)

    filters = (draw(4, 3), draw(3, 2)) if radial else (draw(4), draw(3))
    x, bias = draw(1, 2, 6, 7).requires_grad_(), draw(2).requires_grad_()

    def call(x, bias):
        return filtered_lrelu(x, bias, *filters, up=up, down=down, padding=padding, clamp=3.0)

    assert torch.autograd.gradcheck(call, (x, bias))
    assert torch.autograd.gradgradcheck(call, (x, bias))


# Taps, up, down, padding: the layers of StyleGAN3-T and their adjoint; factors that differ between the axes, shorter
# filters than factors, rows at the high rate that no pixel reads, and cropping.
KINDS = [
    ((12, 12), (2, 2), (2, 2), (11, 10, 11, 10)),
    ((24, 12), (4, 4), (2, 2), (17, 16, 17, 16)),
    ((12, 24), (2, 2), (4, 4), (11, 10, 11, 10)),
    ((4, 2), (1, 3), (3, 4), (-1, 2, 0, -2)),
    ((2, 2), (4, 3), (5, 3), (0, 1, 2, 3)),
    ((3, 0), (1, 1), (2, 2), (-2, -1, -2, 3)),
]


@pytest.mark.skipif(native.why_not("_cpu") is not None, reason="the C++ kernels are not built")
@pytest.mark.parametrize(("counts", "up", "down", "padding"), KINDS, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("threads", [1, 3])
def test_the_cpp_kernel_takes_any_number_of_planes_and_threads(counts, up, down, padding, layout, threads):
    """Groups of 16 planes with a rest, and bands of rows where threads are more than groups."""
    torch.set_num_threads(threads)  # the fixture of conftest.py restores it
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(n, generator=generator) / n if n else None for n in counts)
    for shape in ((2, 19, 9, 12), (1, 3, 26, 11)):
        x = torch.randn(shape, generator=generator).contiguous(memory_format=layout)
        forward = (x, torch.linspace(-1, 1, shape[1]), first, second, up, down, padding, 1.4, 0.2, 0.4, True)
        (y, masks), (plain_y, plain_masks) = cpu.FORWARD.run(*forward), reference.filtered_lrelu(*forward)
        torch.testing.assert_close(y, plain_y, rtol=1e-5, atol=1e-6)
        assert torch.equal(masks, plain_masks)
        assert torch.equal(cpu.FORWARD.run(*forward[:-1], False)[0], y)
        pads = adjoint(x, y, first, second, up, down, padding, (0, 0, 0, 0))
        dy = torch.randn(y.shape, generator=generator).contiguous(memory_format=layout)
        gradient = (dy, masks, second, first, down, up, *pads, True, 1.7, 0.2)
        dx = cpu.LINEAR.run(*gradient)
        torch.testing.assert_close(dx, reference.filtered_lrelu_linear(*gradient), rtol=1e-5, atol=1e-6)
        tangent = (dx, masks, first, second, up, down, padding, (0, 0, 0, 0), False, 1.7, 0.2)
        torch.testing.assert_close(
            cpu.LINEAR.run(*tangent), reference.filtered_lrelu_linear(*tangent), rtol=1e-5, atol=1e-6
        )
