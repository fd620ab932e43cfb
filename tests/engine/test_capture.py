"""The state outside its arguments that a captured step reads or changes: it is used and updated as in eager mode."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

import fastgan
from fastgan.engine import capture as capture_module
from fastgan.nn import spectral_norm
from fastgan.testing.discriminator_steps import by_make_fx, discriminator, distance, draws, hinge, returning, wgan_gp

pytestmark = pytest.mark.usefixtures("backend")


def captured(step, capture):
    compiled = fastgan.compile(step)
    return by_make_fx(compiled) if capture == "make_fx" else compiled


@pytest.mark.parametrize("capture", ["dynamo", "make_fx"])
def test_backward_inside_fills_and_accumulates(capture):
    network = discriminator()

    def step(real, fake, epsilon):
        loss = wgan_gp(network, real, fake, epsilon)
        loss.backward()
        return loss.detach()

    compiled = captured(step, capture)
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

    compiled = captured(step, capture)
    x = torch.ones(64)
    torch.manual_seed(3)
    eager = [step(x) for _ in range(3)]
    torch.manual_seed(3)
    ours = [compiled(x) for _ in range(3)]
    for one, other in zip(eager, ours, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
    assert not torch.equal(ours[0][0], ours[1][0])


def test_the_capture_changes_no_state_and_each_call_runs_once():
    """Batch statistics, an outside buffer and the weights: the effects of the capture's own runs are undone."""
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
    compiled, eager = by_make_fx(fastgan.compile(step(network, total))), step(other, theirs)
    for _ in range(3):
        x = torch.randn(2, 3, 6, 6)
        torch.testing.assert_close(compiled(x), eager(x))
    torch.testing.assert_close(total, theirs)
    for mine, plain in zip(network.state_dict().values(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, plain)
    assert network[1].num_batches_tracked == 3


@pytest.mark.parametrize("capture", ["dynamo", "make_fx"])
def test_a_norm_that_iterates_once_a_step_does_so_when_captured(capture):
    network = fastgan.fuse(spectral_norm(discriminator(), every="step"))
    other = copy.deepcopy(network)
    optimizers = [torch.optim.SGD(n.parameters(), 0.01) for n in (network, other)]
    compiled = captured(returning(network, hinge), capture)
    eager = returning(other, hinge)
    for optimizer in optimizers:
        optimizer.step()  # the graph contains the iteration after an optimizer step; a new network has already iterated
    for _ in range(4):
        given = draws()
        for run, net, optimizer in ((compiled, network, optimizers[0]), (eager, other, optimizers[1])):
            for weight, gradient in zip(net.parameters(), run(*given)[1], strict=True):
                weight.grad = gradient
            optimizer.step()
    for mine, theirs in zip(network.state_dict().values(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("capture", ["dynamo", "make_fx"])
def test_a_step_that_clears_gradients_does_not_accumulate(capture):
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
def test_gradients_that_exist_at_capture_may_be_none_later(capture):
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
        warnings.filterwarnings("ignore", "fastgan.compile: step runs eagerly: it fills the .grad")
        for times in (1, 2, 3):
            compiled(x)
            assert torch.equal(x.grad, torch.full((3,), 2.0 * times))


@pytest.mark.parametrize("capture", ["dynamo", "make_fx"])
def test_changed_modes_and_weights_compile_anew(capture):
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


@pytest.mark.parametrize("kind", ["optimizer", "generator", "failure"])
def test_a_step_that_cannot_be_captured_runs_exactly_once(kind):
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
                raise RuntimeError("fails under a dispatch mode")
            return loss.detach()

        return step

    compiled, eager = fastgan.compile(stepping(network, source, total)), stepping(other, theirs, torch.zeros(()))
    x = draws()[0]
    with pytest.warns(UserWarning, match="step runs eagerly"):
        first = compiled(x)
    assert torch.equal(first, eager(x))
    assert torch.equal(compiled(x), eager(x))
    assert total == 2
    for mine, plain in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, plain)
        assert kind == "optimizer" or torch.equal(mine.grad, plain.grad)


def test_operations_that_wait_for_a_gpu_are_refused():
    """On fake tensors of device cuda."""
    aten = torch.ops.aten
    with FakeTensorMode():
        x, indices, mask = (torch.empty(4, dtype=d, device="cuda") for d in (torch.float32, torch.int64, torch.bool))
        host = torch.empty(4, dtype=torch.int64)
        waits = [
            (aten._local_scalar_dense.default, (x,)), (aten.nonzero.default, (x,)), (aten.index.Tensor, (x, [mask])),
            (aten.index.Tensor, (x, [host])), (aten.index_put_.default, (x, [None, mask], x)),
            (aten.copy_.default, (x, host)), (aten._to_copy.default, (host, x)),
        ]  # fmt: skip
        continues = [
            (aten.add.Tensor, (x, x)), (aten.index.Tensor, (x, [None, indices])), (aten.copy_.default, (x, x)),
            (aten._local_scalar_dense.default, (host,)), (aten.index_put_.default, (x, [indices], x)),
        ]  # fmt: skip
        for operation, args in waits:
            with pytest.raises(RuntimeError, match=rf"it waits for the GPU, at {operation}"):
                capture_module._refuse_synchronization(operation, args, tensors_in(args))
        for operation, args in continues:
            capture_module._refuse_synchronization(operation, args, tensors_in(args))


def tensors_in(args):
    return [value for value in tree_leaves(args) if isinstance(value, torch.Tensor)]


class Replacing(nn.Module):
    """Replaces its buffer by a new tensor in each run."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x):
        self.mean = 0.5 * self.mean + 0.5 * x.mean()
        return x - self.mean


def test_a_step_that_replaces_a_buffer_runs_eagerly():
    found, wanted = Replacing(), Replacing()
    compiled = by_make_fx(fastgan.compile(lambda x: found(x)))
    with pytest.warns(UserWarning, match=r"it replaces the buffer Replacing\.mean, which a graph does not"):
        compiled(torch.ones(3))
    wanted(torch.ones(3))
    for value in (2.0, 3.0):
        x = torch.full((3,), value)
        assert torch.equal(compiled(x), wanted(x))
    assert torch.equal(found.mean, wanted.mean)
    before = found.mean.clone()
    fastgan.explain(lambda x: found(x), torch.ones(3))  # restores the buffer
    assert torch.equal(found.mean, before)
