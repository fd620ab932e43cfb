"""A whole iteration as one CUDA graph equals the eager one, with a stand-in for CUDA graphs on the CPU."""

import contextlib
import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fastgan import Config, Trainer, models
from fastgan.engine import cuda_graphs
from fastgan.nn import spectral_norm
from fastgan.nn.spectral import SpectralNorm
from fastgan.regularization import Regularization
from fastgan.tasks import Generation, Task
from fastgan.train.compile_policy import Steps
from fastgan.train.data import Batches
from fastgan.train.iteration import IterationGraph, why_not
from fastgan.train.logging import Means
from fastgan.train.prepare import prepare

STEPS = 40


def trainer(**flags):
    torch.manual_seed(0)
    sizes = {"resolution": 8, "channels": 1, "latent": 4, "width": 8}
    if "path_length" in flags:
        generator, discriminator = models.build("stylegan2", mapping_layers=2, **sizes)
        for layer in generator.modules():
            layer.use_noise = False  # both trainers would draw it from the same global random numbers
    else:
        generator, discriminator = models.build("mlp", **sizes)
        discriminator = spectral_norm(discriminator, every="step")
    flags = {"steps": STEPS, "batch": 4, "compile": "off", "log_every": STEPS, "sample_every": STEPS,
             "checkpoint_every": STEPS, "clip": 0.5, "ema_images": 8} | flags  # fmt: skip
    return Trainer(generator, discriminator, flags.pop("loss", "non-saturating"), Config.from_flags(**flags))


def images(nan_at=()):
    """Batches of which those listed in `nan_at` are NaN."""
    source = torch.Generator().manual_seed(1)
    for i in range(1000):
        batch = torch.rand(4, 1, 8, 8, generator=source) * 2 - 1
        yield batch * math.nan if i in nan_at else batch


def tensors(trainer):
    """Everything that an iteration changes."""
    found = [t for network in trainer.state.networks.values() for t in (*network.parameters(), *network.buffers())]
    for update in trainer.state.updates.values():
        found += [value for moments in update.optimizer.state.values() for value in moments.values()]
        found += [value for name, value in update.tensors().items() if name != "scale" or update.scale is not None]
    return [*found, *trainer.task.tensors().values()]


def fresh_norms(trainer):
    """The flags by which spectral norms iterate once a step: they are Python's, not a tensor's."""
    return [norm.slot.fresh for norm in trainer.discriminator.modules() if isinstance(norm, SpectralNorm)]


def set_fresh_norms(trainer, flags):
    norms = (norm for norm in trainer.discriminator.modules() if isinstance(norm, SpectralNorm))
    for norm, fresh in zip(norms, flags, strict=True):
        norm.slot.fresh = fresh


class Replayed:
    """Does what a CUDA graph does: a replay changes tensors, with Python values as they were at the capture."""

    def __init__(self, trainer, run):
        self.trainer, self.run, self.replays = trainer, run, 0
        self.fresh, self.result = fresh_norms(trainer), torch.zeros(0)

    def replay(self):
        self.replays += 1
        before = fresh_norms(self.trainer)
        set_fresh_norms(self.trainer, self.fresh)
        value = self.run()
        self.result.resize_(value.shape).copy_(value)
        set_fresh_norms(self.trainer, before)


@pytest.fixture
def captures(monkeypatch):
    """captures(trainer): the graphs of its captured iterations. A capture runs Python and changes no tensor."""

    def watch(trainer):
        graphs = []

        pools = []

        def recorded(device, run, pool=None):
            assert pool == "pool"
            graph = Replayed(trainer, run)
            own = tensors(trainer)
            kept, rng = [tensor.detach().clone() for tensor in own], torch.get_rng_state()
            run()
            with torch.no_grad():
                for tensor, value in zip(own, kept, strict=True):
                    tensor.copy_(value)
            torch.set_rng_state(rng)
            graphs.append(graph)
            return graph, graph.result

        monkeypatch.setattr(cuda_graphs, "recorded", recorded)
        monkeypatch.setattr(
            torch.cuda, "graph_pool_handle", lambda: pytest.fail("two pools") if pools else pools.append(1) or "pool"
        )
        monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
        return graphs

    return watch


def started(trainer, nan_at=()):
    """The batches of a trainer whose steps are prepared."""
    batches = Batches(images(nan_at), trainer.state)
    trainer.steps, _ = prepare(trainer.state, batches)
    return batches


