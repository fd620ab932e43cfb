"""Whether steps are compiled: as asked, as measured, or as in the resumed run. No decision changes training."""

import json
import logging
import re
import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fastgan import Config, Trainer, models
from fastgan._util import autotune
from fastgan.errors import UsageError
from fastgan.testing.batches import Resumable
from fastgan.train import compile_policy
from fastgan.train.compile_policy import CompilePolicy, Steps
from fastgan.train.config import check_resumed

#: Of the networks of `trained`.
LAYERS = 10
SMALL = {"latent": 8, "batch": 8, "steps": 4, "log_every": 2, "checkpoint_every": 2, "sample_every": 4}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FASTGAN_CACHE", str(tmp_path_factory.mktemp("cache")))
    torch._dynamo.reset()


@pytest.fixture
def messages(caplog):
    """Returns what was logged so far."""
    caplog.set_level(logging.INFO)
    return lambda: "\n".join(caplog.messages)


class EagerCompiledStep:
    """Stands in for CompiledStep: calls the step, and says that it was captured as `how` says, in 7 seconds."""

    how_next = iter(())
    SECONDS = 7.0

    def __init__(self, step, mode, cuda_graph=True):
        self.step, self.why_eager, self.seconds = step, "", self.SECONDS
        self.how = [next(self.how_next, "Dynamo")] if cuda_graph else []

    def __call__(self, *args, **kwargs):
        return self.step(*args, **kwargs)


@pytest.fixture(params=["stand-in", pytest.param("Inductor", marks=pytest.mark.full)])
def compiler(request, monkeypatch):
    """PyTorch's compiler, and by default a stand-in for it."""
    if request.param == "stand-in":
        monkeypatch.setattr(compile_policy, "CompiledStep", EagerCompiledStep)
    return request.param


class Images(Resumable):
    """The same batches every time, resumable."""

    def batch(self, source):
        return torch.rand(8, 1, 28, 28, generator=source) * 2 - 1


def trained(compile="auto", out=None, resume=False, discriminator=None, **options):
    torch.manual_seed(0)
    generator, own = models.build("dcgan", resolution=28, channels=1, latent=8, width=4, d_norm="spectral")
    loss = options.pop("loss", "non-saturating")
    config = Config.from_flags(**SMALL | options, compile=compile)
    trainer = Trainer(generator, discriminator or own, loss, config, out=out)
    trainer.fit(Images(), resume=resume)
    return trainer


def weights(trainer):
    parts = (trainer.generator, trainer.discriminator, trainer.ema.module)
    return torch.cat([v.flatten() for part in parts for v in part.state_dict().values()])


def free(monkeypatch):
    """Compiling is expected to cost nothing."""
    monkeypatch.setattr(compile_policy, "BASE_SECONDS", 0.0)
    monkeypatch.setattr(compile_policy, "LAYER_SECONDS", 0.0)


def store_file():
    """The file of the measurements of compilation."""
    (path,) = autotune.directory("compile times").glob("*.json")
    return path


def measured():
    """The only measurement in that file."""
    (value,) = autotune.read(store_file())[1].values()
    return value


def test_a_short_run_is_not_compiled_and_the_reason_is_logged(messages):
    trainer = trained()
    assert trainer.steps.compiled is False
    assert re.search(r"steps run eagerly: 0 s remain, and compiling takes \d\d s to save 5%, as estimated", messages())
    assert "compiling both steps" not in messages()


@pytest.mark.parametrize("saving", [0.3, -0.1])
def test_the_faster_way_is_kept_where_compiling_may_amortize(saving, compiler, monkeypatch, messages):
    free(monkeypatch)
    monkeypatch.setattr(CompilePolicy, "_alternating", lambda self, one, other: (0.1, 0.1 * (1 - saving)))
    trainer = trained()
    assert trainer.steps.compiled is (saving > 0)
    assert f"steps run {'compiled' if saving > 0 else 'eagerly'}" in messages()
    assert f"100.0 ms an iteration, {100 * (1 - saving):.1f} ms compiled" in messages()
    assert "compiling both steps, which takes about 0 s: to save 5% of" in messages()
    # The next run on this hardware reads the measurement.
    assert measured()["saving"] == pytest.approx(saving)
    monkeypatch.setattr(CompilePolicy, "_compiled", lambda self, mode: pytest.fail("compiled again"))
    if saving < 0:
        assert trained().steps.compiled is False


