"""Groups of weights on every target: iterations and layouts that the OpCase, of three layers, does not cover."""

import itertools

import emulated
import pytest
import torch

from fastgan.ops._library import registry
from fastgan.ops.spectral_norm import power_iteration, reference, spectral_normalize, spectral_scale
from fastgan.ops.spectral_norm import triton as back_end
from fastgan.ops.spectral_norm.layout import MatrixLayout
from fastgan.testing.targets import Target, targets
from fastgan.testing.tolerances import assert_as_good_as

# CUDA C++ on the CPU is the emulation of tests/emulated.py.
EMULATED = [Target("cpu", "cuda")] if emulated.compiler() else []
TARGETS = [*(target for target in targets() if target.backend != "reference"), *EMULATED]
TRITON = [target for target in TARGETS if target.backend == "triton"]
FAST, CHANNELS = torch.contiguous_format, torch.channels_last

# Shape, dimension of the rows, layout.
UNUSUAL = [
    ((19, 5, 4, 3), 0, FAST),
    ((9, 20, 4, 4), 1, FAST),
    ((6, 10, 3, 3), 0, CHANNELS),
    ((6, 10, 3, 3), 1, CHANNELS),
    ((40, 30), 0, FAST),  # linear
    ((30, 40), 1, FAST),  # the transposed matrix in memory
    ((4, 6, 3, 2, 2), 2, FAST),
    ((1, 9000), 0, FAST),  # more partial sums than are added at a time, also in the next one
    ((1100, 3), 0, FAST),  # embedding
    ((70, 1), 0, FAST),
    ((1, 2), 0, FAST),
    ((140, 1050), 0, FAST),
]
DISCRIMINATOR = [
    *(((c, i, 4, 4), 0, layout) for c, i in ((4, 3), (8, 4), (16, 8)) for layout in (FAST, CHANNELS)),
    ((1, 256), 0, FAST),
    ((24, 64), 0, FAST),
]
GROUPS = {"unusual": UNUSUAL, "discriminator": DISCRIMINATOR}


@pytest.fixture(autouse=True)
def _emulated_gpu(request, monkeypatch):
    params = getattr(getattr(request.node, "callspec", None), "params", {})
    if params.get("target") in EMULATED:
        emulated.install(monkeypatch, emulated.EmulatedKernels())


