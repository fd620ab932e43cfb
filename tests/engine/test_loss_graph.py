"""A penalty as one node equals the ordinary one, with a stand-in for CUDA graphs on the CPU."""

import copy
import gc
import random
import types
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

import fastgan
from fastgan.engine import cuda_graphs, loss_graph
from fastgan.engine.capture import ExternalState, _ExternalTensors
from fastgan.engine.loss_graph import MAX_CAPTURES, MAX_KINDS, ORDINARY_RUNS, reasons
from fastgan.nn import spectral_norm

N = 4


def network(*more):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(4, 8, 4, 2, 1), nn.LeakyReLU(0.2),
        nn.Flatten(), *more, nn.Linear(8 * 2 * 2, 1),
    )  # fmt: skip


def images(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, N, 3, 8, 8, generator=generator)


class Replayed:
    """Does what a CUDA graph does: a replay repeats the captured work on the tensors of the capture."""

    def __init__(self, run):
        self.run, self.replays = run, -1  # the check after the capture is one
        self.result = run()

    def replay(self):
        self.replays += 1
        for old, new in zip(tree_leaves(self.result), tree_leaves(self.run()), strict=True):
            if old is not None:
                old.copy_(new)


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that were captured. Everything counts as being on a GPU."""
    found = []

    def recorded(device, run, pool=None):
        found.append(Replayed(run))
        return found[-1], found[-1].result

    monkeypatch.setattr(cuda_graphs, "recorded", recorded)
    monkeypatch.setattr(loss_graph, "on_gpu", lambda images: True)
    return found


def gradients(net, loss):
    for parameter in net.parameters():
        parameter.grad = None
    value = loss()
    (3 * value).backward()
    return [value.detach(), *(None if p.grad is None else p.grad.clone() for p in net.parameters())]


def same(ours, expected):
    for a, b in zip(ours, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b)


def warm(net, loss, runs=ORDINARY_RUNS + 1):
    for _ in range(runs):
        loss(net).backward()


PENALTIES = {
    "gradient_penalty": lambda net, x: fastgan.gradient_penalty(net, x[0], x[1], epsilon=torch.full((N, 1, 1, 1), 0.3)),
    "zero_centered_gp": lambda net, x: fastgan.zero_centered_gp(net, *x, epsilon=torch.full((N, 1, 1, 1), 0.7)),
    "r1": lambda net, x: fastgan.r1(net, x[0], weight=2.0),
    "r2": lambda net, x: fastgan.r2(net, x[1]),
    "dragan": lambda net, x: fastgan.dragan(net, x[0], generator=torch.Generator().manual_seed(7)),
}


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("name", PENALTIES)
def test_replays_equal_ordinary_runs(graphs, name, fused):
    net = fastgan.fuse(network()) if fused else network()
    other = copy.deepcopy(net)
    optimizers = [torch.optim.Adam(each.parameters(), 1e-3) for each in (net, other)]
    for step in range(ORDINARY_RUNS + 4):
        x = images(step)
        ours = gradients(net, lambda x=x: PENALTIES[name](net, x))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loss_graph, "on_gpu", lambda images: False)
            expected = gradients(other, lambda x=x: PENALTIES[name](other, x))
        same(ours, expected)
        for optimizer in optimizers:  # the replays read the new weights
            optimizer.step()
    (graph,) = graphs
    assert graph.replays == 4
    assert reasons(net) == {name: ""}


def test_two_replays_before_their_backward_passes(graphs):
    net = network()
    a, b = images(1), images(2)
    warm(net, lambda n: fastgan.r1(n, a[0]))
    expected = [gradients(net, lambda x=x: fastgan.r1(net, x[0])) for x in (a, b)]
    first, second = fastgan.r1(net, a[0]), fastgan.r1(net, b[0])
    for value, wanted in ((second, expected[1]), (first, expected[0])):
        same(gradients(net, lambda value=value: value), wanted)


def test_the_backward_pass_can_run_twice(graphs):
    net = network()
    warm(net, lambda n: fastgan.r1(n, images(1)[0]))
    value = fastgan.r1(net, images(1)[0])
    first = torch.autograd.grad(value, net[0].weight, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(2 * value, net[0].weight)[0] / 2)


def test_conditional_discriminators_and_other_arguments(graphs):
    class Conditional(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.embed = network(), nn.Embedding(3, 1)

        def forward(self, x, y, *, factor=1.0):
            return factor * self.net(x) + self.embed(y["class"]) * self.net(x)

    net, labels = Conditional(), torch.tensor([0, 1, 2, 0])

    def loss(n, labels=labels, factor=1.0):
        return fastgan.r1(n, images(1)[0], {"class": labels}, factor=factor)

    warm(net, loss)
    for call in (lambda: loss(net, labels.flip(0)), lambda: loss(net, labels, 2.0)):
        ours = gradients(net, call)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loss_graph, "on_gpu", lambda images: False)
            same(ours, gradients(net, call))
    assert len(graphs) == 1  # another factor is another loss, which was not captured yet
    assert graphs[0].replays == 2


def test_spectral_norms_iterate_in_each_replay(graphs):
    net = fastgan.fuse(spectral_norm(network()))
    other = copy.deepcopy(net)
    for step in range(ORDINARY_RUNS + 3):
        x = images(step)[0]
        ours = gradients(net, lambda x=x: fastgan.r1(net, x))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loss_graph, "on_gpu", lambda images: False)
            same(ours, gradients(other, lambda x=x: fastgan.r1(other, x)))
        same(list(net.buffers()), list(other.buffers()))
    assert graphs[0].replays == 3


def freeze(net):
    net[0].weight.requires_grad_(False)


def replace(net):
    net[0].weight = nn.Parameter(torch.ones_like(net[0].weight))


def set_slope(net):
    net[1].negative_slope = 0.5


def set_mode(net):
    net.eval()


def add_child(net):
    net.append(nn.Linear(1, 1))


@pytest.mark.parametrize("change", [freeze, replace, set_slope, set_mode, add_child])
def test_a_change_of_the_network_is_captured_anew(graphs, change):
    net = network()
    warm(net, lambda n: fastgan.r1(n, images(1)[0]))
    change(net)
    for _ in range(ORDINARY_RUNS + 2):
        ours = gradients(net, lambda: fastgan.r1(net, images(1)[0]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss_graph, "on_gpu", lambda images: False)
        same(ours, gradients(net, lambda: fastgan.r1(net, images(1)[0])))
    assert len(graphs) == 2
    assert graphs[1].replays == 2


# --- what runs as before ----------------------------------------------------------------------------------------------


class DrawsOnTheHost(nn.Module):
    def __init__(self, draw):
        super().__init__()
        self.draw = draw

    def forward(self, x):
        return x * (1 + float(self.draw()))


class Counts(nn.Module):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.calls


def hooked():
    net = network()
    net[1].register_forward_hook(lambda *_: None)
    return net


def gradient_hooked():
    net = network()
    net[0].weight.register_hook(lambda gradient: gradient)
    return net


REASONS = {
    "function": (lambda: network().forward, "not a torch.nn.Module"),
    "hook": (hooked, "1 has a hook"),
    "gradient_hook": (gradient_hooked, "0.weight has a gradient hook"),
    "random": (lambda: network(DrawsOnTheHost(random.random)), "draws random numbers on the host"),
    "numpy": (lambda: network(DrawsOnTheHost(np.random.rand)), "draws random numbers on the host"),
    "counter": (lambda: network(Counts()), "it changes Counts.calls, which a graph does not"),
    "every_step": (lambda: spectral_norm(network(), every="step"), "has a hook"),
}


@pytest.mark.parametrize(("make", "reason"), REASONS.values(), ids=REASONS.keys())
def test_what_cannot_be_captured_runs_as_before_with_a_reason(graphs, make, reason):
    net = make()
    for _ in range(ORDINARY_RUNS + 3):
        fastgan.r1(net, images(1)[0]).backward()
    assert not graphs
    assert reason in (reasons(net)["r1"] if isinstance(net, nn.Module) else loss_graph.why_not(net, []))


def test_on_the_cpu_nothing_is_captured():
    net = network()
    warm(net, lambda n: fastgan.r1(n, images(1)[0]))
    assert reasons(net) == {"r1": "its images are not on a GPU"}


def test_without_gradients_only_the_value_is_computed(graphs):
    net = network()
    warm(net, lambda n: fastgan.r1(n, images(1)[0]))
    with torch.no_grad():
        fastgan.r1(net, images(1)[0])
    assert graphs[0].replays == 1


def test_other_shapes_are_captured_up_to_a_limit(graphs):
    net = network()
    for n in range(1, MAX_CAPTURES + 3):
        for _ in range(ORDINARY_RUNS + 1):
            value = fastgan.r1(net, torch.ones(n, 3, 8, 8))
    assert len(graphs) == MAX_CAPTURES
    assert "captured 8 times" in reasons(net)["r1"]
    assert value.requires_grad


def test_a_failed_capture_is_remembered(graphs, monkeypatch):
    calls = []

    def fail(device, run, pool=None):
        calls.append(1)
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    monkeypatch.setattr(cuda_graphs, "recorded", fail)
    net = network()
    warm(net, lambda n: fastgan.r1(n, images(1)[0]), ORDINARY_RUNS + 4)
    assert len(calls) == 1
    assert reasons(net) == {"r1": "operation not permitted"}


def test_a_replay_with_other_numbers_is_refused(monkeypatch, graphs):
    recorded = cuda_graphs.recorded

    def wrong(device, run, pool=None):
        graph, (value, gradients) = recorded(device, run, pool)
        replay = graph.replay
        monkeypatch.setattr(graph, "replay", lambda: (replay(), gradients[2].mul_(1.1)))
        return graph, (value, gradients)

    monkeypatch.setattr(cuda_graphs, "recorded", wrong)
    net = network()
    before = [p.detach().clone() for p in net.parameters()]
    warm(net, lambda n: fastgan.r1(n, images(1)[0]), ORDINARY_RUNS + 3)
    assert "its replay is wrong: its result differs from an ordinary run's: relative error" in reasons(net)["r1"]
    assert len(graphs) == 1
    same([p.detach() for p in net.parameters()], before)


def test_third_orders_run_as_before(graphs):
    net = network(nn.Tanh())
    x = images(1)[0]

    def third(n):
        (gradient,) = torch.autograd.grad(fastgan.r1(n, x), n[0].weight, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), n[2].weight)[0]

    expected = third(copy.deepcopy(net))
    warm(net, lambda n: fastgan.r1(n, x))
    torch.testing.assert_close(third(net), expected)
    assert "differentiated again" in reasons_after(net, x)
    assert len(graphs) == 1


def reasons_after(net, x):
    fastgan.r1(net, x)
    return reasons(net)["r1"]


def test_third_orders_of_a_network_that_draws_are_refused_once(graphs):
    net = network(nn.Dropout(0.5))
    x = images(1)[0]
    warm(net, lambda n: fastgan.r1(n, x))
    with pytest.raises(RuntimeError, match="draws random numbers or changes its buffers"):
        torch.autograd.grad(fastgan.r1(net, x), net[0].weight, create_graph=True)
    torch.autograd.grad(fastgan.r1(net, x), net[0].weight, create_graph=True)


def test_a_network_and_its_graphs_are_freed(graphs):
    net = network()
    warm(net, lambda n: fastgan.r1(n, images(1)[0]))
    gone = weakref.ref(net)
    graphs.clear()
    del net
    gc.collect()
    assert gone() is None


def test_explain_lists_the_reasons():
    net = network()

    def step(x):
        loss = fastgan.r1(net, x)
        loss.backward()
        return loss

    text = str(fastgan.explain(step, images(1)[0]))
    assert "r1 of Sequential" in text
    assert "its images are not on a GPU" in text


# --- what a graph must not keep or break ------------------------------------------------------------------------------


class With(nn.Module):
    """network() times a factor that `forward` takes from anywhere."""

    def __init__(self, factor):
        super().__init__()
        self.net, self.factor = network(), factor

    def forward(self, x, *args):
        return self.net(x) * self.factor(*args)


def test_a_loss_before_a_captured_penalty_has_its_backward_pass_after_it(graphs):
    net = network(nn.Tanh())
    for step in range(ORDINARY_RUNS + 3):
        real, fake = images(step)
        (net(fake).mean() - net(real).mean() + fastgan.r1(net, real)).backward()
    assert graphs[0].replays == 3


def test_an_argument_that_takes_a_gradient_gets_it_after_a_capture(graphs):
    net, factor = With(lambda factor: factor), torch.ones(N, 1)
    warm(net, lambda n: fastgan.r1(n, images(1)[0], factor))
    factor = factor.clone().requires_grad_()
    fastgan.r1(net, images(1)[0], factor).backward()
    assert factor.grad is not None
    assert graphs[0].replays == 1


def test_no_replay_within_a_capture(graphs, monkeypatch):
    net = network()
    warm(net, lambda n: fastgan.r1(n, images(1)[0]))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    fastgan.r1(net, images(1)[0])
    assert graphs[0].replays == 1


def test_autocast_casts_the_weights_within_the_graph(graphs, monkeypatch):
    read = []

    def recorded(device, run, pool=None):
        seen = _ExternalTensors([], False)
        with seen:
            result = run()
        read.extend(tensor for tensor, _ in seen.outside)
        return Replayed(run), result

    monkeypatch.setattr(cuda_graphs, "recorded", recorded)
    net = network()
    for _ in range(ORDINARY_RUNS + 1):
        with torch.autocast("cpu", torch.bfloat16):
            (net(images(1)[0]).mean() + fastgan.r1(net, images(1)[0])).backward()
    assert {id(weight) for weight in net.parameters()} <= set(map(id, read))
    assert {tensor.dtype for tensor in read} == {torch.float32}


def test_changing_weights_of_a_penalty_do_not_fill_the_memory(graphs):
    net = network()
    for step in range(MAX_KINDS + 10):
        fastgan.r1(net, images(1)[0], weight=step / 7)
    assert len(loss_graph._graphs[net]) == MAX_KINDS
    warm(net, lambda n: fastgan.r1(n, images(1)[0]))
    assert graphs[0].replays == 1


def test_objects_that_may_change_are_no_constants(graphs):
    net, own = With(lambda own: own.factor), types.SimpleNamespace(factor=1.0)
    warm(net, lambda n: fastgan.r1(n, images(1)[0], own))
    assert not graphs
    assert "a SimpleNamespace, which may change" in reasons(net)["r1"]


@pytest.mark.parametrize("buffer", [False, True])
def test_a_replaced_tensor_is_captured_anew(graphs, buffer):
    net = network(Scaled(buffer))
    warm(net, lambda n: fastgan.r1(n, images(1)[0]))
    net[5].scale = torch.full((), 2.0)
    fastgan.r1(net, images(1)[0])
    assert graphs[0].replays == 1


class Scaled(nn.Module):
    def __init__(self, buffer):
        super().__init__()
        if buffer:
            self.register_buffer("scale", torch.ones(()))
        else:
            self.scale = torch.ones(())

    def forward(self, x):
        return x * self.scale


def test_fp16_within_a_network_is_not_captured(graphs):
    net = With(lambda: 1)
    net.net.insert(0, Half())
    warm(net, lambda n: fastgan.r1(n, images(1)[0]))
    assert not graphs
    assert "fp16" in reasons(net)["r1"]


class Half(nn.Module):
    def forward(self, x):
        return x.half().float()


def test_a_weight_that_is_no_parameter_gets_its_gradient(graphs):
    weight = torch.ones(1, requires_grad=True)
    net = With(lambda: weight)
    warm(net, lambda n: fastgan.r1(n, images(1)[0]))
    weight.grad = None
    fastgan.r1(net, images(1)[0]).backward()
    assert weight.grad is not None


def test_draws_on_the_host_are_found():
    assert ExternalState(lambda: torch.rand(2), (), {}).draws_on == {"cpu"}


def test_a_backward_pass_after_another_capture(graphs):
    net, x = network(nn.Tanh()), images(1)[0]
    warm(net, lambda n: fastgan.r1(n, x))
    expected = gradients(net, lambda: fastgan.r1(net, x))
    value = fastgan.r1(net, x)
    freeze(net)
    for _ in range(ORDINARY_RUNS + 1):
        fastgan.r1(net, x)
    assert len(graphs) == 2
    expected[1] = None  # autograd does not fill that of a frozen weight
    same(gradients(net, lambda: value), expected)
