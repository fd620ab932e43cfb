"""fastgan.benchmark."""

import json
import re
import sys

import pytest
import torch
from torch import nn

import fastgan
from fastgan._util.timing import Timing
from fastgan.engine import Benchmark, CompiledStep, Contestant, benchmark, compile
from fastgan.engine.counts import Counts
from fastgan.engine.step_state import StepState
from fastgan.errors import UsageError
from fastgan.testing import discriminator_steps as steps

#: The package has a function of the same name.
MODULE = sys.modules["fastgan.engine.benchmark"]


def critic(network, optimizer=None):
    """A WGAN-GP critic step that fills .grad, and returns the loss."""

    def step(real, fake, epsilon):
        network.zero_grad()
        loss = steps.wgan_gp(network, real, fake, epsilon)
        loss.backward()
        if optimizer is not None:
            optimizer.step()
        return loss.detach()

    return step


def test_the_table_of_a_wgan_gp_critic_step_on_the_cpu(monkeypatch):
    def aot_eager(self, function):
        return torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=False)

    # What Inductor makes of the graph is tested elsewhere.
    monkeypatch.setattr(CompiledStep, "_inductor", aot_eager)
    network = steps.discriminator()
    found = benchmark(critic(network), *steps.draws(), seconds=0.02)
    assert [one.name for one in found.contestants] == ["eager", "torch.compile", "fastgan.compile"]
    # torch.compile has no double backward, and is listed with the reason.
    assert found["torch.compile"].wall is None
    assert "double backward" in found["torch.compile"].reason
    for name in ("eager", "fastgan.compile"):
        assert found[name].wall.median > 0
        assert not found[name].reason
        assert (found[name].host, found[name].graph, found[name].memory) == (None, None, None)
    draws = steps.draws()
    with Counts() as counts:
        critic(network)(*draws)
    assert found["eager"].operations == counts.operations
    _, _, passes, zeros = steps.STEPS["wgan-gp"]
    assert found["eager"].passes == passes + zeros + 1
    text = str(found)
    assert re.search(r"^eager +[\d.]+ +[\d.]+ +- +\d+ +22 +n/a +1\.00$", text, flags=re.M), text
    assert re.search(r"^torch.compile +not timed: raises .*double backward", text, flags=re.M), text
    assert "µs each on average" in text
    assert json.loads(json.dumps(found.as_dict()))["contestants"][0]["wall"]["median"] > 0


@pytest.mark.full
def test_convolutions_of_a_compiled_step_are_counted():
    network = steps.discriminator()
    found = benchmark(critic(network), *steps.draws(), seconds=0.02)
    assert (found["eager"].passes, found["fastgan.compile"].passes) == (22, 18)
    assert "22 passes in eager mode, 18 with fastgan.compile" in str(found)


def test_eager_and_compiled_convolutions_are_compared():
    rows = (
        Contestant("eager", Timing(2, 2, 2), passes=10, operations=10),
        Contestant("fastgan.compile", Timing(1, 1, 1), passes=6),
    )
    assert "convolutions: 10 passes in eager mode, 6 with fastgan.compile" in str(Benchmark("step", "CPU", rows))
    same = (rows[0], Contestant("fastgan.compile", Timing(1, 1, 1), passes=10))
    assert "convolutions: " not in "".join(Benchmark("step", "CPU", same).limits)


@pytest.mark.parametrize(("graph", "bound"), [(1.0, "host-bound"), (7.0, "GPU-bound")])
def test_what_limits_a_step_on_a_gpu_follows_from_its_times(graph, bound):
    def timing(ms):
        return Timing(ms, ms, ms)

    eager = Contestant("eager", timing(7.2), timing(7.1), timing(graph), launches=300, memory=5_000_000)
    text = str(Benchmark("step", "NVIDIA H200", (eager, Contestant("torch.compile", reason="differs from eager: x"))))
    assert f"{bound} in eager mode: the calls take 7.100 ms, the GPU {graph:.3f} ms" in text
    assert "launches" in text
    assert re.search(r"^eager +7\.200 +7\.100 +[17]\.000 +300 +- +5 +1\.00$", text, flags=re.M), text


def test_times_of_a_gpu_are_of_each_contestant_alone(monkeypatch):
    class Simulated:
        """Calls move the host's clock, and the device needs twice as long."""

        host = device = 0.0

        def call(self):
            self.host += 1e-3
            self.device = max(self.device, self.host) + 2e-3

        def now(self):
            return self.host

        def synchronize(self):
            self.host = max(self.host, self.device)

        def clear_cache(self):
            self.call()

        def mark(self):
            return max(self.host, self.device)

        def between(self, first, last):
            return 1e3 * (last - first)

    gpu = Simulated()
    monkeypatch.setattr(MODULE, "CudaDevice", lambda: gpu)
    ready = {"eager": MODULE._Ready(gpu.call, gpu.call), "torch.compile": MODULE._Ready(gpu.call)}
    found = MODULE._times(ready, 0.2, cuda=True)
    wall, host, graph = found["eager"]
    # The first of at least ten calls in a block is not hidden behind the device's work.
    assert 2 <= wall.median <= 2.1 + 1e-6
    assert (host.median, graph.median) == (pytest.approx(1), pytest.approx(2))
    assert found["torch.compile"][2] is None


