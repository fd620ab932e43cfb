"""StyleGAN on two ranks equals one rank of twice the batch. This file run as a script is one rank."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastgan import Config, Trainer, models
from fastgan.testing.batches import Resumable
from fastgan.train.distributed import World, process_group

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch without distributed")

SMALL = {
    "steps": 6, "log_every": 3, "sample_every": 100, "checkpoint_every": 3, "compile": "off", "device": "cpu",
    "r1_weight": 1.0, "penalty_interval": 2, "path_length": 2.0, "path_length_interval": 2, "style_mixing": 0.9,
    "augment": "blit+ada-color", "ada_target": 0.6, "ada_images": 200, "ada_interval": 2, "ema_rampup": 0.05,
    "lr_g": 0.0025, "lr_d": 0.0025, "beta1": 0.0, "beta2": 0.99,
}  # fmt: skip
FAMILIES = {"stylegan2": {"mapping_layers": 2}, "stylegan3": {}}
BATCH = 8


class Batches(Resumable):
    """The part of this rank of batches of random images."""

    def __init__(self, world):
        super().__init__()
        self.world = world

    def batch(self, source):
        own = BATCH // self.world.size
        images = torch.rand(BATCH, 3, 16, 16, generator=source, dtype=torch.float64) * 2 - 1
        return images[own * self.world.rank : own * (self.world.rank + 1)]


def train(world, family, out=None, resume=False, noise=False, **options):
    """Train in float64 without comparing samples, which depends on the ranks, as the noise of layers does."""
    torch.manual_seed(world.rank)
    networks = models.build(family, resolution=16, channels=3, latent=8, width=8, group=1, **FAMILIES[family])
    for layer in networks[0].modules():
        layer.use_noise = noise
    config = Config.from_flags(**SMALL | {"batch": BATCH // world.size} | options)
    trainer = Trainer(*(network.double() for network in networks), config=config, out=out, world=world)
    trainer.fit(Batches(world), resume=resume)
    return tensors(trainer)


def tensors(trainer):
    found = {f"{part}.{name}": t for part, n in trainer.state.networks.items() for name, t in n.state_dict().items()}
    return {name: t.clone() for name, t in (found | trainer.task.tensors()).items()}


def run_rank(folder, family):
    with process_group("cpu") as world:
        result = {"plain": train(world, family)}
        if family == "stylegan2":
            result["whole"] = train(world, family, folder / "whole", noise=True)
            train(world, family, folder / "run", noise=True, steps=3)
            result["resumed"] = train(world, family, folder / "run", noise=True, resume=True)
    torch.save(result, folder / f"{world.rank}.pt")


@pytest.fixture(scope="module", params=["stylegan2", pytest.param("stylegan3", marks=pytest.mark.full)])
def results(request, tmp_path_factory):
    """The family, and what both ranks found."""
    folder = tmp_path_factory.mktemp("results")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder), request.param],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], [error[-3000:] for error in errors]
    return request.param, [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def test_two_ranks_equal_one_of_twice_the_batch_and_are_identical(results):
    family, (one, other) = results
    whole = train(World(), family)
    assert whole["path_length.pl_mean"] > 0
    assert whole["adaptive.p"] > 0
    assert whole["generator.mapping.w_avg"].abs().max() > 0
    for name, tensor in one["plain"].items():
        torch.testing.assert_close(tensor, whole[name], rtol=1e-5, atol=1e-8, msg=lambda text, n=name: f"{n}: {text}")
        assert torch.equal(tensor, other["plain"][name]), name


def test_two_ranks_resume_bit_for_bit_with_the_noise_of_layers(results):
    family, ranks = results
    if family == "stylegan3":
        pytest.skip("its layers draw no noise")
    name = "generator.mapping.fc0.weight"
    assert not torch.equal(ranks[0]["whole"][name], ranks[0]["plain"][name])
    for rank in ranks:
        for name, tensor in rank["whole"].items():
            assert torch.equal(tensor, rank["resumed"][name]), name


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_rank(Path(sys.argv[1]), sys.argv[2])