@pytest.mark.parametrize(
    ("flags", "graphs"),
    [
        ({}, 1),
        ({"precision": "fp16", "optimizer": "rmsprop"}, 1),
        ({"loss": "wgan-gp", "d_steps": 2, "accumulate": 2}, 1),
        ({"r1_weight": 1.0, "penalty_interval": 3, "historical_averaging": 0.1}, 2),
        ({"augment": "color+cutout", "instance_noise": 0.1, "weight_clip": 0.05}, 1),
        # A rate that changes at each step is read by the replays: one graph, not one for each value.
        ({"lr_schedule": "cosine", "lr_warmup": 5}, 1),
        ({"lr_schedule": "linear", "optimizer": "rmsprop"}, 1),
        # The mean path length is read and moved by the graph of the steps that have it.
        (
            {
                "path_length": 2.0,
                "path_length_interval": 2,
                "style_mixing": 0.9,
                "r1_weight": 1.0,
                "penalty_interval": 4,
                "ema_rampup": 0.05,
            },
            3,
        ),
    ],
)
def test_captured_iterations_are_the_eager_ones_bit_for_bit(captures, flags, graphs):
    eager, captured = trainer(**flags), trainer(**flags)
    made = captures(captured)
    each = {"eager": (eager, started(eager)), "captured": (captured, started(captured))}
    captured._graph = IterationGraph(captured.train_step, captured.state)
    for i in range(30):
        logs = []
        for one, batches in each.values():
            means = Means()
            one.iterate(batches, means)
            logs.append(means.fetch(one.state.world))
        assert logs[0] == logs[1], i
        assert all(map(torch.equal, tensors(eager), tensors(captured))), i
        assert fresh_norms(eager) == fresh_norms(captured)
    assert captured._graph.reason == ""
    assert len(made) == graphs
    # Each variant runs eagerly three times, and three times more once the moments are there if it came before.
    assert sum(graph.replays for graph in made) >= 30 - 4 * graphs


def test_skipped_and_watched_iterations_and_changed_updates(captures):
    """A NaN batch is skipped in a replay too; an iteration that is watched is eager; other learning rates and moments
    are captured anew."""
    eager, captured = trainer(precision="fp16"), trainer(precision="fp16")
    made = captures(captured)
    each = [(eager, started(eager, nan_at=[8])), (captured, started(captured, nan_at=[8]))]
    captured._graph = IterationGraph(captured.train_step, captured.state)
    for i in range(40):
        for one, batches in each:
            if i == 14:
                one.state.back_off = 0.5
                one.state.set_rates()
            if i == 22:
                for update in one.state.updates.values():
                    for moments in update.optimizer.state.values():
                        moments.update({name: value.clone() for name, value in moments.items()})
            if i == 11:  # logged, so that norms of each weight are watched
                one.train_step(one._d_inputs(batches), one._g_inputs(), watch=True)
            else:
                one.iterate(batches, Means())
        assert all(map(torch.equal, tensors(eager), tensors(captured))), i
    # One eager iteration without moments, then three before each capture; the watched one is no replay.
    assert [graph.replays for graph in made] == [14 - 4 - 1, 22 - 14 - 3, 40 - 22 - 3]
    assert float(captured.state.updates["discriminator"].skipped) == 1
    assert captured.state.updates["discriminator"].watched is not None


