"""What a checkpoint holds of a run, and what a run makes of a checkpoint that holds less."""

import hashlib
import json
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
    """The same batches every time; those named in `bad` are no numbers."""

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
    """A generator with running statistics, of both kinds of numbers."""

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
    """All that a checkpoint must bring back."""
    found = {"counters": (trainer.step, trainer.state.images, trainer.state.back_off, trainer.state.skipped)}
    for name, network in (("g", trainer.generator), ("d", trainer.discriminator), ("ema", trainer.ema.module)):
        found |= {f"{name}.{key}": value.numpy().tobytes() for key, value in network.state_dict().items()}
    for player, update in trainer.state.updates.items():
        tensors = checkpoint.optimizer_tensors(update.optimizer, player)
        tensors |= {f"update.{player}.{name}": value for name, value in update.tensors().items()}
        found |= {name: value.numpy().tobytes() for name, value in tensors.items()}
        found[f"{player}.lr"] = [group["lr"].hex() for group in update.optimizer.param_groups]
    return found | {name: source.get_state().tolist() for name, source in state.random_sources(trainer).items()}


def test_all_of_it_comes_back_bit_for_bit(tmp_path):
    bad = (5, 6)  # the rates are halved twice, and the run ends before they are back
    whole = made(tmp_path / "whole")
    whole.fit(Batches(bad))
    kept = everything(whole)
    assert kept["counters"] == (6, 48, 0.25, 2)
    for name in ("g.net.1.running_var", "ema.net.1.num_batches_tracked", "generator.0.step", "default.cpu"):
        assert name in kept
    made(tmp_path / "run", steps=5, checkpoint_every=5).fit(Batches(bad))
    torch.rand(3)
    resumed = made(tmp_path / "run")
    state.load(resumed, Batches(bad), lambda sentence: None)
    assert resumed.guard.back_off == 0.5
    assert [u.optimizer.param_groups[0]["lr"] for u in resumed.updates.values()] == [1e-4, 1e-4]
    resumed.fit(Batches(bad), resume=True)
    again = everything(resumed)
    assert [name for name in kept if again[name] != kept[name]] == []
    assert again.keys() == kept.keys()


def rewrite(folder, change, tensors=None):
    """Change state.json, or the optimizers' tensors, as another version would have written them: with right sums."""
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
    """A run that was ended at step 3, and the folder of its checkpoint."""
    made(tmp_path / "run", steps=3).fit(Batches())
    return tmp_path / "run" / "checkpoints" / "00000003"


def test_what_an_older_version_did_not_keep(half, tmp_path):
    tensors = checkpoint.load_part(half, "optimizer")
    old = {name: value for name, value in tensors.items() if not name.startswith("update.")}
    assert len(old) < len(tensors)
    rewrite(half, lambda text: [text.pop(name) for name in ("skipped", "back_off", "global_random", "batches")], old)
    said = []
    trainer, batches = made(tmp_path / "run"), Batches()
    state.load(trainer, batches, said.append)
    assert (trainer.step, trainer.state.back_off, trainer.state.skipped) == (3, 1.0, 0)
    assert "the batches cannot be restored" in said[0]
    trainer.fit(batches, resume=True)
    assert trainer.step == 6


@pytest.mark.parametrize("name", ["images", "seconds", "random", "step"])
def test_what_no_run_can_do_without(half, tmp_path, name):
    rewrite(half, lambda text: text.pop(name))
    with pytest.raises(CheckpointError, match=rf"00000003: state.json is of another version: KeyError\('{name}'\)"):
        made(tmp_path / "run").fit(Batches(), resume=True)


def test_random_numbers_of_another_version(half, tmp_path):
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
def test_batches_that_no_checkpoint_can_hold_are_refused_at_once(tmp_path, more, expected):
    with pytest.raises(UsageError, match=f"batches: their state_dict.. .*{expected}"):
        made(tmp_path / "run").fit(Batches(more=more))
    assert not (tmp_path / "run").exists()
    made(None, steps=1).fit(Batches(more=more))  # nothing is written


def test_a_run_killed_before_its_first_checkpoint_begins_anew(tmp_path, capfd):
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
    assert f"{run} has no checkpoint yet: it begins anew at step 0" in capfd.readouterr().err
    kept, mine = everything(whole), everything(again)
    assert [name for name in kept if mine[name] != kept[name]] == []
    lines = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines == [1, 2, 3, 4, 5, 6]


def test_killed_before_there_was_a_run(tmp_path):
    """Of which there is not even a configuration: begun again, not resumed."""
    run = tmp_path / "run"
    run.mkdir()
    for name in (".writable", ".config.json.part"):
        (run / name).touch()
    with pytest.raises(UsageError, match="holds no run"):
        made(run).fit(Batches(), resume=True)
    made(run).fit(Batches())
    assert not [path for path in run.iterdir() if path.name.startswith(".")]


def test_killed_at_the_very_end_it_only_tidies(half, tmp_path):
    run = tmp_path / "run"
    left = [run / ".report.html.part", run / ".status.json.part", run / "samples" / ".fixed-00000003.png.part"]
    for path in left:
        path.touch()
    (half.parent / ".00000002.gone.part").mkdir()
    before = (half / "ema.safetensors").read_bytes()
    (run / "report.html").unlink()
    (run / ".notes.part").touch()  # not ours
    made(run, steps=3).fit(Batches(), resume=True)
    assert [path.name for path in run.rglob(".*")] == [".notes.part"]
    assert "finished" in (run / "report.html").read_text()
    assert (half / "ema.safetensors").read_bytes() == before


def test_the_generators_of_all_devices_are_kept(monkeypatch):
    generators = tuple(torch.Generator() for _ in range(3))
    monkeypatch.setattr(torch.cuda, "default_generators", generators)
    noise = SimpleNamespace(random=torch.Generator())
    found = state.random_sources(SimpleNamespace(device=torch.device("cuda:1"), noise=noise))
    assert list(found) == ["latents.cuda", "default.cpu", "default.cuda:0", "default.cuda", "default.cuda:2"]
    assert found["default.cuda"] is generators[1]


@pytest.mark.parametrize("fused", [False, True])
def test_norms_that_iterate_once_a_step_go_on_as_they_would_have(tmp_path, fused):
    def norming(out, **options):
        torch.manual_seed(0)
        _, discriminator = models.build("dcgan", resolution=28, channels=1, latent=8, width=4)
        discriminator = spectral_norm(discriminator, every="step")
        discriminator = fuse(discriminator) if fused else discriminator
        return Trainer(Normed(), discriminator, config=Config.from_flags(**SMALL | {"compile": "off"} | options), out=out)

    whole = norming(tmp_path / "whole")
    whole.fit(Batches())
    norming(tmp_path / "run", steps=3).fit(Batches())
    again = norming(tmp_path / "run")
    again.fit(Batches(), resume=True)
    assert everything(again) == everything(whole)
