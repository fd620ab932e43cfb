"""What checkpoints keep of a run, and resuming from checkpoints of older versions, which kept less."""

import hashlib
import json
import logging
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fastgan import Config, Trainer, fuse, models
from fastgan.errors import CheckpointError, UsageError
from fastgan.nn import spectral_norm
from fastgan.train import checkpoint, state

SMALL = {"latent": 8, "width": 4, "batch": 8, "steps": 6, "log_every": 1, "sample_every": 6, "checkpoint_every": 3}


class Batches:
    """The same batches every time; those listed in `bad` are NaN."""

    def __init__(self, bad=(), more=None):
        self.at, self.bad, self.more = 0, bad, more

    def __iter__(self):
        return self

    def __next__(self):
        self.at += 1
        batch = torch.rand(8, 1, 28, 28, generator=torch.Generator().manual_seed(self.at)) * 2 - 1
        return batch * float("nan") if self.at in self.bad else batch

    def state_dict(self):
        return {"at": self.at} if self.more is None else {"at": self.at, "more": self.more}

    def load_state_dict(self, state):
        self.at = state["at"]


class Normed(nn.Module):
    """A generator with running statistics, of floating and of integer dtype."""

    latent = 8

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 784), nn.BatchNorm1d(784), nn.Dropout(0.1), nn.Tanh())

    def forward(self, z):
        return self.net(z).view(-1, 1, 28, 28)


def made(out, **options):
    torch.manual_seed(0)
    _, discriminator = models.build("dcgan", resolution=28, channels=1, latent=8, width=4, d_norm="spectral")
    return Trainer(Normed(), discriminator, config=Config.from_flags(**SMALL | options), out=out)


def everything(trainer):
    """All that a checkpoint must restore."""
    found = {"counters": (trainer.step, trainer.state.images, trainer.state.back_off, trainer.state.skipped)}
    for name, module in (("g", trainer.generator), ("d", trainer.discriminator), ("ema", trainer.ema.module)):
        found |= {f"{name}.{key}": value.numpy().tobytes() for key, value in module.state_dict().items()}
    for network, update in trainer.state.updates.items():
        tensors = checkpoint.optimizer_tensors(update.optimizer, network)
        tensors |= {f"update.{network}.{name}": value for name, value in update.tensors().items()}
        found |= {name: value.numpy().tobytes() for name, value in tensors.items()}
        found[f"{network}.lr"] = [group["lr"].hex() for group in update.optimizer.param_groups]
    return found | {name: source.get_state().tolist() for name, source in state._generators(trainer.state).items()}


def test_everything_is_restored_bit_for_bit(tmp_path):
    bad = (5, 6)  # the learning rates are halved twice, and the run ends before they have recovered
    whole = made(tmp_path / "whole")
    whole.fit(Batches(bad))
    kept = everything(whole)
    assert kept["counters"] == (6, 48, 0.25, 2)
    for name in ("g.net.1.running_var", "ema.net.1.num_batches_tracked", "generator.0.step", "default.cpu"):
        assert name in kept
    made(tmp_path / "run", steps=5, checkpoint_every=5).fit(Batches(bad))
    torch.rand(3)
    resumed = made(tmp_path / "run")
    state.load(resumed.state, Batches(bad))
    assert resumed.state.back_off == 0.5
    assert [u.optimizer.param_groups[0]["lr"] for u in resumed.state.updates.values()] == [1e-4, 1e-4]
    resumed.fit(Batches(bad), resume=True)
    again = everything(resumed)
    assert [name for name in kept if again[name] != kept[name]] == []
    assert again.keys() == kept.keys()


def rewrite(folder, change, tensors=None):
    """Change state.json, or the optimizers' tensors, as another version could have, with valid checksums."""
    text = json.loads((folder / "state.json").read_text())
    change(text)
    (folder / "state.json").write_text(json.dumps(text))
    if tensors is not None:
        save_file(tensors, folder / "optimizer.safetensors")
    names = [*checkpoint.TENSORS, "state.json"]
    sums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    (folder / "SHA256SUMS").write_text("".join(f"{value}  {name}\n" for name, value in sums.items()))


@pytest.fixture
def half(tmp_path):
    """The checkpoint's folder of a run that ended at step 3."""
    made(tmp_path / "run", steps=3).fit(Batches())
    return tmp_path / "run" / "checkpoints" / "00000003"


