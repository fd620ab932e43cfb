"""Whether steps are compiled: as asked, as measured, as a resumed run did before; and nothing trained moves by it."""

import json
from dataclasses import replace

import pytest
import torch
from fastgan.train.pace import Pace
from torch import nn

from fastgan import Config, Trainer, models
from fastgan.errors import UsageError
from fastgan.testing.batches import Resumable
from fastgan.train import compile_policy, pace
from fastgan.train.compile_policy import Steps
from fastgan.train.config import check_resumed

SMALL = {"latent": 8, "batch": 8, "steps": 4, "log_every": 2, "checkpoint_every": 2, "sample_every": 4}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FASTGAN_CACHE", str(tmp_path_factory.mktemp("cache")))
    torch._dynamo.reset()


class Images(Resumable):
    """The same batches every time, from where a run left off."""

    def batch(self, source):
        return torch.rand(8, 1, 28, 28, generator=source) * 2 - 1


def trained(compile="auto", out=None, resume=False, discriminator=None, **options):
    torch.manual_seed(0)
    generator, own = models.build("dcgan", resolution=28, channels=1, latent=8, width=4, d_norm="spectral")
    game = options.pop("game", "non-saturating")
    trainer = Trainer(
        generator, discriminator or own, game, Config.from_flags(**SMALL | options, compile=compile), out=out
    )
    trainer.fit(Images(), resume=resume)
    return trainer


def weights(trainer):
    parts = (trainer.generator, trainer.discriminator, trainer.ema.module)
    return torch.cat([v.flatten() for part in parts for v in part.state_dict().values()])


def test_a_short_run_is_not_compiled_and_says_why(capfd):
    trainer = trained()
    assert trainer.steps.compiled is False
    assert "steps run eagerly: 0 s are to come, and compiling takes at least 40 s" in capfd.readouterr().err


