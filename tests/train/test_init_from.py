"""Runs that begin with weights of another run, a checkpoint or a file, on the command line and in Python."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fastgan import Config, Trainer, models
from fastgan.errors import CheckpointError, DataError, UsageError
from fastgan.train import checkpoint
from fastgan.train.init_from import start_from

SMALL = {"steps": 2, "batch": 4, "latent": 4, "compile": "off", "log_every": 1, "checkpoint_every": 1}
WORDS = ["--model", "mlp", "--width", 8, "--latent", 4, "--batch", 4, "--steps", 2, "--compile", "off"]


def images():
    while True:
        yield torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


def made(out=None, seed=0, width=8, **flags):
    torch.manual_seed(seed)
    networks = models.build("mlp", resolution=8, channels=1, latent=4, width=width)
    return Trainer(*networks, config=Config.from_flags(**SMALL | flags), out=out)


@pytest.fixture
def run(tmp_path):
    """A run of two steps."""
    made(tmp_path / "run").fit(images())
    return tmp_path / "run"


def tensors(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(network, stored):
    own = network.state_dict()
    return own.keys() == stored.keys() and all(torch.equal(own[name], stored[name]) for name in own)


@pytest.mark.parametrize("step", [None, 1])
def test_the_weights_of_a_run_and_of_one_of_its_checkpoints(run, step, monkeypatch):
    source = run if step is None else run / "checkpoints" / f"{step:08d}"
    folder = run / "checkpoints" / f"{step or 2:08d}"
    trainer = made(seed=1)
    begun = {}
    monkeypatch.setattr(trainer, "_align_ranks", lambda: begun.update(
        {part: same(network, checkpoint.load_part(folder, part)) for part, network in trainer.state.networks.items()}
    ))  # fmt: skip
    trainer.fit(images(), init_from=source)
    assert begun == {"generator": True, "ema": True, "discriminator": True}
    assert trainer.step == 2  # its own steps, with optimizers of its own
    assert {float(state["step"]) for u in trainer.state.updates.values() for state in u.optimizer.state.values()} == {2}


def test_a_file_fills_the_network_whose_names_it_has(run, tmp_path):
    folder, trainer = run / "checkpoints" / "00000002", made(seed=1)
    before = tensors(trainer.discriminator)
    start_from(trainer.state, folder / "ema.safetensors")
    stored = checkpoint.load_part(folder, "ema")
    assert same(trainer.generator, stored)
    assert same(trainer.ema.module, stored)
    assert same(trainer.discriminator, before)
    start_from(trainer.state, folder / "discriminator.safetensors")
    assert same(trainer.discriminator, checkpoint.load_part(folder, "discriminator"))
    assert same(trainer.generator, stored)
    # A file of one's own.
    save_file(tensors(made(seed=5).generator), tmp_path / "mine.safetensors")
    start_from(trainer.state, tmp_path / "mine.safetensors")
    assert same(trainer.generator, tensors(made(seed=5).generator))


def test_sources_that_do_not_fit(run, tmp_path):
    trainer = made(seed=1, width=12)
    before = {part: tensors(network) for part, network in trainer.state.networks.items()}
    for source in (run, run / "checkpoints" / "00000002" / "generator.safetensors"):
        with pytest.raises(
            UsageError, match=r"init_from: .* holds another generator: \[8\] for '.*', this one has \[12\]"
        ):
            start_from(trainer.state, source)
    save_file({"other.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match=r"holds another generator: nothing for '.*', this one has \["):
        start_from(trainer.state, tmp_path / "other.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    with pytest.raises(DataError, match=r"broken\.safetensors is no readable safetensors file"):
        start_from(trainer.state, tmp_path / "broken.safetensors")
    with pytest.raises(
        UsageError, match=r"expected a run, a checkpoint or a safetensors file, .*nowhere does not exist"
    ):
        start_from(trainer.state, tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"expected a run or a checkpoint, .* is another folder"):
        start_from(trainer.state, tmp_path)
    (run / "checkpoints" / "00000002" / "ema.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"ema\.safetensors is damaged"):
        start_from(trainer.state, run / "checkpoints" / "00000002")
    assert all(same(network, before[part]) for part, network in trainer.state.networks.items())


def test_a_run_killed_before_its_first_checkpoint_begins_with_them_again(run, tmp_path):
    whole = made(tmp_path / "whole", seed=1)
    whole.fit(images(), init_from=run)
    killed = made(tmp_path / "killed", seed=1)
    killed.iterate = lambda *_: (_ for _ in ()).throw(KeyError("killed"))
    with pytest.raises(KeyError, match="killed"):
        killed.fit(images(), init_from=run)
    again = made(tmp_path / "killed", seed=2)
    again.fit(images(), resume=True)
    assert same(again.generator, tensors(whole.generator))
    assert json.loads((tmp_path / "killed" / "config.json").read_text())["init_from"] == str(run)


def test_with_resume_or_after_training_there_are_weights_already(run, tmp_path):
    with pytest.raises(UsageError, match="init_from: a resumed run has weights of its own; leave it out"):
        made(run).fit(images(), resume=True, init_from=run)
    trainer = made()
    trainer.fit(images())
    with pytest.raises(UsageError, match="init_from: this Trainer has trained 2 steps; leave it out"):
        trainer.fit(images(), init_from=run)


def test_a_run_is_replaced_only_once_the_weights_are_there(run):
    """They may be its own."""
    stored = checkpoint.load_part(run / "checkpoints" / "00000002", "generator")
    for refused in ({"init_from": run / "nowhere"}, {"init_from": run, "reference": np.zeros((9, 1, 8, 8), np.uint8)}):
        flags = {"eval_every": 1, "eval_extractor": "nowhere"} if "reference" in refused else {}
        with pytest.raises(UsageError):
            made(run, seed=1, **flags).fit(images(), overwrite=True, **refused)
        assert checkpoint.steps_in(run / "checkpoints") == [1, 2]
    again = made(run, seed=1, lr_g=1e-9, lr_d=1e-9)
    again.fit(images(), overwrite=True, init_from=run)
    for name, value in again.generator.named_parameters():
        torch.testing.assert_close(value.detach(), stored[name], rtol=0, atol=1e-6)


def test_networks_of_ones_own(tmp_path):
    def networks():
        generator = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Unflatten(1, (1, 8, 8)))
        return generator, nn.Sequential(nn.Flatten(), nn.Linear(64, 1))

    config = Config.from_flags(**SMALL)
    Trainer(*networks(), config=config, out=tmp_path / "run", latent_shape=(4,)).fit(images())
    second = Trainer(*networks(), config=config, latent_shape=(4,))
    start_from(second.state, tmp_path / "run")
    assert same(second.generator, checkpoint.load_part(tmp_path / "run" / "checkpoints" / "00000002", "generator"))


def test_on_the_command_line(cli, images_npz, tmp_path):
    base = ["train", "demo", "--data", images_npz, *WORDS]
    assert cli(*base, "--out", "first").returncode == 0
    done = cli(*base, "--seed", 1, "--out", "second", "--init-from", "first")
    assert done.returncode == 0, done.stderr
    assert "starting from the weights of checkpoint" in done.stderr
    facts = json.loads((tmp_path / "second" / "config.json").read_text())
    assert facts["init_from"] == str(tmp_path / "first")
    assert "--init-from first" in facts["command"]
    done = cli(*base, "--width", 4, "--out", "third", "--init-from", "first")
    assert done.returncode == 2
    assert "init_from: first holds another generator" in done.stderr


def test_images_that_have_moved_resume_and_others_do_not(cli, images_npz, tmp_path):
    base = ["train", "demo", "--data", images_npz, *WORDS, "--checkpoint-every", 1]
    assert cli(*base, "--out", "whole", "--steps", 4).returncode == 0
    assert cli(*base, "--out", "run").returncode == 0
    moved = images_npz.rename(tmp_path / "moved.npz")
    done = cli("train", "--resume", "run", "--steps", 4)
    assert done.returncode == 1
    assert "if the images of the run have moved, give --data NEW_PLACE" in done.stderr
    content = np.load(moved)["images"]
    np.savez(tmp_path / "other.npz", images=content[::-1])
    done = cli("train", "--resume", "run", "--steps", 4, "--data", "other.npz")
    assert done.returncode == 2
    assert "data: other has other images than those of run" in done.stderr
    done = cli("train", "--resume", "run", "--steps", 4, "--data", moved)
    assert done.returncode == 0, done.stderr
    parts = [tmp_path / name / "checkpoints" / "00000004" / "generator.safetensors" for name in ("whole", "run")]
    assert parts[0].read_bytes() == parts[1].read_bytes()
    done = cli("train", "--resume", "run", "--data", moved)
    assert done.returncode == 0
    assert "is already finished at step 4: raise steps (--steps) to go on" in done.stderr


def upscaler(family="compact", **options):
    config = Config.from_flags(task="super-resolution", task_options={"crop": 16, "perceptual": "none"})
    sizes = {"resolution": 16, "channels": 3, "latent": 1, "width": 4, "scale": 2, "blocks": 1}
    return Trainer(*models.build(family, **sizes | options), config=config)


def test_files_of_super_resolution(tmp_path):
    """Both generators of BasicSR's file, a discriminator's file, and safetensors of several networks."""
    given, trainer = upscaler(), upscaler()
    networks = {"G": given.generator, "G_ema": upscaler().generator, "D": given.discriminator}
    for file, names in (("g.pth", ("G", "G_ema")), ("d.pth", ("D",)), ("all.safetensors", ("G", "G_ema", "D"))):
        trainer = upscaler()
        before = {name: tensors(network) for name, network in trainer.state.networks.items()}
        models.save({name: networks[name] for name in names}, tmp_path / file)
        start_from(trainer.state, tmp_path / file)
        for part, name in (("generator", "G"), ("ema", "G_ema"), ("discriminator", "D")):
            expected = tensors(networks[name]) if name in names else before[part]
            assert same(trainer.state.networks[part], expected), (file, part)


def test_a_file_of_another_size_says_how_its_network_is_built(tmp_path):
    models.save(models.esrgan.SRVGGNetCompact(4, 3, 6, 2), tmp_path / "x4.pth")
    models.save(models.esrgan.SRVGGNetCompact(2, 3, 4, 1, 4), tmp_path / "reduced.safetensors")
    models.save(models.esrgan.RRDBNet(2, 3, 4, 2, 1), tmp_path / "rrdb.pth")
    for file, sentence in (
        ("x4.pth", "another generator: .*; its network is built with model.scale=4, width=6, model.blocks=2, model.sh"),
        ("reduced.safetensors", "another generator: .*; its network is built with model.shuffle=4$"),
        ("rrdb.pth", "another generator: .*; it has a RRDBNet, this run a SRVGGNetCompact$"),
    ):
        with pytest.raises(UsageError, match=sentence):
            start_from(upscaler().state, tmp_path / file)