def test_values_that_an_older_version_did_not_keep(half, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    tensors = checkpoint.load_part(half, "optimizer")
    old = {name: value for name, value in tensors.items() if not name.startswith("update.")}
    assert len(old) < len(tensors)
    rewrite(half, lambda text: [text.pop(name) for name in ("skipped", "back_off", "global_random", "batches")], old)
    caplog.clear()
    trainer, batches = made(tmp_path / "run"), Batches()
    state.load(trainer.state, batches)
    assert (trainer.step, trainer.state.back_off, trainer.state.skipped) == (3, 1.0, 0)
    assert "the batches cannot be restored" in caplog.messages[0]
    trainer.fit(batches, resume=True)
    assert trainer.step == 6


@pytest.mark.parametrize("name", ["images", "seconds", "random", "step"])
def test_a_missing_value_that_a_run_needs_is_an_error(half, tmp_path, name):
    rewrite(half, lambda text: text.pop(name))
    text = (
        "not readable: state.json: step is missing" if name == "step" else rf"of another version: KeyError\('{name}'\)"
    )
    with pytest.raises(CheckpointError, match=f"00000003: state.json is {text}"):
        made(tmp_path / "run").fit(Batches(), resume=True)


def test_rng_states_of_another_version_are_an_error(half, tmp_path):
    rewrite(half, lambda text: text["random"].update({"default.cpu": "AAAA"}))
    with pytest.raises(
        CheckpointError, match=r"state.json is of another version: RuntimeError.*(wrong size|state size)"
    ):
        made(tmp_path / "run").fit(Batches(), resume=True)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (torch.zeros(2), "cannot be written as JSON: Object of type Tensor is not JSON serializable"),
        ({1: "one"}, "does not come back from JSON as it was; expected strings as keys"),
        ((1, 2), "lists instead of tuples"),
    ],
)
def test_batches_whose_state_is_no_json_are_an_error_at_once(tmp_path, more, expected):
    with pytest.raises(UsageError, match=f"batches: their state_dict.. .*{expected}"):
        made(tmp_path / "run").fit(Batches(more=more))
    assert not (tmp_path / "run").exists()
    made(None, steps=1).fit(Batches(more=more))  # nothing is written


def test_a_run_killed_before_its_first_checkpoint_starts_at_step_0(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    whole = made(tmp_path / "whole")
    whole.fit(Batches())
    run = tmp_path / "run"
    first = made(run, steps=2, checkpoint_every=2)
    first.fit(Batches())
    (run / "checkpoints" / "00000002").rename(run / "checkpoints" / ".00000002.part")
    with pytest.raises(UsageError, match="has no checkpoint, and this Trainer has trained; make a new one"):
        first.fit(Batches(), resume=True)
    again = made(run)
    again.fit(Batches(), resume=True)
    assert f"{run} has no checkpoint yet: it begins anew at step 0" in caplog.messages
    kept, resumed = everything(whole), everything(again)
    assert [name for name in kept if resumed[name] != kept[name]] == []
    lines = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines == [1, 2, 3, 4, 5, 6]


def test_a_run_killed_before_its_configuration_is_started_again(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for name in (".lock", ".fastgan-0123456789abcdef.part"):
        (run / name).touch()
    with pytest.raises(UsageError, match="holds no run"):
        made(run).fit(Batches(), resume=True)
    made(run).fit(Batches())
    assert not [path for path in run.iterdir() if path.name.startswith(".")]


def test_resuming_a_finished_run_only_removes_temporary_files(half, tmp_path):
    run = tmp_path / "run"
    left = [folder / ".fastgan-0123456789abcdef.part" for folder in (run, run / "samples")]
    for path in left:
        path.touch()
    (half.parent / ".00000002.gone.part").mkdir()
    for step in (1, 2):  # two are kept
        shutil.copytree(half, half.parent / f"{step:08d}")
    before = (half / "ema.safetensors").read_bytes()
    (run / "report.html").unlink()
    (run / ".notes.part").touch()  # a user's file
    made(run, steps=3).fit(Batches(), resume=True)
    assert [path.name for path in run.rglob(".*")] == [".notes.part"]
    assert "finished" in (run / "report.html").read_text()
    assert (half / "ema.safetensors").read_bytes() == before
    assert checkpoint.steps_in(half.parent) == [2, 3]


def test_the_rng_states_of_all_devices_are_kept(monkeypatch):
    generators = tuple(torch.Generator() for _ in range(3))
    monkeypatch.setattr(torch.cuda, "default_generators", generators)
    random = SimpleNamespace(generator=torch.Generator(), host=torch.Generator())
    found = state._generators(SimpleNamespace(device=torch.device("cuda:1"), random=random))
    assert list(found) == [
        "latents.cuda",
        "host",
        "default.cpu",
        "default.cuda:0",
        "default.cuda",
        "default.cuda:2",
    ]
    assert found["default.cuda"] is generators[1]


def test_numbers_for_a_whole_batch_go_on_where_they_were(tmp_path):
    class Drawing(Batches):
        """Draws from the host's generator with every batch, as a task's sizes do."""

        def __next__(self):
            self.random.number()
            return super().__next__()

    def numbers(out, steps, resume=False):
        trainer, batches = made(out, steps=steps), Drawing()
        batches.random = trainer.state.random
        trainer.fit(batches, resume=resume)
        return trainer.state.random.number()

    whole = numbers(tmp_path / "whole", 4)
    assert numbers(tmp_path / "run", 2) != whole
    assert numbers(tmp_path / "run", 4, resume=True) == whole


@pytest.mark.parametrize("fused", [False, True])
def test_spectral_norms_that_iterate_once_a_step_resume_bit_for_bit(tmp_path, fused):
    def norming(out, **options):
        torch.manual_seed(0)
        _, discriminator = models.build("dcgan", resolution=28, channels=1, latent=8, width=4)
        discriminator = spectral_norm(discriminator, every="step")
        discriminator = fuse(discriminator) if fused else discriminator
        return Trainer(
            Normed(), discriminator, config=Config.from_flags(**SMALL | {"compile": "off"} | options), out=out
        )

    whole = norming(tmp_path / "whole")
    whole.fit(Batches())
    norming(tmp_path / "run", steps=3).fit(Batches())
    again = norming(tmp_path / "run")
    again.fit(Batches(), resume=True)
    assert everything(again) == everything(whole)
