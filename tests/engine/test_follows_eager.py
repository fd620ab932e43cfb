"""A compiled step follows the eager one over twenty steps, whatever it takes from Python: draws, numbers, branches."""

import collections
import contextlib
import copy
import random
import sys
import time
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.variables import constant

import fastgan
from fastgan.engine import cuda_graphs
from fastgan.engine.capture import ExternalState
from fastgan.engine.compile import MAX_VARIANTS
from fastgan.engine.cuda_graphs import CaptureError
from fastgan.engine.dynamo import quiet
from fastgan.engine.trace import trace
from fastgan.testing.discriminator_steps import by_make_fx

compile_module = sys.modules["fastgan.engine.compile"]
pytestmark = pytest.mark.usefixtures("backend")

STEPS = 20
SCALE = 1.0
CALLS = 0
OPTIONS = {"weight": 1.0}


class Discriminator(nn.Module):
    """Two layers for images [N, 3, 8, 8], with a method other than forward, which replaces an attribute."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3, 2, 1), nn.Linear(64, 1)
        self.alpha, self.ema, self.calls = 1.0, torch.zeros(()), 0

    def features(self, x):
        self.ema = 0.9 * self.ema + 0.1 * x.detach().mean()
        return F.leaky_relu(self.first(x), 0.2)

    def count(self, x):
        self.calls += 1
        return self.first(x) * self.calls

    def forward(self, x):
        return self.last(F.leaky_relu(self.first(x), 0.2).flatten(1))


def penalty(network, real, fake, epsilon):
    mixed = (epsilon * real + (1 - epsilon) * fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(network(mixed).sum(), mixed, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


class Case:
    """A network, and the step of a kind. `before` is called before each step with its number."""

    def __init__(self):
        torch.manual_seed(1)
        self.network = Discriminator()
        self.weights = list(self.network.parameters())
        self.logs = []
        self.prepare()

    def prepare(self):
        pass

    def before(self, i):
        pass

    def gradients(self, loss):
        return loss.detach(), torch.autograd.grad(loss, self.weights, allow_unused=True)

    def step(self, real, fake):
        return self.gradients(self.loss(real, fake))

    def adversarial(self, real, fake):
        return self.network(fake).mean() - self.network(real).mean()

    def state(self):
        """Everything that the step may have changed."""
        return [*self.network.state_dict().values(), self.network.ema, self.network.calls, CALLS, list(self.logs)]


class NumpyGlobal(Case):
    def loss(self, real, fake):
        epsilon = torch.tensor(np.random.random((real.shape[0], 1, 1, 1)), dtype=torch.float32)  # noqa: NPY002
        return self.adversarial(real, fake) + penalty(self.network, real, fake, epsilon)


class NumpyNumber(Case):
    def loss(self, real, fake):
        return self.adversarial(real, fake) * np.random.uniform(0.5, 1.5)  # noqa: NPY002


class NumpyGenerator(Case):
    def prepare(self):
        self.generator = np.random.default_rng(3)

    def loss(self, real, fake):
        epsilon = torch.from_numpy(self.generator.random((real.shape[0], 1, 1, 1), dtype=np.float32))
        return self.adversarial(real, fake) + penalty(self.network, real, fake, epsilon)


class PythonRandom(Case):
    def loss(self, real, fake):
        return self.adversarial(real, fake) * random.uniform(0.5, 1.5)


class PythonGenerator(Case):
    def prepare(self):
        self.generator = random.Random(3)

    def loss(self, real, fake):
        return self.adversarial(real, fake) * self.generator.random()


class GlobalCounter(Case):
    def loss(self, real, fake):
        global CALLS
        CALLS += 1
        return self.adversarial(real, fake) * CALLS


class ClosureCounter(Case):
    def prepare(self):
        n = 0

        def scale():
            nonlocal n
            n += 1
            self.logs[:] = [n]
            return n

        self.scale = scale

    def loss(self, real, fake):
        return self.adversarial(real, fake) * self.scale()


class MethodCounter(Case):
    def loss(self, real, fake):
        return self.network.count(real).mean() + self.adversarial(real, fake)


class AttributeWeight(Case):
    """BEGAN's k, a Python number that changes in each step."""

    k = 0.0

    def before(self, i):
        self.k += 0.01

    def loss(self, real, fake):
        return self.network(real).mean() - self.k * self.network(fake).mean()


