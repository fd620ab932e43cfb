"""Whole steps as CUDA graphs: numbers, random numbers, gradients, and state that a replay must not change."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastgan
from fastgan import Config, Trainer, models
from fastgan.engine.capture import preserved
from fastgan.engine.cuda_graphs import CudaGraph
from fastgan.nn import spectral_norm
from fastgan.train.data import Batches
from fastgan.train.iteration import IterationGraph
from fastgan.train.logging import Means
from fastgan.train.prepare import prepare

pytestmark = pytest.mark.gpu


def discriminator():
    layers = [nn.Conv2d(3, 16, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(16, 32, 4, 2, 1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 64, 1)).cuda()


def returning(network, precision="fp32"):
    weights = list(network.parameters())

    def step(real, fake, epsilon):
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
            loss = network(fake).mean() - network(real).mean()
            loss = loss + fastgan.gradient_penalty(network, real, fake, epsilon=epsilon)
        return loss.detach(), torch.autograd.grad(loss, weights, allow_unused=True)

    return step


def draws(n=8):
    return torch.randn(n, 3, 32, 32).cuda(), torch.randn(n, 3, 32, 32).cuda(), torch.rand(n, 1, 1, 1).cuda()


def vector(gradients):
    return torch.cat([g.flatten().double() for g in gradients if g is not None])


@pytest.fixture(autouse=True)
def true_float32():
    with torch.backends.cudnn.flags(allow_tf32=False):
        yield


def test_one_tensor_given_twice_is_one_in_the_graph():
    def step(x, y):
        return (x * y.exp()).sum()

    compiled = fastgan.compile(step)
    for _ in range(3):
        x = torch.randn(64, device="cuda")
        torch.testing.assert_close(compiled(x, x), step(x, x))
    graph = next(iter(compiled._variants.values()))[0].run
    assert graph._flat[0] is graph._flat[1]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("fused", [False, True])
def test_a_replayed_step_equals_an_eager_one(fused, precision):
    torch.manual_seed(0)
    network = fastgan.fuse(discriminator()) if fused else discriminator()
    compiled, eager = fastgan.compile(returning(network, precision)), returning(network, precision)
    exact = returning(copy.deepcopy(network).double())
    kept = None
    for _ in range(4):
        given = draws()
        got, want = compiled(*given)[1], eager(*given)[1]
        truth = vector(exact(*(x.double() for x in given))[1])
        errors = [float((vector(g) - truth).norm() / truth.norm()) for g in (got, want)]
        assert errors[0] <= max(2 * errors[1], 1e-5)
        if kept is not None:
            assert torch.equal(kept[0], kept[1]), "a replay changed what an earlier one returned"
        kept = got[0], got[0].clone()
    assert isinstance(next(iter(compiled._variants.values()))[0].run, CudaGraph)
    assert not compiled.why_eager


def test_preserved_restores_the_rng_state():
    """Also if none of the preserved tensors is on the device."""
    torch.cuda.manual_seed(5)
    want = torch.rand(3, device="cuda")
    torch.cuda.manual_seed(5)
    with preserved([]):
        torch.rand(3, device="cuda")
    assert torch.equal(torch.rand(3, device="cuda"), want)


def test_random_numbers_differ_in_each_replay_and_seeds_repeat_them():
    compiled = fastgan.compile(lambda x: x + torch.randn_like(x))
    x = torch.zeros(1000, device="cuda")
    compiled(x)
    torch.cuda.manual_seed(5)
    first = [compiled(x) for _ in range(3)]
    torch.cuda.manual_seed(5)
    again = [compiled(x) for _ in range(3)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])


def test_backward_inside_accumulates():
    network = discriminator()

    def step(x):
        loss = F.softplus(network(x)).mean()
        loss.backward()
        return loss.detach()

    x = draws()[0]
    step(x)
    once = vector([p.grad for p in network.parameters()])
    network.zero_grad()
    compiled = fastgan.compile(step)
    for times in (1, 2, 3):
        compiled(x)
        found = vector([p.grad for p in network.parameters()])
        assert float((found - times * once).norm() / (times * once).norm()) < 1e-4


def test_host_tensors_are_not_fixed_in_a_graph():
    compiled = fastgan.compile(lambda x, scale: x * scale)
    x = torch.ones(4, device="cuda")
    for value in (2.0, 3.0):
        assert float(compiled(x, torch.tensor(value))[0]) == value


def test_a_step_becomes_a_cuda_graph_if_the_compiler_fails(monkeypatch):
    def refuse(self, *given):
        raise NotImplementedError("no compiler")

    monkeypatch.setattr(fastgan.engine.CompiledStep, "_captured", refuse)
    network = discriminator()
    compiled, eager = fastgan.compile(returning(network)), returning(network)
    for _ in range(3):
        given = draws()
        torch.testing.assert_close(vector(compiled(*given)[1]), vector(eager(*given)[1]), rtol=1e-4, atol=1e-6)
    assert compiled.how == ["CUDA graph (compiler: NotImplementedError: no compiler today)"]
    assert not compiled.why_eager


@pytest.mark.parametrize(
    "step",
    [
        lambda x: x * x.mean().item(),
        lambda x: x[x > 0].sum(),
        lambda x: torch.zeros_like(x).index_put((x > 0.5,), x.sum()),
        lambda x: x * torch.tensor(2.0, device="cuda"),
        lambda x: x.cpu(),
    ],
    ids=["value", "size", "mask", "from the host", "to the host"],
)
def test_a_step_that_waits_for_the_gpu_is_refused_before_its_capture(step):
    x = torch.rand(8, device="cuda")
    compiled = fastgan.compile(step, mode="graph")
    with pytest.warns(UserWarning, match="runs eagerly: RuntimeError: it waits for the GPU"):
        torch.testing.assert_close(compiled(x), step(x))
    following = fastgan.compile(lambda x: x + 1, mode="graph")
    torch.testing.assert_close(following(x), x + 1)
    assert following.how == ["CUDA graph"]


def test_a_step_with_an_index_on_the_gpu_is_captured():
    indices = torch.tensor([2, 0], device="cuda")
    compiled = fastgan.compile(lambda x: x[indices], mode="graph")
    x = torch.rand(4, device="cuda")
    assert torch.equal(compiled(x), x[indices])
    assert compiled.how == ["CUDA graph"]


def test_mode_graph_uses_no_compiler(monkeypatch):
    monkeypatch.setattr(fastgan.engine.CompiledStep, "_captured", lambda *_: pytest.fail("compiled"))
    compiled = fastgan.compile(lambda x: x * 2, mode="graph")
    for value in (1.0, 2.0):
        assert float(compiled(torch.full((3,), value, device="cuda"))[0]) == 2 * value
    assert compiled.how == ["CUDA graph"]


def iterating(nan_at=(), **flags):
    """A trainer on the GPU with prepared eager steps, and its batches, of which those in `nan_at` are NaN."""
    torch.manual_seed(0)
    generator, discriminator = models.build("dcgan", resolution=32, channels=3, latent=16, width=8)
    discriminator = spectral_norm(discriminator, every="step")
    flags = {"latent": 16, "steps": 10**6, "batch": 8, "compile": "off", "log_every": 10**6, "sample_every": 10**6,
             "checkpoint_every": 10**6, "device": "cuda", "clip": 1.0} | flags  # fmt: skip
    trainer = Trainer(generator, discriminator, config=Config.from_flags(**flags))

    def images():
        source = torch.Generator().manual_seed(1)
        for i in range(1000):
            batch = torch.rand(8, 3, 32, 32, generator=source) * 2 - 1
            yield batch * math.nan if i in nan_at else batch

    batches = Batches(images(), trainer.state)
    trainer.steps, _ = prepare(trainer.state, batches)
    return trainer, batches


def tensors(trainer):
    """Everything that an iteration changes."""
    found = [t for network in trainer.state.networks.values() for t in (*network.parameters(), *network.buffers())]
    for update in trainer.state.updates.values():
        found += [value for moments in update.optimizer.state.values() for value in moments.values()]
        found += [update.skipped, update.in_a_row, *([] if update.scale is None else [update.scale])]
    return found


@pytest.mark.parametrize(
    "flags",
    [
        {"precision": "fp16"},
        {"optimizer": "rmsprop", "weight_clip": 0.1},
        {"r1_weight": 1.0, "penalty_interval": 2, "d_steps": 2},
        {"lr_schedule": "cosine", "lr_warmup": 5},
    ],
)
def test_captured_iterations_equal_eager_ones(flags):
    """Also where one is skipped, where a learning rate changes, and where the moments move."""
    with torch.backends.cudnn.flags(deterministic=True, allow_tf32=False):
        eager, captured = (iterating(nan_at=[8], **flags) for _ in range(2))
        graph = IterationGraph(captured[0].train_step, captured[0].state)
        captured[0]._graph = graph
        for i in range(30):
            for trainer, batches in (eager, captured):
                if i == 14:
                    trainer.state.back_off = 0.5
                    trainer.state.set_rates()
                if i == 22:
                    for update in trainer.state.updates.values():
                        for moments in update.optimizer.state.values():
                            moments.update({name: value.clone() for name, value in moments.items()})
                trainer.iterate(batches, Means())
            for one, other in zip(tensors(eager[0]), tensors(captured[0]), strict=True):
                torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-5)
    assert graph.reason == ""
    assert any(recorder.replays for recorder, _ in graph._variants.values())
    assert float(captured[0].state.updates["discriminator"].skipped) == 1


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
@pytest.mark.parametrize("loss", ["non-saturating", "wgan-gp"])
@pytest.mark.parametrize("mode", ["graph", "on"])
def test_compiled_training_equals_eager_training(loss, precision, mode):
    last = []
    for compile in ("off", mode):
        torch.manual_seed(0)
        networks = models.build("dcgan", resolution=32, channels=3, latent=16, width=16)
        config = Config.from_flags(
            latent=16, steps=12, batch=16, compile=compile, precision=precision, log_every=12, r1_weight=0.1, d_steps=1
        )
        trainer = Trainer(*networks, loss, config)
        source = torch.Generator().manual_seed(1)
        images = [torch.rand(16, 3, 32, 32, generator=source) * 2 - 1 for _ in range(12)]
        last.append(trainer.fit(iter(images)))
        assert trainer.steps.mode == compile
        assert "compiler:" not in trainer.steps.about
        assert (trainer._graph is not None) == (compile != "off")
        assert trainer._graph is None or trainer._graph.reason == ""
    assert all(math.isfinite(v) for v in last[1].values())
    assert (
        abs(last[0]["loss/discriminator"] - last[1]["loss/discriminator"])
        < 0.1 * abs(last[0]["loss/discriminator"]) + 0.02
    )


@pytest.mark.parametrize("compile", ["off", "graph"])
def test_nothing_in_an_iteration_waits_for_the_gpu(no_waiting, compile):
    networks = models.build("dcgan", resolution=32, channels=3, latent=16, width=16)
    trainer = Trainer(*networks, "wgan-gp", Config.from_flags(latent=16, batch=16, d_steps=1, compile=compile))
    batches = Batches([torch.rand(16, 3, 32, 32, device="cuda") * 2 - 1 for _ in range(16)], trainer.state)
    means = Means()
    trainer.prepare(batches)
    for _ in range(8):  # until an iteration that is one CUDA graph is captured
        trainer.iterate(batches, means)
    with no_waiting():
        for _ in range(3):
            trainer.iterate(batches, means)
