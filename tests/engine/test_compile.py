"""fastgan.compile: variants, arguments and errors."""

import warnings

import pytest
import torch
from torch import nn

import fastgan
from fastgan.engine import CompiledStep
from fastgan.engine.compile import MAX_VARIANTS
from fastgan.errors import UsageError
from fastgan.testing.discriminator_steps import by_make_fx

pytestmark = pytest.mark.usefixtures("backend")


def captured(step, capture):
    compiled = fastgan.compile(step)
    return by_make_fx(compiled) if capture == "make_fx" else compiled


def test_a_users_autograd_function_is_traced():
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, dy):
            (x,) = ctx.saved_tensors
            return 2 * x * dy

    w = nn.Parameter(torch.randn(5))

    def step(x):
        x = x.detach().requires_grad_()
        y = Square.apply(Square.apply(x) * w).sum()
        (g,) = torch.autograd.grad(y, x, create_graph=True)
        return torch.autograd.grad(g.square().sum(), w)[0]

    x = torch.randn(5)
    compiled = fastgan.compile(step)
    with pytest.warns(UserWarning, match="step is captured by make_fx, since Dynamo does not support it: "):
        first = compiled(x)
    torch.testing.assert_close(first, step(x))
    torch.testing.assert_close(compiled(x), step(x))
    assert not compiled.why_eager


@pytest.mark.parametrize("capture", ["dynamo", "make_fx"])
def test_one_tensor_given_twice_is_another_variant_than_two_tensors(capture):
    compiled = captured(lambda x, y: x + 2 * y, capture)
    one, two = torch.ones(3), torch.full((3,), 2.0)
    for pair in ((one, one), (one, two), (two, one), (two, two)):
        assert torch.equal(compiled(*pair), pair[0] + 2 * pair[1])
    assert len(compiled.how) == (2 if capture == "make_fx" else len(compiled.how))


@pytest.mark.parametrize("capture", ["dynamo", "make_fx"])
def test_the_order_of_keyword_arguments_has_no_effect(capture):
    compiled = captured(lambda *, x, y: x - y, capture)
    one, two = torch.ones(3), torch.full((3,), 2.0)
    assert torch.equal(compiled(x=one, y=two), one - two)
    assert torch.equal(compiled(y=two, x=one), one - two)
    assert len(compiled.how) == 1


def test_more_shapes_than_variants_run_eagerly():
    compiled = fastgan.compile(lambda x: x * 2)
    for n in range(1, MAX_VARIANTS + 1):
        assert torch.equal(compiled(torch.ones(n)), 2 * torch.ones(n))
    assert compiled.variants == MAX_VARIANTS
    assert compiled(torch.ones(3)).shape == (3,)
    assert not compiled.why_eager
    with pytest.warns(UserWarning, match=r"8 combinations of shapes.*, got another one: \[9\]; use batches"):
        assert torch.equal(compiled(torch.ones(9)), 2 * torch.ones(9))
    assert compiled(torch.ones(10)).shape == (10,)
    assert compiled.variants == MAX_VARIANTS


def test_a_later_failure_of_the_compiler_runs_eagerly_without_running_twice(monkeypatch):
    compilations = []

    def backend(graph, inputs):
        compilations.append(graph)
        if len(compilations) > 1:
            raise RuntimeError("no second kernel")
        return graph

    monkeypatch.setattr(CompiledStep, "_inductor", lambda self, f: torch.compile(f, backend=backend, fullgraph=True))
    network, other = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    compiled, x = fastgan.compile(lambda x: network(x + torch.rand(x.shape)).detach()), torch.randn(6, 3)
    batches = [x[:4], x, x[:4], x]
    torch.manual_seed(1)
    with pytest.warns(UserWarning, match="runs eagerly: .*no second kernel") as warned:
        found = [compiled(batch) for batch in batches]
    assert len(warned) == 1
    torch.manual_seed(1)
    wanted = [other(batch + torch.rand(batch.shape)) for batch in batches]
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, two)
    assert network.num_batches_tracked == 4
    torch.testing.assert_close(network.running_mean, other.running_mean)
    assert compiled.variants == 1


def test_seconds_count_every_compilation():
    compiled = fastgan.compile(lambda x: x * 2)
    before = 0.0
    for n in (2, 3):
        compiled(torch.ones(n))
        assert compiled.seconds > before
        before = compiled.seconds
    compiled(torch.ones(2))
    assert compiled.seconds == before