class GlobalWeight(Case):
    def before(self, i):
        OPTIONS["weight"] = 1.0 + i // 7

    def loss(self, real, fake):
        return self.adversarial(real, fake) * OPTIONS["weight"]


class FadeIn(Case):
    """A fade-in weight on the network, as progressive growing has."""

    def before(self, i):
        self.network.alpha = min(1.0, (1 + i) / 10)

    def loss(self, real, fake):
        return self.network.alpha * self.adversarial(real, fake)


class ReplacedAverage(Case):
    """LeCam's averages, replaced in a method that is not called through the module."""

    def loss(self, real, fake):
        return (self.network.features(real) - self.network.ema).square().mean() + self.adversarial(real, fake)


class HookOfAMethod(Case):
    """A hook, which sees the module and keeps a tensor of the last step."""

    def prepare(self):
        self.network.last.register_forward_hook(self.keep)
        self.last = torch.zeros(())

    def keep(self, module, inputs, output):
        self.last = output.detach().mean() + 0.5 * self.last

    def loss(self, real, fake):
        return self.adversarial(real, fake) + self.last

    def state(self):
        return [*super().state(), self.last]


class ConditionalPrint(Case):
    def prepare(self):
        self.n = 0

    def loss(self, real, fake):
        loss = self.adversarial(real, fake)
        if self.n % 3 == 2:
            self.logs.append(loss.item())
            print(f"{loss.item():.3f}")
        self.n += 1
        return loss


class Clock(Case):
    def loss(self, real, fake):
        return self.adversarial(real, fake) + 0 * time.perf_counter()


class Print(Case):
    def loss(self, real, fake):
        loss = self.adversarial(real, fake)
        print(f"{loss.item():.3f}")
        return loss


class ItemForLogs(Case):
    def loss(self, real, fake):
        loss = self.adversarial(real, fake)
        self.logs.append(loss.item())
        return loss


class ListOfLogs(Case):
    def loss(self, real, fake):
        loss = self.adversarial(real, fake)
        self.logs.append(loss.detach())
        return loss


class ConditionalOptimizerStep(Case):
    def prepare(self):
        self.n, self.optimizer = 0, torch.optim.Adam(self.weights, 0.01)

    def step(self, real, fake):
        loss = self.adversarial(real, fake)
        loss.backward()
        self.n += 1
        if self.n % 4 == 0:
            self.optimizer.step()
            self.optimizer.zero_grad()
        return loss.detach()


class LazyPenalty(Case):
    def prepare(self):
        self.n = 0

    def loss(self, real, fake):
        loss = self.adversarial(real, fake)
        if self.n % 4 == 0:
            loss = loss + 4 * penalty(self.network, real, fake, torch.rand(real.shape[0], 1, 1, 1))
        self.n += 1
        return loss