def test_a_stored_measurement_decides(monkeypatch):
    monkeypatch.setattr(autotune.Store, "get", lambda self, key: {"saving": 0.5, "seconds": 1e9})
    free(monkeypatch)
    assert trained().steps.compiled is False


def stored(monkeypatch):
    """Run once, so that a measurement is stored."""
    free(monkeypatch)
    monkeypatch.setattr(compile_policy, "CompiledStep", EagerCompiledStep)
    monkeypatch.setattr(CompilePolicy, "_alternating", lambda self, one, other: (0.1, 0.05))
    assert trained().steps.compiled is True
    assert measured() == {"saving": 0.5, "seconds": 14.0, "layers": LAYERS}


def test_the_longest_compilation_counts(monkeypatch):
    """Compiling again is fast while the compiler's own cache has the step."""
    stored(monkeypatch)
    monkeypatch.setattr(EagerCompiledStep, "SECONDS", 0.5)
    monkeypatch.setattr(CompilePolicy, "_seconds", lambda self, steps: 1000.0)
    assert trained().steps.compiled is True
    assert measured()["seconds"] == 14.0


@pytest.mark.parametrize(
    ("others", "saving", "cost"),
    [
        ([], 0.05, 20 + 3 * 12),
        ([{"saving": 0.35, "seconds": 60, "layers": 6}, {"saving": -0.1, "seconds": 12, "layers": 12}], 0.1, 120),
        ([{"saving": -0.3, "seconds": 60, "layers": 6}], 0.0, 120),
        ([{"saving": 0.15, "seconds": 60}, {"saving": "much", "seconds": 60}, {}], 0.1, 20 + 3 * 12),  # older, damaged
    ],
)
def test_what_is_expected_of_networks_that_were_not_compiled_yet(others, saving, cost, monkeypatch):
    policy = CompilePolicy.__new__(CompilePolicy)
    policy._device = torch.device("cpu")
    policy.__dict__["_store"] = SimpleNamespace(all=lambda: others)
    monkeypatch.setattr(CompilePolicy, "_layers", 12)
    assert policy._expected() == pytest.approx((saving, cost))


def test_400_steps_that_would_save_5_seconds_are_not_compiled(monkeypatch):
    """0.3 s an iteration: 120 s remain, of which compiling would have saved 4 % and taken 68 s."""
    monkeypatch.setattr(CompilePolicy, "_seconds", lambda self, steps: 0.3 * 100)  # of the 4 steps here
    monkeypatch.setattr(CompilePolicy, "_compiled", lambda self, mode: pytest.fail("compiled"))
    assert trained().steps.compiled is False
    # Nor are 15 minutes, whose 5 % are less than twice the 50 s that are estimated; an hour is.
    monkeypatch.setattr(CompilePolicy, "_seconds", lambda self, steps: 900 / 4)
    assert trained().steps.compiled is False
    monkeypatch.setattr(CompilePolicy, "_seconds", lambda self, steps: 3600 / 4)
    with pytest.raises(pytest.fail.Exception, match="compiled"):
        trained()


def test_the_time_of_preparing_counts_in_the_seconds_and_not_in_the_speed(monkeypatch, messages):
    monkeypatch.setattr(compile_policy, "CompiledStep", EagerCompiledStep)
    decide = CompilePolicy.decide
    monkeypatch.setattr(CompilePolicy, "decide", lambda self, *args: time.sleep(0.5) or decide(self, *args))
    trainer = trained("on", log_every=1)
    first, second = trainer.state.rows[:2]
    assert first["seconds"] > 0.5
    assert first["speed/images_per_second"] > 8 / 0.5
    assert second["seconds"] - first["seconds"] < 0.5
    assert re.search(r"compiling both steps, which takes about \d\d s: as asked for", messages())


def test_measurements_of_two_networks_are_kept_under_two_keys(monkeypatch):
    stored(monkeypatch)
    monkeypatch.setattr(CompilePolicy, "_seconds", lambda self, steps: 1000.0)
    trained(discriminator=nn.Sequential(nn.Flatten(), nn.Linear(784, 1)))
    assert len(autotune.read(store_file())[1]) == 2


@pytest.mark.parametrize("content", ["", "[1, 2]", "{", '{"a": 3}', "null"])
def test_a_damaged_file_is_measured_again(content, monkeypatch):
    stored(monkeypatch)
    store_file().write_text(content)
    with pytest.warns(RuntimeWarning, match="cannot be read, so compile times are measured again"):
        assert trained().steps.compiled is True
    assert measured() == {"saving": 0.5, "seconds": 14.0, "layers": LAYERS}


