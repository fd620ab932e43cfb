"""fastgan.compile: whole steps equal eager ones, on plain modules and on fused ones, whatever captured them."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

import fastgan
from fastgan.engine import compile as engine
from fastgan.engine.compile import MAX_VARIANTS
from fastgan.errors import UsageError
from fastgan.nn import spectral_norm


def critic():
    layers = [nn.Conv2d(3, 8, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(8, 12, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(12 * 16, 1))


def sngan_critic():
    network = critic()
    for layer in network:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            parametrizations.spectral_norm(layer)
    return network


def wgan_gp(network, real, fake, epsilon):
    return network(fake).mean() - network(real).mean() + fastgan.gradient_penalty(network, real, fake, epsilon=epsilon)


def r1(network, real, fake, epsilon):
    return F.softplus(-network(real)).mean() + F.softplus(network(fake)).mean() + fastgan.r1(network, real)


def hinge(network, real, fake, epsilon):
    return F.relu(1 - network(real)).mean() + F.relu(1 + network(fake)).mean()


#: loss, critic, convolution passes of two layers: a run is 2, its backward pass without the images' gradient 1 + 2; a
#: penalty 2 + 2 and, for its derivative, 2 and 2. Plain PyTorch adds the zeros: 1 + 2 for a penalty.
STEPS = {"wgan-gp": (wgan_gp, critic, 18, 3), "r1": (r1, critic, 18, 3), "sngan": (hinge, sngan_critic, 10, 0)}


def draws(n=4, dtype=torch.float32):
    return torch.randn(n, 3, 16, 16, dtype=dtype), torch.randn(n, 3, 16, 16, dtype=dtype), torch.rand(n, 1, 1, 1)


def returning(network, loss, precision="fp32"):
    weights = list(network.parameters())

    def step(real, fake, epsilon):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            value = loss(network, real, fake, epsilon)
        return value.detach(), torch.autograd.grad(value, weights, allow_unused=True)

    return step


def vector(gradients):
    return torch.cat([g.flatten().double() for g in gradients if g is not None])


def distance(one, other):
    return float((vector(one) - vector(other)).norm() / vector(other).norm())


def by_tracing(compiled):
    """As on a PyTorch without autograd tracing in Dynamo."""

    def refuse():
        raise RuntimeError("no Dynamo")

    compiled._by_dynamo = refuse
    return compiled


@pytest.mark.parametrize("capture", ["dynamo", "make_fx"])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", list(STEPS))
def test_steps_equal_eager_ones(name, fused, capture):
    loss, build, least, zeros = STEPS[name]
    network = build()
    network = fastgan.fuse(network) if fused else network
    other = copy.deepcopy(network)
    compiled = engine(returning(network, loss))
    compiled = by_tracing(compiled) if capture == "make_fx" else compiled
    eager, exact = returning(other, loss), returning(copy.deepcopy(network).double(), loss)
    with torch._inductor.config.patch(fx_graph_cache=False):
        for _ in range(3):
            given = draws()
            value, gradients = compiled(*given)
            want_value, want = eager(*given)
            truth = exact(*(x.double() for x in given))[1]
            # Both round; the compiled step rounds no more than the eager one, or next to nothing.
            assert distance(gradients, truth) <= max(2 * distance(want, truth), 1e-6)
            torch.testing.assert_close(value, want_value, rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(network.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)  # singular vectors move on alike
    expected = "make_fx" if capture == "make_fx" or torch.__version__ < "2.12" else "Dynamo"
    assert [how.split(" ")[0] for how in compiled.how] == [expected]
    assert compiled.passes.after == least
    assert compiled.passes.before == (least if fused else least + zeros)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", list(STEPS))
def test_in_bf16_too(name, fused):
    loss, build, least, _ = STEPS[name]
    network = build()
    network = fastgan.fuse(network) if fused else network
    other, exact = copy.deepcopy(network), returning(copy.deepcopy(network).double(), loss)
    compiled = engine(returning(network, loss, "bf16"))
    given = draws()
    with torch._inductor.config.patch(fx_graph_cache=False):
        gradients = compiled(*given)[1]
    want = returning(other, loss, "bf16")(*given)[1]
    truth = exact(*(x.double() for x in given))[1]
    assert all(g.dtype == torch.float32 for g in gradients if g is not None)
    assert distance(want, truth) > 1e-4  # it was in bf16
    assert distance(gradients, truth) <= 2 * distance(want, truth)
    assert compiled.passes.after == least


@pytest.mark.parametrize("capture", ["dynamo", "make_fx"])
def test_backward_inside_fills_and_accumulates(capture):
    network = critic()

    def step(real, fake, epsilon):
        loss = wgan_gp(network, real, fake, epsilon)
        loss.backward()
        return loss.detach()

    compiled = engine(step)
    compiled = by_tracing(compiled) if capture == "make_fx" else compiled
    given = draws()
    step(*given)
    once = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    for times in (1, 2):
        compiled(*given)
        assert distance([p.grad for p in network.parameters()], [times * g for g in once]) < 1e-5
    network.zero_grad(set_to_none=False)
    compiled(*given)
    assert distance([p.grad for p in network.parameters()], once) < 1e-5
    assert not compiled.why_eager


@pytest.mark.parametrize("capture", ["dynamo", "make_fx"])
def test_random_numbers_are_those_of_eager_mode_and_differ_each_time(capture):
    def step(x):
        return x + torch.randn_like(x), F.dropout(x, 0.5)

    compiled = engine(step)
    compiled = by_tracing(compiled) if capture == "make_fx" else compiled
    x = torch.ones(64)
    torch.manual_seed(3)
    eager = [step(x) for _ in range(3)]
    torch.manual_seed(3)
    ours = [compiled(x) for _ in range(3)]
    for one, other in zip(eager, ours, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
    assert not torch.equal(ours[0][0], ours[1][0])


def test_tracing_leaves_everything_as_it_was_and_then_runs_once():
    """Batch statistics, a momentum buffer, the weights themselves: the capture's own runs are undone."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    other = copy.deepcopy(network)
    total = torch.zeros(())

    def step(net, memory):
        def run(x):
            y = net(x).square().mean()
            (g,) = torch.autograd.grad(y, net[0].weight)
            memory.add_(y.detach())
            with torch.no_grad():
                net[0].weight.sub_(0.1 * g)
            return y.detach()

        return run

    theirs = torch.zeros(())
    compiled, eager = by_tracing(engine(step(network, total))), step(other, theirs)
    for _ in range(3):
        x = torch.randn(2, 3, 6, 6)
        torch.testing.assert_close(compiled(x), eager(x))
    torch.testing.assert_close(total, theirs)
    for mine, plain in zip(network.state_dict().values(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, plain)
    assert network[1].num_batches_tracked == 3


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
    compiled = engine(step)
    torch.testing.assert_close(compiled(x), step(x))
    assert not compiled.why_eager


@pytest.mark.parametrize("capture", ["dynamo", "make_fx"])
def test_a_norm_that_iterates_once_a_step_does_so_when_captured(capture):
    network = fastgan.fuse(spectral_norm(critic(), every="step"))
    other = copy.deepcopy(network)
    optimizers = [torch.optim.SGD(n.parameters(), 0.01) for n in (network, other)]
    compiled = engine(returning(network, hinge))
    compiled = by_tracing(compiled) if capture == "make_fx" else compiled
    eager = returning(other, hinge)
    for _ in range(4):
        given = draws()
        for run, net, optimizer in ((compiled, network, optimizers[0]), (eager, other, optimizers[1])):
            for weight, gradient in zip(net.parameters(), run(*given)[1], strict=True):
                weight.grad = gradient
            optimizer.step()
    for mine, theirs in zip(network.state_dict().values(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_shapes_compile_anew_up_to_a_number_and_then_say_so():
    compiled = engine(lambda x: x * 2)
    for n in range(1, MAX_VARIANTS + 1):
        assert torch.equal(compiled(torch.ones(n)), 2 * torch.ones(n))
    assert len(compiled.how) == MAX_VARIANTS
    assert compiled(torch.ones(3)).shape == (3,)
    with pytest.raises(UsageError, match=r"8 combinations of shapes.* and now comes \[9\]; give it batches"):
        compiled(torch.ones(9))


def test_numbers_and_none_are_part_of_what_is_compiled():
    def step(x, by, bias, *, twice):
        y = x * by
        y = y if bias is None else y + bias
        return 2 * y if twice else y

    compiled = engine(step)
    x = torch.randn(3)
    for arguments in ((2.0, None), (3.0, None), (2.0, torch.ones(3))):
        for twice in (False, True):
            assert torch.equal(compiled(x, *arguments, twice=twice), step(x, *arguments, twice=twice))


def test_what_cannot_be_captured_runs_eagerly_and_is_said_once():
    def step(x):
        return x * 2 if x.sum().item() > 0 else x * 3

    compiled = engine(step)
    with pytest.warns(UserWarning, match=r"fastgan.compile: step runs eagerly: ") as told:
        assert torch.equal(compiled(torch.ones(2)), 2 * torch.ones(2))
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(compiled(-torch.ones(2)), -3 * torch.ones(2))
    assert compiled.why_eager


def test_a_step_that_is_wrong_fails_in_its_own_words():
    def step(x):
        raise ValueError("my own mistake")

    compiled = engine(step)
    with pytest.raises(ValueError, match="my own mistake"), pytest.warns(UserWarning, match="my own mistake"):
        compiled(torch.ones(2))


def test_the_switch_is_off_again_afterwards():
    import torch._dynamo.config

    before = torch._dynamo.config.trace_autograd_ops
    engine(lambda x: x + 1)(torch.ones(2))
    assert torch._dynamo.config.trace_autograd_ops == before
    assert not torch.compiler.is_compiling()


def test_arguments_are_checked():
    with pytest.raises(UsageError, match="step: expected a function of tensors, got int"):
        fastgan.compile(3)
    with pytest.raises(UsageError, match="mode: expected one of default, max-autotune, got 'fast'"):
        fastgan.compile(lambda x: x, mode="fast")
    with pytest.raises(UsageError, match="cuda_graph: expected all tensors on one GPU, got cpu"):
        fastgan.compile(lambda x: x, cuda_graph=True)(torch.ones(2))
    with pytest.raises(UsageError, match="cuda_graph: expected True, False or 'auto', got 'yes'"):
        fastgan.compile(lambda x: x, cuda_graph="yes")


def test_explain_counts_and_leaves_no_trace():
    network = sngan_critic()
    before = copy.deepcopy(network.state_dict())
    given = draws()
    found = fastgan.explain(returning(network, wgan_gp), *given)
    assert (found.passes_eager, found.passes_before, found.passes_after) == (21, 21, 18)
    assert found.launches is None
    assert found.nodes > 18
    assert found.eager_ms > 0
    assert "21 eagerly, 21 captured, 18 after removing zeros" in str(found)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
