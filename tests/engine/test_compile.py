"""fastgan.compile: whole steps equal eager ones, on plain modules and on fused ones, whatever captured them."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parametrizations
from torch.utils._pytree import tree_leaves

import fastgan
from fastgan.engine import capture
from fastgan.engine import compile as engine
from fastgan.engine.compile import MAX_VARIANTS
from fastgan.errors import UsageError
from fastgan.nn import spectral_norm


def discriminator():
    layers = [nn.Conv2d(3, 8, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(8, 12, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(12 * 16, 1))


def sngan_discriminator():
    network = discriminator()
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


#: loss, discriminator, convolution passes of two layers: a run is 2, its backward pass without the images' gradient 1 + 2; a
#: penalty 2 + 2 and, for its derivative, 2 and 2. Plain PyTorch adds the zeros: 1 + 2 for a penalty.
STEPS = {
    "wgan-gp": (wgan_gp, discriminator, 18, 3),
    "r1": (r1, discriminator, 18, 3),
    "sngan": (hinge, sngan_discriminator, 10, 0),
}


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
    network = discriminator()

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
    network = fastgan.fuse(spectral_norm(discriminator(), every="step"))
    other = copy.deepcopy(network)
    optimizers = [torch.optim.SGD(n.parameters(), 0.01) for n in (network, other)]
    compiled = engine(returning(network, hinge))
    compiled = by_tracing(compiled) if capture == "make_fx" else compiled
    eager = returning(other, hinge)
    for optimizer in optimizers:
        optimizer.step()  # a graph holds the iteration after a step; a network just made has had one already
    for _ in range(4):
        given = draws()
        for run, net, optimizer in ((compiled, network, optimizers[0]), (eager, other, optimizers[1])):
            for weight, gradient in zip(net.parameters(), run(*given)[1], strict=True):
                weight.grad = gradient
            optimizer.step()
    for mine, theirs in zip(network.state_dict().values(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def captured(step, capture):
    compiled = engine(step)
    return by_tracing(compiled) if capture == "make_fx" else compiled


@pytest.mark.parametrize("capture", ["dynamo", "make_fx"])
def test_a_step_that_forgets_gradients_first_does_not_add_to_them(capture):
    network = discriminator()

    def step(x):
        network[0].zero_grad(set_to_none=False)
        network(x).mean().backward()

    compiled, x = captured(step, capture), draws()[0]
    compiled(x)
    once = [p.grad.clone() for p in network.parameters()]
    compiled(x)
    for name, weight, gradient in zip(dict(network.named_parameters()), network.parameters(), once, strict=True):
        times = 1 if name[0] == "0" else 2
        torch.testing.assert_close(weight.grad, times * gradient, rtol=1e-5, atol=1e-7)
    assert not compiled.why_eager


@pytest.mark.parametrize("capture", ["dynamo", "make_fx"])
def test_gradients_that_are_there_at_capture_may_be_gone_later(capture):
    network = discriminator()

    def step(x):
        network(x).mean().backward()

    compiled, x = captured(step, capture), draws()[0]
    step(x)
    once = [p.grad.clone() for p in network.parameters()]
    compiled(x)
    assert distance([p.grad for p in network.parameters()], [2 * g for g in once]) < 1e-5
    network.zero_grad()
    compiled(x)
    assert distance([p.grad for p in network.parameters()], once) < 1e-5


@pytest.mark.parametrize("capture", ["dynamo", "make_fx"])
def test_an_argument_changed_in_place_is_changed_once_each_time(capture):
    def step(memory, x):
        memory.mul_(2).add_(x)
        return memory.sum()

    compiled, memory = captured(step, capture), torch.ones(3)
    for want in (3.0, 7.0, 15.0):
        assert compiled(memory, torch.ones(3)) == 3 * want
        assert torch.equal(memory, torch.full((3,), want))
    assert not compiled.why_eager


@pytest.mark.parametrize("capture", ["dynamo", "make_fx"])
def test_the_gradient_of_an_argument_is_filled(capture):
    def step(x):
        (x * x).sum().backward()

    compiled, x = captured(step, capture), torch.ones(3, requires_grad=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fastgan.compile: step runs eagerly: RuntimeError: it fills the .grad")
        for times in (1, 2, 3):
            compiled(x)
            assert torch.equal(x.grad, torch.full((3,), 2.0 * times))


@pytest.mark.parametrize("capture", ["dynamo", "make_fx"])
def test_modes_and_weights_other_than_at_capture_are_seen(capture):
    network = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))

    def step(x):
        network(x).square().mean().backward()
        return network(x).detach()

    compiled, x = captured(step, capture), torch.randn(8, 4)

    def same():
        state, found = copy.deepcopy(network.state_dict()), []
        for run in (compiled, step):
            network.load_state_dict(state)
            network.zero_grad()
            torch.manual_seed(3)
            found.append([run(x), *(p.grad for p in network.parameters())])
        for mine, theirs in zip(*found, strict=True):
            torch.testing.assert_close(mine, theirs)

    same()
    network.eval()
    same()
    network[0].bias.requires_grad_(False)
    same()
    network.train()
    same()
    network[0].weight = nn.Parameter(torch.ones(4, 4))
    same()
    network.eval()
    same()
    assert not compiled.why_eager


@pytest.mark.parametrize("capture", ["dynamo", "make_fx"])
def test_one_tensor_given_twice_is_not_two(capture):
    compiled = captured(lambda x, y: x + 2 * y, capture)
    one, two = torch.ones(3), torch.full((3,), 2.0)
    for pair in ((one, one), (one, two), (two, one), (two, two)):
        assert torch.equal(compiled(*pair), pair[0] + 2 * pair[1])
    assert len(compiled.how) == (2 if capture == "make_fx" else len(compiled.how))


@pytest.mark.parametrize("capture", ["dynamo", "make_fx"])
def test_the_order_in_which_arguments_are_named_means_nothing(capture):
    compiled = captured(lambda *, x, y: x - y, capture)
    one, two = torch.ones(3), torch.full((3,), 2.0)
    assert torch.equal(compiled(x=one, y=two), one - two)
    assert torch.equal(compiled(y=two, x=one), one - two)
    assert len(compiled.how) == 1


@pytest.mark.parametrize("kind", ["optimizer", "generator", "failure"])
def test_what_could_not_be_captured_has_happened_once(kind):
    network, total = discriminator(), torch.zeros(())
    other = copy.deepcopy(network)
    source, theirs = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)

    def stepping(net, source, count):
        optimizer = torch.optim.Adam(net.parameters(), 0.01)

        def step(x):
            count.add_(1)
            x = x + torch.rand(x.shape, generator=source) if kind == "generator" else x
            loss = net(x).mean()
            loss.backward()
            if kind == "optimizer":
                optimizer.step()
                net.zero_grad()
            if (
                kind == "failure"
                and loss.item() is not None
                and torch.utils._python_dispatch._len_torch_dispatch_stack()
            ):
                raise RuntimeError("not while somebody is looking")
            return loss.detach()

        return step

    compiled, eager = engine(stepping(network, source, total)), stepping(other, theirs, torch.zeros(()))
    x = draws()[0]
    with pytest.warns(UserWarning, match="step runs eagerly"):
        first = compiled(x)
    assert torch.equal(first, eager(x))
    assert torch.equal(compiled(x), eager(x))
    assert total == 2
    for mine, plain in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, plain)
        assert kind == "optimizer" or torch.equal(mine.grad, plain.grad)


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


@pytest.mark.filterwarnings("error")
def test_a_step_that_is_wrong_fails_in_its_own_words():
    def step(x):
        raise ValueError("my own mistake")

    compiled = engine(step)
    with pytest.raises(ValueError, match="my own mistake"):
        compiled(torch.ones(2))


@pytest.mark.filterwarnings("error")
def test_a_step_that_was_called_wrongly_once_is_captured_still():
    def step(x, y):
        if x.shape != y.shape:
            raise ValueError("not of one shape")
        return x + y

    compiled = engine(step)
    compiled(torch.ones(2), torch.ones(2))
    with pytest.raises(ValueError, match="not of one shape"):
        compiled(torch.ones(2), torch.ones(3))
    assert torch.equal(compiled(torch.ones(2), torch.ones(2)), torch.full((2,), 2.0))
    assert not compiled.why_eager


def test_the_switch_is_off_again_afterwards():
    import torch._dynamo.config

    before = torch._dynamo.config.trace_autograd_ops
    engine(lambda x: x + 1)(torch.ones(2))
    assert torch._dynamo.config.trace_autograd_ops == before
    assert not torch.compiler.is_compiling()


def test_what_waits_for_a_gpu_is_told_from_what_does_not():
    """On tensors that only claim to be on one."""
    aten = torch.ops.aten
    with FakeTensorMode():
        x, places, mask = (torch.empty(4, dtype=d, device="cuda") for d in (torch.float32, torch.int64, torch.bool))
        host = torch.empty(4, dtype=torch.int64)
        waits = [
            (aten._local_scalar_dense.default, (x,)), (aten.nonzero.default, (x,)), (aten.index.Tensor, (x, [mask])),
            (aten.index.Tensor, (x, [host])), (aten.index_put_.default, (x, [None, mask], x)),
            (aten.copy_.default, (x, host)), (aten._to_copy.default, (host, x)),
        ]  # fmt: skip
        goes_on = [
            (aten.add.Tensor, (x, x)), (aten.index.Tensor, (x, [None, places])), (aten.copy_.default, (x, x)),
            (aten._local_scalar_dense.default, (host,)), (aten.index_put_.default, (x, [places], x)),
        ]  # fmt: skip
        for operation, args in waits:
            with pytest.raises(RuntimeError, match=rf"it waits for the GPU, at {operation}"):
                capture._refuse_synchronization(operation, args, given_to(args))
        for operation, args in goes_on:
            capture._refuse_synchronization(operation, args, given_to(args))


def given_to(args):
    return [value for value in tree_leaves(args) if isinstance(value, torch.Tensor)]


class Replacing(nn.Module):
    """Keeps a running mean in another tensor every time."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x):
        self.mean = 0.5 * self.mean + 0.5 * x.mean()
        return x - self.mean


def test_a_buffer_that_is_replaced_is_no_graph_s():
    found, wanted = Replacing(), Replacing()
    compiled = by_tracing(fastgan.compile(lambda x: found(x)))
    with pytest.warns(UserWarning, match=r"it replaces the buffer Replacing\.mean, which a graph does not"):
        compiled(torch.ones(3))
    wanted(torch.ones(3))
    for value in (2.0, 3.0):
        x = torch.full((3,), value)
        assert torch.equal(compiled(x), wanted(x))
    assert torch.equal(found.mean, wanted.mean)
    before = found.mean.clone()
    fastgan.explain(lambda x: found(x), torch.ones(3))  # tells, and leaves what it found
    assert torch.equal(found.mean, before)


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
    with pytest.raises(UsageError, match="cuda_graph: mode graph is nothing but a CUDA graph, got False"):
        fastgan.compile(lambda x: x, mode="graph", cuda_graph=False)


def test_explain_counts_and_leaves_no_trace():
    network = sngan_discriminator()
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