def make(group, target, dtype=torch.float32, seed=0):
    """weights, uv, dims"""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    weights, vectors, dims = [], [], []
    for shape, dim, layout in group:
        w = normal(*shape)
        rows = shape[dim]
        for size in (rows, w.numel() // rows):
            x = normal(size)
            vectors.append(x / x.norm())
        w = w.to(target.device, dtype)
        weights.append(w.contiguous(memory_format=layout) if w.dim() == 4 else w)
        dims.append(dim)
    return weights, torch.cat(vectors).to(target.device, dtype), dims


def double(tensors):
    return [t.double() for t in tensors]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("v_first", [False, True])
@pytest.mark.parametrize(
    ("group", "iterations"), [("unusual", 0), ("unusual", 1), ("discriminator", 1), ("discriminator", 3)]
)
@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_iterations_are_as_good_as_the_reference(target, group, iterations, v_first, dtype):
    weights, uv, dims = make(GROUPS[group], target, dtype)
    options = dims, iterations, v_first, 1e-12
    plain = reference.power_iteration(weights, uv, *options)
    truth = reference.power_iteration(double(weights), uv.double(), *options)
    got = power_iteration(weights, uv, dims, iterations=iterations, v_first=v_first)
    terms = max(w.numel() for w in weights)
    vectors = [[x for pair in reference.split(r[0], weights, dims) for x in pair] for r in (got, plain, truth)]
    for i, (ours, theirs, true) in enumerate(zip(*vectors, strict=True)):
        assert_as_good_as(ours, theirs, true, terms=terms, what=f"{'uv'[i % 2]} of {list(weights[i // 2].shape)}")
    assert_as_good_as(got[1], plain[1], truth[1], terms=terms, what="sigma")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_scaling_and_gradient_are_as_good_as_the_reference(target, group, dtype):
    weights, uv, dims = make(GROUPS[group], target, dtype)
    uv, sigma = power_iteration(weights, uv, dims)
    dy = make(GROUPS[group], target, dtype, seed=1)[0]
    leaves = [w.requires_grad_() for w in weights]
    scaled = spectral_scale(leaves, uv, sigma, dims)
    gradients = torch.autograd.grad(scaled, leaves, dy)
    args = [w.detach() for w in weights], uv, sigma, dims
    true = double(args[0]), uv.double(), sigma.double(), dims
    plain = reference.spectral_scale(*args), reference.spectral_scale_grad(dy, *args)
    truth = reference.spectral_scale(*true), reference.spectral_scale_grad(double(dy), *true)
    for results, plains, truths in zip((scaled, gradients), plain, truth, strict=True):
        for w, result, other, exact in zip(weights, results, plains, truths, strict=True):
            assert result.stride() == w.stride()
            assert_as_good_as(result, other, exact, terms=w.numel(), what=str(list(w.shape)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_rounded_weights_and_their_gradient(target, group, dtype):
    """The same bits as a cast after the op, forward and backward, and with a derivative of second order."""
    weights, uv, dims = make(GROUPS[group], target)
    dy = [g.to(dtype) for g in make(GROUPS[group], target, seed=1)[0]]
    leaves = [w.requires_grad_() for w in weights]
    rounded, *vectors = spectral_normalize(leaves, uv, dims, dtype=dtype)
    scaled, *others = spectral_normalize(leaves, uv, dims)
    assert all(torch.equal(a, b) for a, b in zip(vectors, others, strict=True))
    assert all(a.dtype == dtype and torch.equal(a, b.to(dtype)) for a, b in zip(rounded, scaled, strict=True))
    assert [a.stride() for a in rounded] == [w.stride() for w in weights]
    gradients = torch.autograd.grad(rounded, leaves, dy)
    expected = torch.autograd.grad([y.to(dtype) for y in scaled], leaves, dy)
    assert all(torch.equal(a, b) for a, b in zip(gradients, expected, strict=True))


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_second_order_of_rounded_weights(target):
    weights, uv, dims = make(DISCRIMINATOR[:2], target)
    found = []
    for after in (False, True):
        leaves = [w.detach().clone(memory_format=torch.preserve_format).requires_grad_() for w in weights]
        scaled = spectral_normalize(leaves, uv, dims, dtype=None if after else torch.bfloat16)[0]
        scaled = [y.to(torch.bfloat16) for y in scaled]
        loss = sum((y.float() ** 3).sum() for y in scaled)
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        found.append(torch.autograd.grad(sum((g**2).sum() for g in first), leaves))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # from NumPy, in Triton's interpreter
@pytest.mark.parametrize("iterations", [0, 1, 2])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_a_layer_that_is_not_finite_keeps_its_vectors_and_does_not_affect_others(target, value, iterations):
    weights, uv, dims = make(DISCRIMINATOR, target)
    clean, clean_sigma = power_iteration(weights, uv, dims, iterations=iterations)
    bad = 3
    weights[bad].view(-1)[7:8].fill_(value) if weights[bad].is_contiguous() else weights[bad][0, 1, 2, 3].fill_(value)
    new, sigma = power_iteration(weights, uv, dims, iterations=iterations)
    vectors = [reference.split(x, weights, dims) for x in (uv, clean, new)]
    for i, (old, expected, got) in enumerate(zip(*vectors, strict=True)):
        for o, e, g in zip(old, expected, got, strict=True):
            assert torch.equal(g, o if i == bad else e)
        assert sigma[i].isnan() if i == bad else torch.equal(sigma[i], clean_sigma[i])


@pytest.mark.parametrize("v_first", [False, True])
@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_eps_limits_the_norms(target, v_first):
    weights, uv, dims = make(DISCRIMINATOR, target, torch.float64)
    for eps in (2.0, 1e3):
        got = power_iteration(weights, uv, dims, v_first=v_first, eps=eps)
        want = reference.power_iteration(weights, uv, dims, 1, v_first, eps)
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_results_repeat_bit_for_bit(target):
    weights, uv, dims = make(DISCRIMINATOR, target)
    dy = make(DISCRIMINATOR, target, seed=1)[0]
    runs = []
    for _ in range(2):
        new, sigma = power_iteration(weights, uv, dims, iterations=2)
        runs.append([new, sigma, *registry["spectral_scale_grad"](dy, weights, new, sigma, dims)])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


class Counted:
    """A jitted function that records its launches."""

    def __init__(self, kernel, launches):
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid):
        self.launches.append(self.kernel)
        return self.kernel[grid]


@pytest.mark.parametrize("target", TRITON, ids=str)
def test_launches_do_not_grow_with_the_layers(target, monkeypatch):
    from fastgan.ops.spectral_norm import triton_kernels

    launches = []
    for name in dir(triton_kernels):
        if name.endswith("_kernel"):
            monkeypatch.setattr(triton_kernels, name, Counted(getattr(triton_kernels, name), launches))
    for layers, iterations in itertools.product((1, len(DISCRIMINATOR)), (0, 1, 3)):
        weights, uv, dims = make(DISCRIMINATOR[:layers], target)
        found = []
        uv, sigma = power_iteration(weights, uv, dims, iterations=iterations)
        found.append(len(launches))
        scaled = registry["spectral_scale"](weights, uv, sigma, dims)
        found.append(len(launches))
        registry["spectral_scale_grad"](scaled, weights, uv, sigma, dims)
        found.append(len(launches))
        assert found == [(iteration := 3 * iterations or 2), iteration + 1, iteration + 3]
        launches.clear()


@pytest.mark.parametrize("target", TRITON, ids=str)
def test_the_fields_of_the_table_have_the_order_that_the_kernels_read(target):
    from fastgan.ops.spectral_norm import triton_kernels

    u, v = ([f"{name}.{field}" for field in back_end.VectorLayout._fields] for name in "uv")
    fields = ["w", "dy", "out", *MatrixLayout._fields, "tiles", "chunks", "wide", *u, *v]
    for at, field in enumerate(fields):
        first, _, second = field.upper().partition(".")
        number = getattr(triton_kernels, first).value + (getattr(triton_kernels, second).value if second else 0)
        assert number == at, field
    assert triton_kernels.FIELDS.value == len(fields)


@pytest.mark.parametrize("target", TRITON, ids=str)
def test_unsupported_weights_have_a_reason(target):
    w = torch.zeros(2, 3, 4, 5, device=target.device).contiguous(memory_format=CHANNELS)
    uv, sigma = torch.zeros(34, device=target.device), torch.ones(1, device=target.device)
    for dim, expected in ((0, None), (1, None), (2, "rows along dimension 2"), (3, "rows along dimension 3")):
        for kernel, args in (
            (back_end.POWER_ITERATION, ([w], uv, [dim], 1, False, 1e-12)),
            (back_end.SCALE, ([w], uv, sigma, [dim])),
            (back_end.SCALE_GRAD, ([w], [w], uv, sigma, [dim])),
        ):
            reason = kernel.why_not(*args)
            assert reason is None if expected is None else expected in reason
    assert "float16" in back_end.SCALE.why_not([w.half()], uv, sigma, [0])


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_channels_last_weights_with_rows_along_any_dimension(dim):
    weights, uv, dims = make([((2, 3, 4, 5), dim, CHANNELS)], targets()[0], torch.float64)
    got = power_iteration(weights, uv, dims)
    want = reference.power_iteration(weights, uv, dims, 1, False, 1e-12)
    torch.testing.assert_close(got, want)
    leaf = weights[0].requires_grad_()
    (scaled,) = spectral_scale([leaf], *got, dims)
    dy = torch.randn(scaled.shape, dtype=torch.float64)
    gradient = reference.spectral_scale_grad([dy], [leaf.detach()], *want, dims)[0]
    torch.testing.assert_close(torch.autograd.grad(scaled, leaf, dy)[0], gradient)


def test_a_sigma_with_gaps():
    weights, uv, dims = make(DISCRIMINATOR, targets()[0])
    uv, sigma = power_iteration(weights, uv, dims)
    wide = torch.stack([sigma, torch.full_like(sigma, 1e30)], 1)[:, 0]
    torch.testing.assert_close(spectral_scale(weights, uv, wide, dims), spectral_scale(weights, uv, sigma, dims))
