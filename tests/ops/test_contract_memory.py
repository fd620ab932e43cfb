"""The contract of every op: memory layouts, unusual sizes, unchanged inputs, written outputs, reproducible bits."""

import itertools

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fastgan._util import env
from fastgan.ops._memory_format import memory_format
from fastgan.testing.case import cotangent, detached
from fastgan.testing.cases import CASES
from fastgan.testing.targets import grid

IMAGES = [case for case in CASES if len(case.shape) == 4]
INTERPRETED = env.flag("TRITON_INTERPRET")
MANY = 5_000 if INTERPRETED else 200_000  # enough for several threads


def orders(case, inputs, function=None):
    """Output, first gradients, and the gradients of their squared norm."""
    y = (function or case.call)(*inputs)
    first = torch.autograd.grad(y, inputs, cotangent(y), create_graph=True)
    squares = sum(g.square().sum() for g in first)
    # The gradient of a linear op is a constant.
    second = torch.autograd.grad(squares, inputs, allow_unused=True) if squares.requires_grad else [None] * len(inputs)
    return [t if t is None else t.detach() for t in (y, *first, *second)]


def assert_same_bits(got, want):
    for a, b in zip(got, want, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


def strided_views(x):
    """Views of a [N, C, H, W] tensor that are not dense, by name."""
    wide = torch.randn(x.shape[0], x.shape[1] + 2, *x.shape[2:], dtype=x.dtype).to(x.device)
    return {
        "contiguous": x,
        "channels_last": x.contiguous(memory_format=torch.channels_last),
        "sliced": wide[:, 1:-1],
        "sliced_channels_last": wide.contiguous(memory_format=torch.channels_last)[:, 1:-1],
        "rows_skipped": torch.randn(*x.shape[:2], 2 * x.shape[2], x.shape[3], dtype=x.dtype).to(x.device)[:, :, ::2],
        "permuted": torch.randn(*x.shape[2:], *x.shape[:2], dtype=x.dtype).to(x.device).permute(2, 3, 0, 1),
        "transposed": torch.randn(x.shape[0], x.shape[1], *x.shape[:1:-1], dtype=x.dtype).to(x.device).mT,
        "images_expanded": x[:1].expand(x.shape),
        "pixels_expanded": x[:, :, :1, :1].expand(x.shape),
        "channels_expanded": x[:, :1].expand(x.shape),
    }


@pytest.mark.parametrize(("case", "target", "dtype"), grid([torch.float64], IMAGES), ids=str)
def test_layouts(case, target, dtype):
    x, *parameters = case.inputs(dtype, target.device)
    # Every second element of a longer tensor.
    parameters = [torch.stack([p.detach(), p.detach() + 1], -1)[..., 0].requires_grad_() for p in parameters]
    torch.manual_seed(0)
    # Cotangents of other layouts: dense in either, or with strides of zero.
    cotangents = itertools.cycle([torch.Tensor.contiguous, lambda dy: dy[:, :, :1, :1].expand(dy.shape), lambda dy: dy])
    for (name, view), other in zip(strided_views(x.detach()).items(), cotangents, strict=False):
        if name == "pixels_expanded" and "instance_norm_act" in case.ops:
            continue  # a constant image is at the kink, where rounding decides
        leaf = view.detach().requires_grad_()
        assert leaf.stride() == view.stride()
        promised = memory_format(leaf)
        y = case.call(leaf, *parameters)
        assert y.is_contiguous(memory_format=promised), name
        dy = other(cotangent(y))
        ours = torch.autograd.grad(y, [leaf, *parameters], dy)
        own = detached((leaf, *parameters))
        plain_y = case.plain(*own)
        plain = torch.autograd.grad(plain_y, own, dy)
        for got, want in zip([y, *ours], [plain_y, *plain], strict=True):
            torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12, msg=lambda m, at=name: f"{at}: {m}")