@pytest.mark.parametrize("entry", [{}, {"saving": 1}, {"saving": None, "seconds": "long"}])
def test_a_damaged_entry_is_measured_again(entry, monkeypatch):
    stored(monkeypatch)
    content = json.loads(store_file().read_text())
    content["measurements"] = dict.fromkeys(content["measurements"], entry)
    store_file().write_text(json.dumps(content))
    assert trained().steps.compiled is True
    assert measured() == {"saving": 0.5, "seconds": 14.0, "layers": LAYERS}


def test_measuring_does_not_change_training(compiler, monkeypatch):
    plain = weights(trained("off"))
    free(monkeypatch)
    monkeypatch.setattr(CompilePolicy, "_alternating", lambda self, one, other: (0.1, 0.2))
    assert torch.equal(weights(trained("auto", penalty_interval=2)), plain)


def test_lazy_steps_count_as_often_as_they_come(monkeypatch):
    monkeypatch.setattr(CompilePolicy, "_time", lambda self, run: 9.0 if run.args[1]["lazy"] else 1.0)
    policy = CompilePolicy.__new__(CompilePolicy)
    assert policy._mean(print, ({}, {"lazy": True}), 4) == 0.75 * 1 + 0.25 * 9
    assert policy._mean(print, ({}, {"lazy": True}), 1) == 9
    assert policy._mean(print, ({}, {"lazy": False}), 1) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "wgan-gp", "d_steps": 2},
        pytest.param({"r1_weight": 1.0, "penalty_interval": 2, "accumulate": 2}, marks=pytest.mark.full),
    ],
)
def test_compiled_training_equals_eager_training(options):
    compiled, eager = (trained(compile, **options) for compile in ("on", "off"))
    assert compiled.steps.compiled
    torch.testing.assert_close(weights(compiled), weights(eager), rtol=1e-3, atol=1e-4)


def test_a_resumed_run_keeps_its_mode_bit_for_bit(compiler, tmp_path):
    whole = trained("on", tmp_path / "whole")
    trained("on", tmp_path / "run", steps=2)
    # By itself, a run of so few remaining steps would not be compiled.
    resumed = trained("auto", tmp_path / "run", resume=True)
    assert resumed.steps.compiled
    assert torch.equal(weights(whole), weights(resumed))
    assert json.loads((tmp_path / "run" / "config.json").read_text())["compiled"] == "on"