def wrong(change):
    """A contestant that runs the eager step and then changes what it leaves."""

    def build(step, args):
        def run():
            return change(step(*args))

        return MODULE._Ready(run)

    return build


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("loss", r"relative error 1.0e-01 in its results"),
        ("gradient", r"relative error 1.0e\+00 in its gradients"),
        ("missing", "its gradients have another number"),
        ("buffer", "changed weights or buffers"),
        ("nan", "NaN or infinity in its results"),
        ("dtype", "its results have another number, shape or dtype"),
        ("raises", "raises ZeroDivisionError"),
    ],
)
def test_a_contestant_with_other_results_is_not_timed(monkeypatch, what, reason):
    network = steps.discriminator()
    network.insert(1, nn.BatchNorm2d(8))
    weight = network[0].weight

    def change(loss):
        if what == "loss":
            return 1.1 * loss
        if what == "gradient":
            weight.grad *= 2
        elif what == "missing":
            weight.grad = None
        elif what == "buffer":
            network[1].running_mean.add_(1)
        elif what == "dtype":
            return loss.double()
        elif what == "nan":
            return loss * float("nan")
        elif what == "raises":
            return 1 // 0
        return loss

    monkeypatch.setattr(MODULE, "_fastgan_compile", wrong(change))
    monkeypatch.setattr(MODULE, "_torch_compile", wrong(lambda loss: loss))

    def step(real, fake, epsilon):
        network.zero_grad()
        loss = steps.hinge(network, real, fake, epsilon)
        loss.backward()
        return loss.detach()

    found = benchmark(step, *steps.draws(), seconds=0.001)
    assert found["fastgan.compile"].wall is None
    assert re.search(reason, found["fastgan.compile"].reason), found["fastgan.compile"].reason
    # The next contestant starts from the right state, and the one before has been timed.
    assert found["torch.compile"].wall is not None


def test_random_numbers_are_the_same_for_all(monkeypatch):
    monkeypatch.setattr(MODULE, "_fastgan_compile", wrong(lambda result: result))
    monkeypatch.setattr(MODULE, "_torch_compile", wrong(lambda result: result + torch.randn(())))
    found = benchmark(lambda x: x + torch.randn(4), torch.zeros(4), seconds=0.001)
    assert found["fastgan.compile"].wall is not None
    assert "relative error" in found["torch.compile"].reason


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
def test_all_state_is_as_before_afterwards(monkeypatch, kind):
    monkeypatch.setattr(MODULE, "_fastgan_compile", wrong(lambda loss: loss))
    monkeypatch.setattr(MODULE, "_torch_compile", wrong(lambda loss: loss))
    network = steps.sngan_discriminator()
    network.insert(1, nn.Dropout())
    optimizer = kind(network.parameters(), 0.1)
    step, draws = critic(network, optimizer), steps.draws()
    step(*draws)  # so that the optimizer has a state, and gradients exist

    def state():
        tensors = [*network.state_dict().values(), *(p.grad for p in network.parameters()), torch.get_rng_state()]
        moments = [value for p in optimizer.state.values() for value in p.values()]
        return [torch.as_tensor(value).clone() for value in [*tensors, *moments, *draws]]

    before, objects = state(), [id(p.grad) for p in network.parameters()]
    found = benchmark(step, *draws, seconds=0.001)
    assert found["fastgan.compile"].wall is not None, found["fastgan.compile"].reason
    assert [id(p.grad) for p in network.parameters()] == objects
    assert len(before) == len(state())
    assert all(torch.equal(a, b) for a, b in zip(before, state(), strict=True))


def test_an_optimizer_without_a_state_has_none_afterwards():
    network = steps.discriminator()
    optimizer = torch.optim.Adam(network.parameters())
    found = benchmark(critic(network, optimizer), *steps.draws(), seconds=0.001)
    assert not optimizer.state
    assert all(p.grad is None for p in network.parameters())
    assert "runs eagerly" in found["fastgan.compile"].reason
    assert "optimizer step" in found["fastgan.compile"].reason


def test_state_is_restored_after_a_step_that_raises():
    network = steps.discriminator()
    before = network[0].weight.clone()

    def step(real):
        with torch.no_grad():
            network[0].weight.add_(1)
        network(real)
        raise ValueError("of the user")

    with pytest.raises(ValueError, match="of the user"):
        benchmark(step, steps.draws()[0])
    assert torch.equal(network[0].weight, before)


def test_an_optimizer_that_a_graph_cannot_hold_is_the_reason():
    network = steps.discriminator()
    state = StepState(critic(network, torch.optim.Adam(network.parameters())), steps.draws())
    with state.held():
        assert state.why_not_captured() == "its Adam has capturable=False"


@pytest.mark.filterwarnings("ignore:fastgan.compile. .* is captured by make_fx:UserWarning")
def test_steps_can_be_compiled_afterwards(monkeypatch):
    """Dynamo has one object for None, on which a compiled step could leave a source that later steps do not have."""

    def inductor(self, function):
        return torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=False)

    def no_dynamo(self):
        raise RuntimeError("without Dynamo's capture")

    monkeypatch.setattr(CompiledStep, "_inductor", inductor)
    found = benchmark(critic(steps.discriminator()), *steps.draws(), seconds=0.001)
    assert found["fastgan.compile"].wall is not None, found["fastgan.compile"].reason
    monkeypatch.setattr(CompiledStep, "_by_dynamo", no_dynamo)
    network = steps.discriminator()
    compiled = compile(lambda x: network(x).mean().backward())
    compiled(steps.draws()[0])
    assert not compiled.why_eager


def test_wrong_arguments():
    with pytest.raises(UsageError, match=r"step: expected the function itself"):
        fastgan.benchmark(compile(lambda x: x), torch.zeros(2))
    with pytest.raises(UsageError, match="step: expected a function of tensors, got int"):
        fastgan.benchmark(3)
    with pytest.raises(UsageError, match="seconds: expected a number > 0, got 0"):
        fastgan.benchmark(torch.relu, torch.zeros(2), seconds=0)