@pytest.mark.parametrize("case", IMAGES, ids=str)
def test_the_fake_allocates_like_the_op(case):
    inputs = case.inputs(torch.float32)
    x, *parameters = (t.detach() for t in inputs)
    for name, view in strided_views(x).items():
        real = case.call(view, *parameters)
        with FakeTensorMode() as mode:
            fake = case.call(*(mode.from_tensor(t) for t in (view, *parameters)))
        assert (fake.shape, fake.dtype, fake.stride()) == (real.shape, real.dtype, real.stride()), name


@pytest.mark.parametrize(("case", "target", "dtype"), grid([torch.float64]), ids=str)
def test_unusual_sizes(case, target, dtype):
    least = case.least_pixels
    shapes = [
        case.sized(case.least_images),
        case.sized(1),
        *(case.sized(n, pixels=p) for n, p in ((1, least), (3, least), (17, 9))),
    ]
    for shape in shapes:
        for layout in case.memory_formats:
            inputs = case.inputs(dtype, target.device, layout, shape=shape)
            ours = orders(case, inputs)
            plain = orders(case, detached(inputs), case.plain)
            for got, want in zip(ours, plain, strict=True):
                if got is None:
                    assert want is None or not want.any(), shape
                else:
                    want = torch.zeros_like(got) if want is None else want
                    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11, msg=lambda m, s=shape: f"{s}: {m}")


@pytest.mark.parametrize(("case", "target", "dtype"), grid([torch.float32]), ids=str)
def test_inputs_stay_as_they_are(case, target, dtype):
    for layout in case.memory_formats:
        inputs = case.inputs(dtype, target.device, layout)
        kept, versions = [t.detach().clone() for t in inputs], [t._version for t in inputs]
        y = case.call(*inputs)
        given = [*inputs, y, dy := cotangent(y)]
        kept, versions = [*kept, y.detach().clone(), dy.clone()], [*versions, y._version, dy._version]
        first = torch.autograd.grad(y, inputs, dy, create_graph=True)
        given, kept = [*given, *first], [*kept, *(t.detach().clone() for t in first)]
        versions += [t._version for t in first]
        squares = sum(g.square().sum() for g in first)
        if squares.requires_grad:
            torch.autograd.grad(squares, inputs, allow_unused=True)
        assert_same_bits(given, kept)
        assert [t._version for t in given] == versions


@pytest.fixture
def nan_filled_memory():
    """Uninitialized memory is filled with NaN."""
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.utils.deterministic.fill_uninitialized_memory = before[1]


@pytest.mark.parametrize(("case", "target", "dtype"), grid([torch.float32]), ids=str)
@pytest.mark.usefixtures("nan_filled_memory")
def test_everything_allocated_is_written(case, target, dtype):
    assert torch.empty(1, device=target.device).isnan().all(), "uninitialized memory is not filled with NaN"
    for layout in case.memory_formats:
        inputs = case.inputs(dtype, target.device, layout)
        for result in orders(case, inputs):
            assert result is None or result.isfinite().all()


@pytest.mark.parametrize(("case", "target", "dtype"), grid([torch.float32]), ids=str)
def test_results_repeat_bit_for_bit(case, target, dtype, monkeypatch):
    # cuDNN's convolutions are reproducible only in deterministic mode.
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    images = (1_000 if INTERPRETED and case.unrolled else MANY) // case.inputs()[0][0].numel()
    threads = torch.get_num_threads()
    for layout in case.memory_formats:
        inputs = case.inputs(dtype, target.device, layout, shape=case.sized(images))
        results = []
        try:
            # The sums of the reference, plain PyTorch, depend on the number of threads.
            for count in (1, 2, 3) if target.backend == "cpp" and not case.library else (threads, threads):
                torch.set_num_threads(count)
                y = case.call(*inputs)
                dy = cotangent(y)
                results.append([y, *torch.autograd.grad(y, inputs, dy)])
        finally:
            torch.set_num_threads(threads)
        for again in results[1:]:
            assert_same_bits(again, results[0])