@pytest.mark.parametrize("saving", [0.3, -0.1])
def test_where_it_may_repay_it_is_tried_and_the_faster_one_kept(saving, monkeypatch, capfd):
    monkeypatch.setattr(compile_policy, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(compile_policy.Choice, "_alternating", lambda self, one, other: (0.1, 0.1 * (1 - saving)))
    trainer = trained()
    assert trainer.steps.compiled is (saving > 0)
    said = capfd.readouterr().err
    assert f"steps run {'compiled' if saving > 0 else 'eagerly'}" in said
    assert f"100.0 ms an iteration, {100 * (1 - saving):.1f} ms compiled" in said
    # The next run on this machine knows.
    (kept,) = json.loads(pace._file().read_text()).values()
    assert kept["saving"] == pytest.approx(saving)
    monkeypatch.setattr(compile_policy.Choice, "_compiled", lambda self, way: pytest.fail("compiled again"))
    if saving < 0:
        assert trained().steps.compiled is False


def test_what_is_known_decides(monkeypatch):
    monkeypatch.setattr(pace, "recall", lambda key: Pace(saving=0.5, seconds=1e9))
    monkeypatch.setattr(compile_policy, "LEAST_SECONDS", 0.0)
    assert trained().steps.compiled is False


def test_measuring_changes_nothing_that_is_trained(monkeypatch):
    plain = weights(trained("off"))
    monkeypatch.setattr(compile_policy, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(compile_policy.Choice, "_alternating", lambda self, one, other: (0.1, 0.2))
    assert torch.equal(weights(trained("auto", penalty_interval=2)), plain)


def test_a_lazy_part_counts_as_often_as_it_comes(monkeypatch):
    monkeypatch.setattr(compile_policy.Choice, "_time", lambda self, run: 9.0 if run.keywords["lazy"] else 1.0)
    taken = compile_policy.Choice.__new__(compile_policy.Choice)
    assert taken._mean(print, True, 4) == 0.75 * 1 + 0.25 * 9
    assert taken._mean(print, True, 1) == 9
    assert taken._mean(print, False, 4) == 1


@pytest.mark.parametrize(
    "options", [{"loss": "wgan-gp", "d_steps": 2}, {"r1_weight": 1.0, "penalty_interval": 2, "accumulate": 2}]
)
def test_compiled_training_is_eager_training(options):
    compiled, eager = (trained(compile, **options) for compile in ("on", "off"))
    assert compiled.steps.compiled
    torch.testing.assert_close(weights(compiled), weights(eager), rtol=1e-3, atol=1e-4)


def test_a_resumed_run_goes_on_as_it_began_bit_for_bit(tmp_path):
    whole = trained("on", tmp_path / "whole")
    trained("on", tmp_path / "run", steps=2)
    # Left to itself, so short a rest would not be compiled.
    resumed = trained("auto", tmp_path / "run", resume=True)
    assert resumed.steps.compiled
    assert torch.equal(weights(whole), weights(resumed))
    assert json.loads((tmp_path / "run" / "config.json").read_text())["compiled"] == "on"


class Peeking(nn.Module):
    """Decides by a value, which no graph can."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(784, 1))

    def forward(self, x):
        y = self.net(x)
        return y if y.mean().item() > -1e9 else -y


@pytest.mark.parametrize(
    ("asked", "before", "way"),
    [
        ("off", "graph", "off"), ("off", "on", "off"), ("on", None, "on"), ("on", "off", "on"), ("on", "graph", "on"),
        ("auto", "on", "on"), ("auto", "off", "off"), ("auto", "graph", "off"), ("auto", None, "off"),
        ("auto", True, "on"), ("auto", False, "off"),
    ],
)  # fmt: skip
def test_what_is_asked_and_what_was_before(asked, before, way, monkeypatch):
    """On the CPU, where there are no CUDA graphs to go on with, and a run as short as these is not compiled."""
    made = compile_policy.Choice.made
    monkeypatch.setattr(compile_policy.Choice, "made", lambda self, asked, _: made(self, asked, before))
    monkeypatch.setattr(compile_policy.Choice, "_compiled", lambda self, way: (Steps(*eager(self), way, ""), 0.0))
    assert trained(asked).steps.way == way


def eager(chosen):
    return chosen._players.d_step, chosen._players.g_step


@pytest.mark.parametrize("failed", [1, 2])
def test_a_compiler_that_fails_is_not_called_compiled(failed, monkeypatch, capfd):
    """On a GPU its steps become recorded ones; where it fails at one of both, the other is compiled all the same."""
    hows = iter(["CUDA graph (compiler: no)"] * failed + ["Dynamo"])

    class Compiled:
        def __init__(self, step, mode):
            self.step, self.how, self.why_eager, self.seconds = step, [next(hows)], "", 7.0

        def __call__(self, *args, **kwargs):
            return self.step(*args, **kwargs)

    monkeypatch.setattr(compile_policy, "CompiledStep", Compiled)
    monkeypatch.setattr(compile_policy, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(compile_policy.Choice, "_alternating", lambda self, one, other: (0.1, 0.05))
    assert trained().steps.way == {1: "on", 2: "graph"}[failed]
    words = {1: "steps run compiled, captured by CUDA graph (compiler: no), Dynamo", 2: "as CUDA graphs (compiler: no)"}
    assert words[failed] in capfd.readouterr().err
    (kept,) = json.loads(pace._file().read_text()).values()
    assert kept == {"saving": {1: 0.5, 2: 0.0}[failed], "seconds": 14.0}


def test_graphs_that_memory_does_not_hold_are_done_without(monkeypatch, capfd):
    def full(self, *given):
        raise torch.OutOfMemoryError("no more")

    monkeypatch.setattr(compile_policy.CompiledStep, "_build", full)
    assert trained("on").steps.way == "off"
    assert "steps run eagerly: the GPU's memory does not hold them as graphs too" in capfd.readouterr().err


def test_another_way_may_be_asked_of_a_run_that_goes_on(tmp_path):
    """One that began with CUDA graphs goes on where there are none."""
    trained("off", tmp_path / "run", steps=2)
    path = tmp_path / "run" / "config.json"
    facts = json.loads(path.read_text())
    facts["config"]["compile"] = facts["compiled"] = "graph"
    path.write_text(json.dumps(facts))
    check_resumed(replace(Config.from_dict(facts["config"]), compile="off"), facts, 1)
    assert trained("off", tmp_path / "run", resume=True).steps.way == "off"


def test_graphs_are_of_a_gpu():
    with pytest.raises(UsageError, match="compile: graph records CUDA graphs, and the device is cpu"):
        trained("graph", device="cpu")


def test_on_a_gpu_recorded_steps_are_what_compiled_ones_have_to_beat(monkeypatch, capfd):
    """As on a GPU, where a graph of 0.02 s is recorded of an eager step of 0.1 s, and a compiled one takes 0.05 s."""
    took = {"off": 0.1, "graph": 0.02, "on": 0.05}
    taken = []

    def compiled(self, way):
        taken.append(way)
        return Steps(self._players.d_step, self._players.g_step, way, f"by {way}"), 0.0

    def made(self, asked, before):
        self._device = torch.device("cuda")
        return real(self, asked, before)

    real = compile_policy.Choice.made
    monkeypatch.setattr(compile_policy.Choice, "made", made)
    monkeypatch.setattr(compile_policy.Choice, "_compiled", compiled)
    monkeypatch.setattr(compile_policy.Choice, "_seconds", lambda self, steps: took[steps.way])
    monkeypatch.setattr(
        compile_policy.Choice, "_alternating", lambda self, *pair: tuple(took[steps.way] for steps in pair)
    )
    monkeypatch.setattr(compile_policy.Choice, "_key", lambda self: "a key")
    assert trained().steps.way == "graph"
    assert taken == ["graph"], "4 steps do not repay a compiler"
    monkeypatch.setattr(compile_policy, "LEAST_SECONDS", 0.0)
    assert trained().steps.way == "graph"
    assert taken == ["graph", "graph", "on"]
    assert (
        "by graph: 100.0 ms an iteration eagerly, 20.0 ms as graphs: 20.0 ms an iteration, 50.0 ms"
        in capfd.readouterr().err
    )


def test_what_cannot_be_compiled_trains_eagerly_and_says_why(capfd):
    trainer = trained("on", discriminator=Peeking())
    assert trainer.steps.compiled is False
    assert "steps run eagerly: the discriminator's step cannot be compiled: " in capfd.readouterr().err
