"""Run directories that someone has changed: each command says in a sentence what is wrong, before it takes memory."""

import hashlib
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fastgan import cli
from fastgan._util import memory
from fastgan.cli._source import open_source
from fastgan.errors import CheckpointError, DataError, UsageError
from fastgan.train import checkpoint
from fastgan.train.config import Config
from fastgan.train.networks import load_generator

FLAGS = ("--model=mlp", "--width=4", "--latent=4", "--steps=2", "--checkpoint-every=2", "--batch=4", "--device=cpu",
         "--compile=off", "--log-every=1", "--sample-every=2")  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    np.savez(folder / "d.npz", images=np.random.default_rng(0).integers(0, 255, (6, 8, 8), dtype=np.uint8))
    assert cli.run(["train", f"--data={folder / 'd.npz'}", f"--out={folder / 'run'}", *FLAGS]) == 0
    return folder / "run"


@pytest.fixture
def run(trained):
    """The run, which is as it was afterwards."""
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    yield trained
    for path, content in before.items():
        path.write_bytes(content)


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def sum_again(folder):
    names = [*checkpoint.TENSORS, "state.json"]
    sums = (f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
    (folder / checkpoint.SUMS).write_text("".join(sums))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda c: c.update(config=3), DataError, "config: expected a JSON object, got 3"),
        (lambda c: c.pop("config"), DataError, "config is missing"),
        (lambda c: c.update(image_shape=[1, 8]), DataError, "image_shape: expected a list of 3 values"),
        (lambda c: c.update(image_shape=[1, 8, 10**9]), DataError, "expected a whole number from 1 to 65535"),
        (lambda c: c.update(latent_shape=[5]), DataError, r"states latents of shape \[5\], its generator \[4\]"),
        (lambda c: c["config"].update(model=[]), UsageError, "expected a table for model, got a list of 0 values"),
        (lambda c: c["config"]["model"].update(width="4"), UsageError, "expected int for width, got '4'"),
        (lambda c: c["config"]["optim"].update(clip=float("nan")), UsageError, "expected float for clip, got nan"),
        (lambda c: c["config"].update(steps=10**30), UsageError, "expected int for steps, got 1000"),
    ],
)
def test_config(run, change, error, text):
    edit(run / "config.json", change)
    with pytest.raises(error, match=text):
        load_generator(run)


def test_deeply_nested_json(run, capsys):
    for name in ("config.json", "status.json", "metrics.jsonl"):
        kept = (run / name).read_bytes()
        (run / name).write_text("[" * 100_000)
        code = cli.run(["--debug", "report", str(run)]) if name != "config.json" else 0
        assert code == 0  # what a page can be made without is left out
        (run / name).write_bytes(kept)
    (run / "config.json").write_text("[" * 100_000)
    assert cli.run(["report", str(run)]) == 1
    assert "nested too deeply" in capsys.readouterr().err


def test_networks_are_measured_before_they_are_built(run, monkeypatch):
    edit(run / "config.json", lambda c: c["config"]["model"].update(width=12_000))
    monkeypatch.setattr(memory, "free_host_memory", lambda: 1 << 28)
    with pytest.raises(DataError, match=r"building these networks \(mlp\) takes .* of memory, and 268.4 MB are free"):
        load_generator(run)
    assert cli.run(["train", "--resume", str(run), "--steps=3"]) == 1


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda s: s.update(step="2"), "step: expected a whole number"),
        (lambda s: s.update(back_off=0), "back_off: expected a number"),
        (lambda s: s.update(seconds=None), "seconds: expected a number"),
        (lambda s: s.update(random={"latents.cpu": 3}), "latents.cpu: expected a string"),
        (lambda s: s.update(iterated=[]), "iterated: expected a JSON object"),
    ],
)
def test_state(run, change, text):
    folder = run / "checkpoints" / "00000002"
    edit(folder / "state.json", change)
    sum_again(folder)
    with pytest.raises(CheckpointError, match=text):
        checkpoint.read_state(folder)


def test_tensors(run, capsys):
    folder = run / "checkpoints" / "00000002"
    optimizer = load_file(folder / "optimizer.safetensors")
    name = next(name for name, value in optimizer.items() if name.startswith("generator.") and value.dim() == 2)
    save_file({**optimizer, name: torch.zeros(3, 5)}, folder / "optimizer.safetensors")
    sum_again(folder)
    assert cli.run(["train", "--resume", str(run), "--steps=3"]) == 1
    assert "has shape [3, 5], its weights" in capsys.readouterr().err
    (folder / "optimizer.safetensors").write_bytes((1 << 40).to_bytes(8, "little") + b"{}")
    sum_again(folder)
    assert cli.run(["train", "--resume", str(run), "--steps=3"]) == 1
    assert "this safetensors file is damaged" in capsys.readouterr().err


def test_types_of_fields():
    plain = Config().to_dict()
    assert Config.from_dict(plain) == Config()
    assert Config.from_dict({**plain, "optim": {**plain["optim"], "clip": 1}}).optim.clip == 1  # as a float
    with pytest.raises(UsageError, match="expected bool for sync_statistics, got 1"):
        Config.from_dict({**plain, "sync_statistics": 1})
    with pytest.raises(UsageError, match="expected a table for the configuration, got 3"):
        Config.from_dict(3)


def test_file_names_that_are_not_utf8(run):
    def change(facts):
        facts["config"]["data"]["source"] = "caf\udce9.npz"
        facts["command"] = "fastgan train --data 'caf\udce9.npz'"

    edit(run / "config.json", change)
    assert load_generator(run).config.data.source == "caf\udce9.npz"
    edit(run / "config.json", lambda facts: facts.update(command="\ud800"))  # which stands for no byte
    with pytest.raises(DataError, match="command: expected a string of valid characters"):
        load_generator(run)


@pytest.mark.parametrize("change", [lambda facts: facts.pop("dataset"), lambda facts: facts.update(dataset=3)])
def test_a_run_that_states_no_dataset(run, change):
    edit(run / "config.json", change)
    network, _, about = open_source(str(run))
    assert about["dataset"] == ""
    assert network.latent == load_generator(run).latent_shape[0]