class Branching(nn.Module):
    """Branches on a value of a tensor, which no graph can."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(784, 1))

    def forward(self, x):
        y = self.net(x)
        return y if y.mean().item() > -1e9 else -y


@pytest.mark.parametrize(
    ("asked", "before", "mode"),
    [
        ("off", "graph", "off"), ("off", "on", "off"), ("on", None, "on"), ("on", "off", "on"), ("on", "graph", "on"),
        ("auto", "on", "on"), ("auto", "off", "off"), ("auto", "graph", "off"), ("auto", None, "off"),
        ("auto", True, "on"), ("auto", False, "off"),
    ],
)  # fmt: skip
def test_the_option_and_the_mode_before(asked, before, mode, monkeypatch):
    """On the CPU, which has no CUDA graphs, and where a run as short as these is not compiled."""
    decide = CompilePolicy.decide
    monkeypatch.setattr(CompilePolicy, "decide", lambda self, asked, _: decide(self, asked, before))
    monkeypatch.setattr(CompilePolicy, "_compiled", lambda self, mode: (eager(self, mode), 0.0))
    assert trained(asked).steps.mode == mode


def eager(policy, mode, about=""):
    """Eager steps that count as those of a mode."""
    return Steps(policy._steps.discriminator, policy._steps.generator, mode, about)


@pytest.mark.parametrize("failed", [1, 2])
def test_a_failed_compilation_is_not_called_compiled(failed, monkeypatch, messages):
    """On a GPU a step that cannot be compiled becomes a CUDA graph; the other is compiled all the same."""
    how = iter(["CUDA graph (compiler: no)"] * failed + ["Dynamo"])
    monkeypatch.setattr(EagerCompiledStep, "how_next", how)
    monkeypatch.setattr(compile_policy, "CompiledStep", EagerCompiledStep)
    free(monkeypatch)
    monkeypatch.setattr(CompilePolicy, "_alternating", lambda self, one, other: (0.1, 0.05))
    assert trained().steps.mode == {1: "on", 2: "graph"}[failed]
    about = {1: "steps run compiled, captured by CUDA graph (compiler: no), Dynamo", 2: "as CUDA graphs (compiler: no)"}
    assert about[failed] in messages()
    assert measured() == {"saving": {1: 0.5, 2: 0.0}[failed], "seconds": 14.0, "layers": LAYERS}


def test_steps_run_eagerly_where_memory_does_not_hold_graphs(monkeypatch, messages):
    def full(self, *given):
        raise torch.OutOfMemoryError("no more")

    monkeypatch.setattr(compile_policy.CompiledStep, "_build", full)
    assert trained("on").steps.mode == "off"
    assert "steps run eagerly: the GPU's memory does not hold them as graphs too" in messages()


def test_a_resumed_run_may_take_another_mode(tmp_path):
    """A run that began with CUDA graphs resumes on a device that has none."""
    trained("off", tmp_path / "run", steps=2)
    path = tmp_path / "run" / "config.json"
    facts = json.loads(path.read_text())
    facts["config"]["compile"] = facts["compiled"] = "graph"
    path.write_text(json.dumps(facts))
    check_resumed(Config.from_dict(facts["config"]).with_flags(compile="off"), facts, 1)
    assert trained("off", tmp_path / "run", resume=True).steps.mode == "off"


def test_mode_graph_needs_a_gpu():
    with pytest.raises(UsageError, match="compile: graph captures CUDA graphs, and the device is cpu"):
        trained("graph", device="cpu")


def test_on_a_gpu_compiled_steps_are_compared_with_cuda_graphs(monkeypatch, tmp_path, messages):
    """As on a GPU where an iteration takes 0.1 s eagerly, 0.02 s as CUDA graphs and 0.05 s compiled."""
    seconds = {"off": 0.1, "graph": 0.02, "on": 0.05}
    asked = []

    def compiled(self, mode):
        asked.append(mode)
        return eager(self, mode, f"by {mode}"), 0.0

    def on_gpu(self, asked, before):
        self._device = torch.device("cuda")
        return decide(self, asked, before)

    decide = CompilePolicy.decide
    monkeypatch.setattr(CompilePolicy, "decide", on_gpu)
    monkeypatch.setattr(CompilePolicy, "_compiled", compiled)
    monkeypatch.setattr(CompilePolicy, "_seconds", lambda self, steps: seconds[steps.mode])
    monkeypatch.setattr(CompilePolicy, "_alternating", lambda self, *pair: tuple(seconds[steps.mode] for steps in pair))
    monkeypatch.setattr(CompilePolicy, "_store", autotune.Store(tmp_path / "store.json", {"device": "GPU"}))
    assert trained().steps.mode == "graph"
    assert asked == ["graph"], "4 steps do not amortize compiling"
    free(monkeypatch)
    assert trained().steps.mode == "graph"
    assert asked == ["graph", "graph", "on"]
    assert (
        "by graph: 100.0 ms an iteration eagerly, 20.0 ms as graphs: 20.0 ms an iteration, 50.0 ms compiled"
        in messages()
    )


def test_a_step_that_cannot_be_compiled_trains_eagerly_and_the_reason_is_logged(messages):
    trainer = trained("on", discriminator=Branching())
    assert trainer.steps.compiled is False
    assert "steps run eagerly: the discriminator's step cannot be compiled: " in messages()


def test_an_iteration_of_a_gpu_takes_steps_without_graphs_of_their_own(monkeypatch, compiler):
    """`inner` computes what the steps compute."""
    trainer = trained("on")
    assert trainer.steps.inner.mode == "on"
    batch = {"real": torch.rand(8, 1, 28, 28)}
    noise = trainer.task.draw("discriminator", batch, trainer.state.random, 0)
    before = [buffer.clone() for buffer in trainer.discriminator.buffers()]
    found = []
    for steps in (trainer.steps, trainer.steps.inner):
        for buffer, value in zip(trainer.discriminator.buffers(), before, strict=True):
            buffer.copy_(value)
        found.append(steps.discriminator(batch, noise))
    torch.testing.assert_close(*(loss.value for loss, _ in found))
    for one, other in zip(*(gradients for _, gradients in found), strict=True):
        torch.testing.assert_close(one, other)