def test_optimizer_hooks_run_in_eager_iterations_and_captures(captures):
    """Spectral norms that iterate once a step learn of it by such a hook; a replay repeats what the capture found."""
    captured = trainer()
    made, calls = captures(captured), []
    captured.state.updates["discriminator"].optimizer.register_step_post_hook(lambda *_: calls.append(len(made)))
    batches = started(captured)
    captured._graph = IterationGraph(captured.train_step, captured.state)
    flags = []
    for _ in range(10):
        captured.iterate(batches, Means())
        flags.append(fresh_norms(captured))
    assert calls[:5] == [0] * 5  # four eager iterations and the capture
    assert len(set(map(tuple, flags))) == 1


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("no more"), "the GPU's memory does not hold its graph"),
        (RuntimeError("operation not permitted when stream is capturing\nmore"), "operation not permitted when"),
        (NotImplementedError("no such kernel"), "no such kernel"),
    ],
)
def test_a_failed_capture_falls_back_to_eager_iterations(captures, monkeypatch, caplog, error, reason, late):
    """late: after the first of the batches whose gradients are averaged, which are of no use then."""
    eager, captured = (trainer(accumulate=2) for _ in range(2))
    captures(captured)
    tried = []

    def fail(device, run, pool=None):
        tried.append(device)
        if late:
            captured.state.updates["discriminator"].add(torch.tensor(1e9), [torch.full_like(w, 1e9) for w in own])
        raise error

    own = list(captured.discriminator.parameters())

    monkeypatch.setattr(cuda_graphs, "recorded", fail)
    each = [(eager, started(eager)), (captured, started(captured))]
    graph = captured._graph = IterationGraph(captured.train_step, captured.state)
    captured._step_graphs = steps = dataclasses.replace(captured.steps)
    for i in range(10):
        for one, batches in each:
            one.iterate(batches, Means())
        assert all(map(torch.equal, tensors(eager), tensors(captured))), i
    assert len(tried) == 1
    assert graph.reason.startswith(reason)
    # Then each step may be a graph of its own.
    assert captured.steps is steps
    assert captured._graph is None
    assert [m for m in caplog.messages if m.startswith("an iteration cannot be one CUDA graph: " + reason)]


def test_inputs_of_many_kinds_are_not_captured(captures, monkeypatch):
    """Such as a task whose noise has another Python number at each step."""
    eager, captured = trainer(), trainer()
    made = captures(captured)
    for one in (eager, captured):
        draw = one.task.draw
        monkeypatch.setattr(one.task, "draw", lambda *args, draw=draw: draw(*args) | {"step": args[-1]}, raising=True)
    each = [(eager, started(eager)), (captured, started(captured))]
    graph = captured._graph = IterationGraph(captured.train_step, captured.state)
    for _ in range(20):
        for one, batches in each:
            one.iterate(batches, Means())
    assert all(map(torch.equal, tensors(eager), tensors(captured)))
    assert graph.reason == "its inputs come in more than 12 kinds"
    assert captured.steps.mode == "off"  # a compiled step would be compiled for each kind
    assert made == []


class OwnUpdate(Task):
    def update(self, loss, batch, images, random):
        pass


@pytest.mark.parametrize(
    ("changed", "flags", "reason"),
    [
        ({}, {}, ""),
        ({"device": torch.device("cpu")}, {}, "the device is cpu"),
        ({"world": SimpleNamespace(size=2)}, {}, "2 ranks exchange gradients"),
        ({"steps": Steps(None, None, "off", "")}, {}, "its steps run eagerly"),
        ({}, {"grow_images": 10}, "networks that grow change between iterations"),
        ({"task": OwnUpdate(nn.Identity(), nn.Identity())}, {}, "OwnUpdate.update runs after each step"),
        ({}, {"augment": "color", "ada_target": 0.6}, "adaptive augmentation depends on the discriminator's last step"),
        ({}, {"history": 64}, "the history of fakes depends on the discriminator's last step"),
        ({}, {"unroll": 2}, "unrolling depends on the discriminator's last step"),
    ],
)
def test_reasons_against_a_graph_of_an_iteration(changed, flags, reason):
    config = Config.from_flags(**flags)
    eager = Steps(None, None, "off", "")
    given = {
        "device": torch.device("cuda"), "world": SimpleNamespace(size=1), "steps": Steps(None, None, "on", "", eager),
        "task": Generation(
            nn.Identity(), nn.Identity(), config.adversarial, config.loss,
            Regularization(config.regularization, torch.device("cpu")),
        ),
    } | changed  # fmt: skip
    state = SimpleNamespace(device=given["device"], world=given["world"], config=config, task=given["task"])
    assert why_not(state, given["steps"]) == reason


def test_an_error_of_an_iteration_is_no_failed_capture(captures):
    """It is raised: the discriminator may have moved, and nothing may run twice."""
    one = trainer()
    captures(one)
    batches = started(one)
    one._graph = IterationGraph(one.train_step, one.state)

    def fail(batch, noise):
        raise RuntimeError("out of ideas")

    one.iterate(batches, Means())
    one.steps.generator = fail
    with pytest.raises(RuntimeError, match="out of ideas"):
        one.iterate(batches, Means())
    assert one._graph.reason == ""