class RequiresGradOnAnArgument(Case):
    def step(self, real, fake):
        real.requires_grad_()
        logits = self.network(real)
        (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
        return self.gradients(F.softplus(-logits).mean() + gradient.square().sum())


class Iterator(Case):
    def prepare(self):
        self.scales = iter(range(1, 100))

    def loss(self, real, fake):
        return self.adversarial(real, fake) * next(self.scales)


class GeneratorFunction(Case):
    def prepare(self):
        self.batches = (torch.full((), float(i)) for i in range(1, 100))

    def loss(self, real, fake):
        return self.adversarial(real, fake) * next(self.batches)


class NumpyArray(Case):
    def prepare(self):
        self.scale = np.ones(1, dtype=np.float32)

    def before(self, i):
        self.scale *= 1.1

    def loss(self, real, fake):
        return self.adversarial(real, fake) * float(self.scale[0])


class AnotherTensor(Case):
    """A tensor that an attribute holds, another one in each step."""

    def before(self, i):
        self.scale = torch.full((), 1.0 + i)

    def loss(self, real, fake):
        return self.adversarial(real, fake) * self.scale


class OldWeightNorm(Case):
    norm = staticmethod(nn.utils.weight_norm)

    def prepare(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.norm(self.network.first)
            self.norm(self.network.last)
        self.weights = list(self.network.parameters())
        self.optimizer = torch.optim.SGD(self.weights, 0.01)

    def step(self, real, fake):
        epsilon = torch.rand(real.shape[0], 1, 1, 1)
        loss, gradients = self.gradients(self.adversarial(real, fake) + penalty(self.network, real, fake, epsilon))
        return loss, gradients

    def before(self, i):
        with torch.no_grad():
            for weight in self.weights:
                weight.mul_(0.99)


class OldSpectralNorm(OldWeightNorm):
    norm = staticmethod(nn.utils.spectral_norm)


class FrozenLayer(Case):
    """Layers that are frozen in the middle, in a step that drops the gradients itself."""

    def before(self, i):
        for weight in self.network.first.parameters():
            weight.requires_grad_(i < 6)

    def step(self, real, fake):
        for weight in self.weights:
            weight.grad = None
        loss = self.adversarial(real, fake)
        loss.backward()
        return loss.detach()


class HookOfAWeight(Case):
    """A hook that scales a weight's gradient, by a number that changes."""

    def prepare(self):
        self.scale = 2.0
        self.network.first.weight.register_hook(lambda gradient: gradient * self.scale)

    def before(self, i):
        self.scale = 2.0 + i // 10

    def loss(self, real, fake):
        return self.adversarial(real, fake)


class BoundedDeque(Case):
    """The first of the last values, as a memory of past losses has it."""

    def prepare(self):
        self.past = collections.deque(maxlen=3)

    def loss(self, real, fake):
        self.past.append(fake.mean())
        return self.adversarial(real, fake) + self.past[0]


class AssignedData(Case):
    """An average of the weights in .data, as moving_average in StarGAN v2."""

    def prepare(self):
        self.average = [weight.detach().clone() for weight in self.weights]

    def loss(self, real, fake):
        for average, weight in zip(self.average, self.weights, strict=True):
            average.data = torch.lerp(weight.data, average.data, 0.9)
        return self.adversarial(real, fake)

    def state(self):
        return [*super().state(), *self.average]


class SeedInside(Case):
    def loss(self, real, fake):
        torch.manual_seed(5)
        return self.adversarial(real + torch.rand_like(real), fake)


class ForkedGenerator(Case):
    def loss(self, real, fake):
        with torch.random.fork_rng([]):
            noise = torch.rand_like(real)
        return self.adversarial(real + noise, fake)


class Write(Case):
    def loss(self, real, fake):
        sys.stdout.write(".")
        return self.adversarial(real, fake)


class ZeroGradInside(Case):
    def prepare(self):
        self.optimizer = torch.optim.SGD(self.weights, 0.1)

    def step(self, real, fake):
        self.optimizer.zero_grad()
        loss = self.adversarial(real, fake)
        loss.backward()
        return loss.detach()


class R1OfAnArgument(Case):
    """As in GAN_stability: the backward pass fills the argument's .grad too."""

    def step(self, real, fake):
        real.requires_grad_()
        logits = self.network(real)
        logits.mean().backward(retain_graph=True)
        (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
        gradient.square().sum().backward()
        return logits.mean().detach()


KINDS = [kind for kind in globals().values() if isinstance(kind, type) and issubclass(kind, Case) and kind is not Case]


def run(kind, wrap, capsys):
    """Results of twenty steps, the state after them, and what they printed."""
    global CALLS
    CALLS = 0
    OPTIONS["weight"] = 1.0
    case = kind()
    step, found = wrap(case.step), []
    for i in range(STEPS):
        case.before(i)
        torch.manual_seed(i)
        np.random.seed(i)  # noqa: NPY002
        random.seed(i)
        batch = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
        result = step(*batch)
        leaves = torch.utils._pytree.tree_leaves(result)
        gradients = [None if w.grad is None else w.grad.clone() for w in case.weights]
        draws = torch.rand(()), np.random.rand(), random.random()  # noqa: NPY002
        found.append([*leaves, *gradients, *draws])  # the draws show the states of the generators
    return found, case.state(), capsys.readouterr().out, step


#: By Dynamo: the number of compiled variants, and why the rest runs eagerly.
BY_DYNAMO = {
    "NumpyGlobal": (0, "it draws random numbers on the host, from numpy.random"),
    "NumpyNumber": (0, "it draws random numbers on the host, from numpy.random"),
    "NumpyGenerator": (0, "it draws random numbers on the host, from NumpyGenerator.generator"),
    "PythonRandom": (0, "it draws random numbers on the host, from random"),
    "PythonGenerator": (0, "it draws random numbers on the host, from PythonGenerator.generator"),
    "GlobalCounter": (4, "CALLS changes from call to call"),
    "ClosureCounter": (2, ""),
    "MethodCounter": (2, ""),
    "AttributeWeight": (2, ""),
    "GlobalWeight": (2, ""),
    "FadeIn": (2, ""),
    "ReplacedAverage": (1, ""),
    "HookOfAMethod": (1, ""),
    "ConditionalPrint": (2, "it calls print, which a graph does not repeat"),
    "Clock": (0, "it calls perf_counter, which a graph does not repeat"),
    "Print": (0, "it calls print, which a graph does not repeat"),
    "ItemForLogs": (5, "len(self.logs) changes from call to call"),
    "ListOfLogs": (5, "len(self.logs) changes from call to call"),
    "ConditionalOptimizerStep": (2, "it contains an optimizer step"),
    "LazyPenalty": (3, ""),
    "RequiresGradOnAnArgument": (1, ""),
    "Iterator": (4, "changes from call to call"),
    "GeneratorFunction": (0, "it reads GeneratorFunction.batches, whose next value a graph does not take"),
    "NumpyArray": (1, ""),
    "AnotherTensor": (1, ""),
    "OldWeightNorm": (1, ""),
    "OldSpectralNorm": (1, ""),
    "FrozenLayer": (2, ""),
    "HookOfAWeight": (2, ""),
    "BoundedDeque": (0, "it changes BoundedDeque.past, which a graph does not"),
    "AssignedData": (1, ""),
    "SeedInside": (0, "it sets the state of random generators"),
    "ForkedGenerator": (0, "it sets the state of random generators"),
    "Write": (0, "it writes to a file"),
    "ZeroGradInside": (0, "it calls Optimizer.zero_grad, which Dynamo does not trace; call it outside"),
    "R1OfAnArgument": (0, "it fills the .grad of an argument, which a graph does not; write x = x.detach()"),
}


class FrozenGraph:
    """Stands in for a CUDA graph: repeats the tensor operations of the capture, and nothing of Python."""

    def __init__(self, run, state, args, kwargs):
        self._replay = trace(run, state, args, kwargs, lambda graph: graph)

    def __call__(self, *args, **kwargs):
        return self._replay(*args, **kwargs)


#: Cases that run by default; the full run takes all.
DEFAULT = {
    "dynamo": {
        "NumpyGlobal", "PythonRandom", "GlobalCounter", "MethodCounter", "AttributeWeight", "FadeIn", "ReplacedAverage",
        "ConditionalPrint", "ItemForLogs", "ConditionalOptimizerStep", "LazyPenalty", "RequiresGradOnAnArgument",
        "OldWeightNorm", "OldSpectralNorm", "FrozenLayer", "HookOfAWeight", "SeedInside", "ZeroGradInside",
        "BoundedDeque", "R1OfAnArgument",
    },
    "make_fx": {
        "NumpyGenerator", "ClosureCounter", "ReplacedAverage", "GeneratorFunction", "OldWeightNorm", "AssignedData",
        "Write",
    },
    "graph": {"NumpyGlobal", "GlobalWeight", "HookOfAMethod"},
}  # fmt: skip
CASES = [
    pytest.param(
        kind,
        capture,
        id=f"{kind.__name__}-{capture}",
        marks=[] if kind.__name__ in DEFAULT[capture] else pytest.mark.full,
    )
    for kind in KINDS
    for capture in ("dynamo", "make_fx", "graph")
]


@pytest.mark.parametrize(("kind", "capture"), CASES)
def test_twenty_steps_equal_eager_ones(kind, capture, capsys, monkeypatch):
    def compiled(step):
        if capture == "graph":
            monkeypatch.setattr(compile_module, "CudaGraph", FrozenGraph)
            real = compile_module._key
            monkeypatch.setattr(compile_module, "_key", lambda *given: (real(*given)[0], {"cuda"}))
            return fastgan.compile(step, mode="graph")
        one = fastgan.compile(step)
        return by_make_fx(one) if capture == "make_fx" else one

    # Dynamo remembers for the code of a step, not for the compiled step, which numbers have changed.
    torch._dynamo.reset()
    wanted, state, text, _ = run(kind, lambda step: step, capsys)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        found, after, printed, step = run(kind, compiled, capsys)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(after, state, rtol=1e-5, atol=1e-6)
    assert printed == text
    eager = [str(w.message) for w in warned if "step runs eagerly: " in str(w.message)]
    assert eager == ([f"fastgan.compile: step runs eagerly: {step.why_eager}"] if step.why_eager else [])
    assert step.variants <= MAX_VARIANTS
    want_variants, reason = BY_DYNAMO.get(kind.__name__, (None, ""))
    if capture == "dynamo" and torch.__version__ >= "2.12":
        assert step.variants == want_variants, step.how
        assert reason in step.why_eager
        assert bool(reason) == bool(step.why_eager)


def test_a_recorded_iteration_follows_values_in_python(monkeypatch):
    """A Recorder's graph is recorded anew after a change, and given up where it changes again and again."""

    def recorded(device, run, pool=None):
        result, scale = run(), case.k  # a graph keeps the scale of its capture

        class Graph:
            def replay(self):
                result.copy_(scale * recorder._given[0])

        return Graph(), result

    monkeypatch.setattr(cuda_graphs, "recorded", recorded)
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    case, recorder = AttributeWeight(), cuda_graphs.Recorder()

    def scaled(given):
        return case.k * given[0]

    def values(changes):
        for i in range(8):
            case.k = changes(i)
            assert torch.equal(recorder((), scaled, [torch.ones(2)]), torch.full((2,), case.k)), i

    values(lambda i: 1.0)
    assert recorder.replays
    values(lambda i: 2.0)
    assert recorder.replays
    values(lambda i: 3.0)
    assert recorder.replays
    case.k = 4.0
    with pytest.raises(CaptureError, match=r"it takes from Python what changes: AttributeWeight\.k == 3\.0"):
        recorder((), scaled, [torch.ones(2)])


def test_capturing_leaves_no_trace():
    """In a network with hooks of the older weight_norm, attributes, generators, flags and gradients are as before."""
    case = OldWeightNorm()
    real = torch.randn(2, 3, 8, 8)
    case.step(real, real)
    before = [case.network.first.weight, case.network.ema, torch.get_rng_state(), random.getstate()]
    ExternalState(case.step, (real, real), {})
    after = [case.network.first.weight, case.network.ema, torch.get_rng_state(), random.getstate()]
    assert before[0] is after[0]
    assert before[1] is after[1]
    assert torch.equal(before[2], after[2])
    assert before[3] == after[3]
    other = RequiresGradOnAnArgument()
    ExternalState(other.step, (real, real), {})
    assert not real.requires_grad
    assert all(weight.grad is None for weight in other.weights)


def test_a_deep_copy_after_a_compiled_step_with_hooks_of_weight_norm():
    case = OldWeightNorm()
    compiled = fastgan.compile(case.step)
    compiled(torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8))
    assert compiled.how == ["Dynamo"] or torch.__version__ < "2.12"
    copied = copy.deepcopy(case.network)
    assert torch.equal(copied.first.weight, case.network.first.weight)


def test_weights_of_hooks_are_found_behind_a_method_that_extends_another():
    """Else Dynamo is refused, for the weight that the hook computes would leave the graph."""

    class Loss:
        def __init__(self):
            self.network = nn.Sequential(torch.nn.utils.spectral_norm(nn.Conv2d(3, 4, 3)))

        def loss(self, x):
            return self.network(x).square().mean()

    class Twice(Loss):
        def loss(self, x):
            return 2 * super().loss(x)

        def step(self, x):
            loss = self.loss(x)
            return loss.detach(), torch.autograd.grad(loss, list(self.network.parameters()))

    torch.manual_seed(0)
    case, x = Twice(), torch.randn(2, 3, 8, 8)
    compiled, eager = fastgan.compile(case.step), copy.deepcopy(case)
    torch.testing.assert_close(compiled(x), eager.step(x))
    assert compiled.how == ["Dynamo"] or torch.__version__ < "2.12"


@pytest.mark.skipif(not hasattr(constant, "CONSTANT_VARIABLE_NONE"), reason="no shared constants in this torch")
@pytest.mark.parametrize("name", ["NONE", "TRUE", "FALSE"])
def test_a_compiled_step_leaves_no_source_on_dynamos_constants(name):
    """All graphs share them: with a source left on one, later graphs that hold it fail to compile."""
    shared = getattr(constant, f"CONSTANT_VARIABLE_{name}")
    shared.source = "left by torch.compile of somebody else"
    with quiet():
        assert shared.source is None
        shared.source = "of the .grad of a weight"
    assert shared.source is None
