"""Every task by its preset, in a tiny size: resumed bit for bit, under bf16, on two ranks, compiled, exported.

This file run as a script is one rank of two.
"""

import os
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan import Trainer, cli
from fastgan._util import random as rng
from fastgan.train.distributed import World, process_group
from fastgan.train.networks import build_networks
from fastgan.train.presets import preset
from fastgan.train.sources import open_data

BATCH = 4
COMMON = {
    "steps": 4, "log_every": 2, "sample_every": 4, "checkpoint_every": 2, "compile": "off", "device": "cpu",
    "batch": BATCH, "seed": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A preset in a tiny size.

    data: which pictures `pictures` writes. flags, task, options: of the configuration. parts: the networks that are
    exported, "" for the whole generator. ranks: whether samples of a batch do not see each other, so that two ranks
    compute what one computes.
    """

    data: str
    flags: dict = field(default_factory=dict)
    task: dict = field(default_factory=dict)
    data_options: dict = field(default_factory=dict)
    parts: tuple = ("",)
    ranks: bool = True
    slow: bool = False


#: λ and the rate's weight are of a rank's own images.
_FIXED = {"perceptual": "none", "start": 1, "adaptive": False}
_HALVES = ("", "decoder")
_AUTOENCODER = {
    "resolution": 16, "width": 4, "latent": 2, "multipliers": "1,2", "blocks": 1, "d_width": 4, "d_layers": 1,
    "precision": "fp32",
}  # fmt: skip
CASES = {
    # Its batch norms and the means of its loss are of the batch of one rank.
    "esrgan": Case(
        "large",
        {"resolution": 48, "width": 4, "blocks": 1, "growth": 2, "d_width": 4, "discriminator": "vgg"},
        {"crop": 32, "perceptual": "random", "warm_up": 1},
        ranks=False,
    ),
    "real-esrgan": Case(
        "large",
        {"resolution": 64, "width": 4, "blocks": 1, "growth": 2, "scale": 2},
        {"crop": 32, "perceptual": "random", "warm_up": 1, "pool": 8},
    ),
    "compact": Case(
        "large",
        {"resolution": 64, "width": 4, "blocks": 1, "scale": 2, "shuffle": 4},
        {"crop": 32, "perceptual": "random", "warm_up": 0, "pool": 0},
    ),
    "variation": Case("labeled", {"resolution": 8, "width": 2, "latent": 4}, {"flip": True}),
    "pix2pix": Case("pairs", {"resolution": 36, "width": 2, "dropout": False}, {"crop": 32}),
    "pix2pixhd": Case("pairs", {"resolution": 32, "width": 2, "blocks": 1}),
    "cyclegan": Case(
        "two",
        {"resolution": 20, "width": 4, "blocks": 1, "layers": 1},
        {"crop": 16, "pool": 6},
        parts=("a_to_b", "b_to_a"),
    ),
    "cut": Case(
        "two",
        {"resolution": 20, "width": 4, "blocks": 2, "layers": 1, "head_width": 8},
        {"crop": 16},
        parts=("a_to_b",),
    ),
    "fastcut": Case(
        "two",
        {"resolution": 16, "width": 4, "blocks": 1, "layers": 1, "head_width": 8},
        {"crop": 0, "patches": 8},
        parts=("a_to_b",),
    ),
    "vqgan": Case(
        "single", _AUTOENCODER | {"codes": 8, "attention": "1", "d_norm": "none"}, _FIXED, parts=_HALVES, slow=True
    ),
    "vae": Case("single", _AUTOENCODER | {"d_norm": "none"}, _FIXED, parts=("decoder",)),
    "hific": Case(
        "single",
        {
            "resolution": 16,
            "width": 2,
            "latent": 2,
            "halvings": 2,
            "blocks": 1,
            "hyper": 2,
            "d_width": 4,
            "d_layers": 2,
        },
        _FIXED,
        parts=_HALVES,
        slow=True,
    ),
}


def pictures(kind, folder):
    """Smooth random pictures: "single" 32×32, "large" 80×72, "pairs" two of 32×32 side by side, "labeled"."""
    source = np.random.default_rng(0)
    folder = Path(folder)

    def picture(width, height):
        small = Image.fromarray(source.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))

    for i in range(8):
        one = picture(80, 72) if kind == "large" else picture(32, 32)
        name = folder / ("ab"[i % 2] if kind == "labeled" else "") / f"{i}.png"
        name.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.concatenate([one, 255 - one], 1) if kind == "pairs" else one).save(name)
    if kind == "two":
        (folder / "trainA").mkdir()
        (folder / "trainB").mkdir()
        for path in sorted(folder.glob("*.png")):
            Image.fromarray(255 - np.asarray(Image.open(path))).save(folder / "trainB" / path.name)
            path.rename(folder / "trainA" / path.name)
    return folder


def config_of(name, data, **flags):
    case = CASES[name]
    config = preset(name)
    options = {"task_options": config.task.options | case.task, "data_options": config.data.options | case.data_options}
    return config.with_flags(**COMMON | case.flags | {"data": str(data)} | options | flags)


def train(name, data, world=None, out=None, resume=False, double=False, held_out=2, **flags):
    """A trainer after its steps, as `fastgan train` builds it."""
    world = world or World()
    config = config_of(name, data, held_out=held_out, batch=BATCH // world.size, **flags)
    sources, config = open_data(config)
    rng.seed(config.seed)
    networks = build_networks(config, sources.shape)
    if double:
        networks = [network.double() for network in networks]
    about = {"image_shape": list(sources.shape), "dataset": sources.facts()}
    trainer = Trainer(*networks, config.loss.adversarial, config, out=out, about=about, world=world)
    batches = sources.stream(config, trainer.device, world)
    trainer.fit(batches, held_out=batches.held_out if held_out else None, resume=resume)
    return trainer


def tensors(trainer):
    found = {f"{part}.{name}": t for part, n in trainer.state.networks.items() for name, t in n.state_dict().items()}
    return {name: t.clone() for name, t in (found | trainer.task.tensors()).items()}


def cases(*also, where=lambda case: True):
    """All cases, those of them full that are slow."""
    return [
        pytest.param(name, marks=[pytest.mark.full, *also] if case.slow else list(also))
        for name, case in CASES.items()
        if where(case)
    ]


@pytest.fixture
def data(request, tmp_path):
    return pictures(CASES[request.getfixturevalue("name")].data, tmp_path / "data")


@pytest.mark.parametrize("name", cases())
def test_resumes_bit_for_bit_changes_every_weight_and_exports(name, data, tmp_path):
    whole = train(name, data, out=tmp_path / "whole")
    train(name, data, out=tmp_path / "run", steps=2)
    resumed = train(name, data, out=tmp_path / "run", resume=True)
    expected, found = tensors(whole), tensors(resumed)
    assert expected.keys() == found.keys()
    for key, tensor in expected.items():
        assert torch.equal(tensor, found[key]), key
        assert tensor.isfinite().all(), key
    assert list((tmp_path / "whole" / "samples").glob("*-00000004.png"))
    for part in CASES[name].parts:
        assert cli.run(["export", f"{tmp_path / 'whole'}:{part}" if part else str(tmp_path / "whole")]) == 0
        assert (tmp_path / "whole" / f"{part or 'generator'}.onnx").is_file()


@pytest.mark.full
@pytest.mark.parametrize("name", cases())
def test_bfloat16(name, data):
    trained = train(name, data, precision="bf16")
    for key, tensor in tensors(trained).items():
        assert tensor.isfinite().all(), key
    assert not trained.state.skipped


@pytest.mark.slow
@pytest.mark.parametrize("name", cases())
def test_compiled_steps_equal_eager_ones(name, data):
    eager, compiled = (tensors(train(name, data, compile=mode, steps=2)) for mode in ("off", "on"))
    for key, tensor in eager.items():
        torch.testing.assert_close(compiled[key], tensor, rtol=1e-3, atol=1e-3, msg=lambda text, k=key: f"{k}: {text}")


@pytest.mark.full
@pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch without distributed")
@pytest.mark.parametrize("name", cases(where=lambda case: case.ranks))
def test_two_ranks_equal_one_of_twice_the_batch(name, data, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, name, str(data), str(tmp_path)],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], [error[-3000:] for error in errors]
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for key, tensor in tensors(train(name, data, double=True, held_out=0)).items():
        assert torch.equal(one[key], other[key]), key
        torch.testing.assert_close(one[key], tensor, rtol=1e-5, atol=1e-7, msg=lambda text, k=key: f"{k}: {text}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    with process_group("cpu") as world:
        found = tensors(train(sys.argv[1], sys.argv[2], world, double=True, held_out=0))
    torch.save(found, Path(sys.argv[3]) / f"{world.rank}.pt")