def test_numbers_and_none_compile_anew():
    def step(x, by, bias, *, twice):
        y = x * by
        y = y if bias is None else y + bias
        return 2 * y if twice else y

    compiled = fastgan.compile(step)
    x = torch.randn(3)
    for arguments in ((2.0, None), (3.0, None), (2.0, torch.ones(3))):
        for twice in (False, True):
            assert torch.equal(compiled(x, *arguments, twice=twice), step(x, *arguments, twice=twice))


def test_a_step_that_cannot_be_captured_runs_eagerly_with_one_warning():
    def step(x):
        return x * 2 if x.sum().item() > 0 else x * 3

    compiled = fastgan.compile(step)
    with pytest.warns(UserWarning, match=r"fastgan.compile: step runs eagerly: ") as warned:
        assert torch.equal(compiled(torch.ones(2)), 2 * torch.ones(2))
    assert len(warned) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(compiled(-torch.ones(2)), -3 * torch.ones(2))
    assert compiled.why_eager


@pytest.mark.filterwarnings("error")
def test_a_failing_step_raises_its_own_error():
    def step(x):
        raise ValueError("my own mistake")

    compiled = fastgan.compile(step)
    with pytest.raises(ValueError, match="my own mistake"):
        compiled(torch.ones(2))


@pytest.mark.filterwarnings("error")
def test_a_wrong_call_does_not_prevent_a_capture():
    def step(x, y):
        if x.shape != y.shape:
            raise ValueError("not of one shape")
        return x + y

    compiled = fastgan.compile(step)
    compiled(torch.ones(2), torch.ones(2))
    with pytest.raises(ValueError, match="not of one shape"):
        compiled(torch.ones(2), torch.ones(3))
    assert torch.equal(compiled(torch.ones(2), torch.ones(2)), torch.full((2,), 2.0))
    assert not compiled.why_eager


def test_dynamo_s_options_are_restored():
    import torch._dynamo.config

    before = torch._dynamo.config.trace_autograd_ops
    fastgan.compile(lambda x: x + 1)(torch.ones(2))
    assert torch._dynamo.config.trace_autograd_ops == before
    assert not torch.compiler.is_compiling()


def test_arguments_are_checked():
    with pytest.raises(UsageError, match="step: expected a function of tensors, got int"):
        fastgan.compile(3)
    with pytest.raises(UsageError, match="mode: expected one of default, max-autotune, graph, got 'fast'"):
        fastgan.compile(lambda x: x, mode="fast")
    with pytest.raises(UsageError, match="cuda_graph: True takes a step whose tensors are on one GPU, got cpu"):
        fastgan.compile(lambda x: x, cuda_graph=True)(torch.ones(2))
    with pytest.raises(UsageError, match=r"step: expected tensors, numbers, .* as arguments, got ndarray"):
        fastgan.compile(lambda x: x)(torch.ones(2).numpy())
    with pytest.raises(UsageError, match="cuda_graph: expected True, False or 'auto', got 'yes'"):
        fastgan.compile(lambda x: x, cuda_graph="yes")
    with pytest.raises(
        UsageError, match="cuda_graph: expected True or 'auto' with mode graph, which is a CUDA graph, got False"
    ):
        fastgan.compile(lambda x: x, mode="graph", cuda_graph=False)


def test_autocast_and_gradient_mode_are_followed():
    weight = torch.randn(3, 3, requires_grad=True)
    compiled, x = (
        fastgan.compile(lambda x: (x @ weight).detach() * (2 if torch.is_grad_enabled() else 3)),
        torch.ones(3),
    )
    for _ in range(2):
        for dtype, grad in ((None, True), (torch.bfloat16, True), (torch.float16, True), (None, False)):
            with torch.autocast("cpu", dtype, enabled=dtype is not None), torch.set_grad_enabled(grad):
                found = compiled(x)
                assert found.dtype == (dtype or torch.float32)
                torch.testing.assert_close(found, compiled.step(x))
    assert compiled.variants == 4


def test_a_step_without_tensors_as_arguments_follows():
    network, x = nn.Linear(3, 1), torch.randn(2, 3)

    def step(scale):
        return [g.detach() for g in torch.autograd.grad(network(x).sum() * scale, list(network.parameters()))]

    compiled = fastgan.compile(step)
    for scale in (1.0, 2.0, 3.0):
        for one, two in zip(compiled(scale), step(scale), strict=True):
            torch.testing.assert_close(one, two)
