"""Two ranks of batch N equal one rank of batch 2N. This file run as a script is one rank, which calls `run_rank`."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fastgan import Config, Trainer, models
from fastgan.data import open_source
from fastgan.data.stream import BatchStream
from fastgan.errors import FastganError, RankError, UsageError
from fastgan.losses import ADVERSARIAL
from fastgan.report.diagnostics import Diagnosis
from fastgan.train import checkpoint, distributed
from fastgan.train.compile_policy import CompilePolicy, Steps
from fastgan.train.config import check_resumed
from fastgan.train.data import Batches
from fastgan.train.distributed import World, buckets, process_group
from fastgan.train.monitor import Monitor
from fastgan.train.sync_batch_norm import synchronize

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch without distributed")

CPU = torch.device("cpu")
SMALL = {"latent": 8, "width": 4, "steps": 6, "log_every": 2, "sample_every": 6, "checkpoint_every": 3, "device": "cpu",
         "compile": "off"}  # fmt: skip
CASES = {
    "wgan-gp": {"loss": "wgan-gp", "d_steps": 2},
    "spectral": {"d_norm": "spectral", "r1_weight": 1.0, "penalty_interval": 2, "clip": 0.5},
    "accumulate": {"accumulate": 2},
    "synchronized": {"d_norm": "batch", "sync_statistics": True},
    "not synchronized": {"d_norm": "batch"},
    "growing": {"grow_images": 32},
}


class Generator(nn.Sequential):
    """z → 28×28 without batch norm."""

    def __init__(self):
        super().__init__(
            nn.Linear(8, 4 * 49), nn.LeakyReLU(0.2), nn.Unflatten(1, (4, 7, 7)), nn.ConvTranspose2d(4, 4, 4, 2, 1),
            nn.LeakyReLU(0.2), nn.ConvTranspose2d(4, 1, 4, 2, 1), nn.Tanh(),
        )  # fmt: skip


class Growing(nn.Module):
    """A generator or a discriminator of 14×14 images, and then of 28×28, in double precision."""

    stages = 2

    def __init__(self, classifies):
        super().__init__()
        self.classifies, self.stage = classifies, 1
        sizes = (14**2, 28**2)
        self.layers = nn.ModuleList(nn.Linear(*((n, 1) if classifies else (8, n))) for n in sizes).double()

    def grow(self, stage, alpha):
        self.stage = stage

    @property
    def image_shape(self):
        return (1, 14 << self.stage, 14 << self.stage)

    def forward(self, x):
        y = self.layers[self.stage](x.double().flatten(1))
        return y if self.classifies else y.view(-1, *self.image_shape)


class InDouble(nn.Module):
    """A network in double precision, for latents in single."""

    def __init__(self, network):
        super().__init__()
        self.network = network.double()

    def forward(self, z):
        return self.network(z.double())


class Conditional(nn.Sequential):
    """A discriminator of an image and its source."""

    source_channels = 1

    def __init__(self):
        super().__init__(nn.Conv2d(2, 4, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 3, 1, 1))

    def forward(self, image, source):
        return super().forward(torch.cat([image, source], 1))


class DoubleBatches:
    """The stream's batches in double precision; sends this process a signal at batch `at`."""

    def __init__(self, stream, at=0):
        self.stream, self.at = stream, at
        self.state_dict, self.load_state_dict = stream.state_dict, stream.load_state_dict

    def __iter__(self):
        return self

    def __next__(self):
        self.at -= 1
        if self.at == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return next(self.stream).double()


def train(world, images, options, out=None, resume=False, at=0):
    """Train in double, 16 images in the world's batch. Returns the trainer and what `fit` returned."""
    config = Config.from_flags(**SMALL | {"batch": 16 // world.size} | options)
    # On another rank other weights: they are replaced by rank 0's.
    torch.manual_seed(world.rank)
    d_norm = config.model.d_norm
    generator, discriminator = models.build("dcgan", resolution=28, channels=1, latent=8, width=4, d_norm=d_norm)
    generator, discriminator = InDouble(generator if d_norm == "batch" else Generator()), discriminator.double()
    if config.grow_images:
        generator, discriminator = Growing(classifies=False), Growing(classifies=True)
    torch.manual_seed(0)
    trainer = Trainer(generator, discriminator, config.loss.adversarial, config, out=out, world=world)
    stream = BatchStream(images, config.data.batch, config.seed, CPU, rank=world.rank, world=world.size)
    return trainer, trainer.fit(DoubleBatches(stream, at), resume=resume)


def paired(world):
    """Train on pairs, a noisy image and the image, in double, 16 in the world's batch."""
    torch.manual_seed(world.rank)
    generator = nn.Sequential(nn.Conv2d(1, 4, 3, 1, 1), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 3, 1, 1), nn.Tanh()).double()
    generator.source_channels = 1
    torch.manual_seed(0)
    config = Config.from_flags(**SMALL | {"l1_weight": 10.0, "r1_weight": 1.0, "accumulate": 2})
    trainer = Trainer(generator, Conditional().double(), config=config, world=world)

    def batches():
        random, n = torch.Generator().manual_seed(0), 16 // world.size
        while True:
            drawn = torch.rand(2, 16, 1, 8, 8, generator=random, dtype=torch.float64) * 2 - 1
            target, noise = drawn[:, n * world.rank : n * (world.rank + 1)]
            yield target + 0.1 * noise, target

    return trainer, trainer.fit(batches())


def uneven(world):
    """Train with batches of another size on each rank."""
    _, discriminator = models.build("dcgan", resolution=28, channels=1, latent=8, width=4)
    Trainer(Generator(), discriminator, config=Config.from_flags(**SMALL), world=world).fit(
        iter([torch.rand(4 + world.rank, 1, 28, 28) * 2 - 1])
    )


def not_finite(world):
    """Train with synchronized batch norms; the last rank's images are not finite."""
    networks = models.build("dcgan", resolution=28, channels=1, latent=8, width=4, d_norm="batch")
    config = Config.from_flags(**SMALL | CASES["synchronized"] | {"max_skipped": 3})
    bad = torch.full((4, 1, 28, 28), float("nan") if world.rank == world.size - 1 else 0.5)
    Trainer(*networks, config=config, world=world).fit(itertools.repeat(bad))


def rolled_back(world, images, out):
    """Train; the first rank alone finds at step 5 that the run diverged at step 4."""
    diagnose = Monitor.diagnose

    def once(self, row):
        diagnose(self, row)
        if world.rank == 0 and row["step"] == 5 and not self._state.rollbacks:
            return Diagnosis("divergence", 4, 5, "made up", ())
        return None

    Monitor.diagnose = once
    try:
        return train(world, images, {"on_collapse": "rollback", "log_every": 1, "checkpoint_every": 2}, out)[0]
    finally:
        Monitor.diagnose = diagnose


def decided_mode(world, images, modes):
    """Train where the compile policy of each rank finds another mode, by rank. Returns the mode of this rank."""

    def compiled(self, mode):
        found = modes[world.rank] if mode == "on" else mode
        return Steps(self._steps.discriminator, self._steps.generator, found, ""), 0.0

    own, CompilePolicy._compiled = CompilePolicy._compiled, compiled
    try:
        return train(world, images, {"compile": "on", "steps": 2})[0].steps.mode
    finally:
        CompilePolicy._compiled = own


def tensors(trainer):
    parts = {"generator": trainer.generator, "discriminator": trainer.discriminator, "ema": trainer.ema.module}
    return {f"{part}.{name}": t.clone() for part, n in parts.items() for name, t in n.state_dict().items()}


def some_tensors(rank):
    """Of three types, in several buckets of 64 bytes, some not contiguous."""
    random = torch.Generator().manual_seed(rank)
    draw = torch.randn(6, 8, generator=random)
    return [
        draw[0].clone(), draw[1].double(), draw[:3].clone().T, draw[5].bfloat16(), draw[2:4, ::2].clone(),
        draw[0, 0].clone(), torch.empty(0), draw[4, :5].double().clone(),
    ]  # fmt: skip


def second_order(norm, x, combine):
    """Gradients of a gradient penalty through a batch norm, in the input and in the weight."""
    x = x.clone().requires_grad_()
    (g,) = torch.autograd.grad((norm(x) ** 3).mean() * combine, x, create_graph=True)
    return torch.autograd.grad((g**2).sum(), [x, norm.weight])


def batch_norm():
    norm = nn.BatchNorm2d(3).double()
    torch.nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(1))
    return norm


def run_rank(folder, images):
    """Everything that two ranks compute for these tests, in one pair of processes; the results go to folder/RANK.pt."""
    result = {}
    with process_group("cpu") as world:
        for name, options in CASES.items():
            trainer, last = train(world, images, options)
            result[name] = tensors(trainer), last, trainer.state.images
            result[name, "seed"] = torch.initial_seed()

        trainer, last = paired(world)
        result["paired"] = tensors(trainer), last
        result["resumed"] = tensors(train(world, images, {}, folder / "one-two", resume=True)[0])
        train(world, images, {"steps": 3}, folder / "two-one")

        try:
            train(world, images, {"steps": 8, "log_every": 4}, folder / "stopped", at=2 if world.rank else 0)
        except KeyboardInterrupt:
            result["stopped"] = True

        trainer = rolled_back(world, images, folder / "rolled-back")
        result["rolled back"] = tensors(trainer), trainer.state.rollbacks[0]["rates"], trainer.state.images

        pairs = ("on", "off"), ("off", "graph"), ("graph", "on"), ("on", "on")
        result["modes"] = [decided_mode(world, images, modes) for modes in pairs]

        distributed.BUCKET_BYTES = 64
        result["mean"] = some_tensors(world.rank)
        world.mean_(result["mean"])
        result["broadcast"] = [*some_tensors(world.rank), torch.tensor(world.rank == 0)]
        world.broadcast_(result["broadcast"])
        result["any"] = [world.any(False), world.any(world.rank == 1)]

        norm = batch_norm()
        synchronize(norm, world)
        own = torch.randn(8, 3, 2, 2, generator=torch.Generator().manual_seed(0)).double()[world.rank * 4 :][:4]
        result["second order"] = second_order(norm, own, 1 / world.size)
        result["state"] = norm.state_dict()

        for name, broken in {
            "flags": lambda: train(world, images, {"lr_g": 1e-4 * (1 + world.rank)}),
            "batches": lambda: uneven(world),
            "not finite": lambda: not_finite(world),
            "tensors": lambda: world.mean_([torch.zeros(2)] * (1 + world.rank)),
        }.items():
            try:
                broken()
            except FastganError as error:
                result[name] = f"{type(error).__name__}: {error}"
    torch.save(result, folder / f"{world.rank}.pt")


# --- the tests -------------------------------------------------------------------------------------------------------


def start(words, tmp_path, ranks=2):
    """`python words` on two ranks, without torchrun."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    return [
        subprocess.Popen(
            [sys.executable, *map(str, words)],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    path = tmp_path_factory.mktemp("pixels") / "images.npz"
    np.savez(path, images=np.random.default_rng(0).integers(0, 255, (50, 28, 28), dtype=np.uint8))
    return path


@pytest.fixture(scope="module")
def images(pixels):
    return open_source(pixels)


@pytest.fixture(scope="module")
def results(tmp_path_factory, pixels, images):
    """The results of both ranks, and the folder of their runs."""
    folder = tmp_path_factory.mktemp("results")
    train(World(), images, {"steps": 3}, folder / "one-two")
    processes = start([__file__, folder, pixels], folder)
    for process in processes:
        _, error = process.communicate(timeout=300)
        assert process.returncode == 0, error[-3000:]
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)], folder


def assert_close(one, other, limit=1e-9):
    assert one.keys() == other.keys()
    # Relative to the step size of Adam, by which a weight has moved about six times: float64 leaves a rounding of
    # 1e-16 in a gradient, which Adam divides by its eps of 1e-8 at worst.
    worst = max(float((one[name].double() - other[name].double()).abs().max()) for name in one)
    assert worst <= limit, worst


@pytest.mark.parametrize("case", [name for name in CASES if name != "not synchronized"])
def test_two_ranks_equal_one_of_twice_the_batch(results, images, case):
    trainer, last = train(World(), images, CASES[case])
    found, their_last, their_images = results[0][0][case]
    assert_close(found, tensors(trainer))
    assert their_images == trainer.state.images
    for name in ("loss/generator", "loss/discriminator", "logit/fake", "gradient/generator"):
        assert their_last[name] == pytest.approx(last[name], rel=1e-5, abs=1e-6)


def test_two_ranks_on_pairs_equal_one_of_twice_the_batch(results):
    trainer, last = paired(World())
    (one, their_last), (other, _) = (rank["paired"] for rank in results[0])
    assert_close(one, tensors(trainer))
    assert_close(one, other, 0.0)
    for name in ("l1/batch", "loss/generator", "loss/discriminator"):
        assert their_last[name] == pytest.approx(last[name], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_ranks_are_identical_bit_for_bit(results, case):
    (one, last, _), (other, their_last, _) = (rank[case] for rank in results[0])
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name
    assert {n: v for n, v in last.items() if "speed" not in n} == {
        n: v for n, v in their_last.items() if "speed" not in n
    }


def test_all_ranks_roll_back_when_rank_0_does(results):
    (one, rates, images), (other, their_rates, _) = (rank["rolled back"] for rank in results[0])
    for name in one:
        assert torch.equal(one[name], other[name]), name
    assert rates == their_rates == {"generator": 0.5, "discriminator": 0.5}
    assert images == 6 * 16
    rows = [json.loads(line) for line in (results[1] / "rolled-back" / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], "rollbacks" in row) for row in rows] == [(i, i == 3) for i in range(1, 7)]


def test_compile_modes_are_identical_on_all_ranks(results):
    for result in results[0]:
        assert result["modes"] == ["off", "off", "graph", "on"]


def test_batch_statistics_differ_between_ranks_without_sync_statistics(results, images):
    one_rank, _ = train(World(), images, CASES["not synchronized"])
    with pytest.raises(AssertionError):
        assert_close(results[0][0]["not synchronized"][0], tensors(one_rank), 1e-4)


def test_default_rng_seeds_differ_between_ranks(results):
    one, other = ([rank[case, "seed"] for case in CASES] for rank in results[0])
    assert all(a != b for a, b in zip(one, other, strict=True))


def test_a_run_resumes_on_more_and_on_fewer_ranks(results, images):
    whole = tensors(train(World(), images, {})[0])
    (rank, _), folder = results
    assert_close(rank["resumed"], whole)
    assert_close(tensors(train(World(), images, {}, folder / "two-one", resume=True)[0]), whole)
    assert json.loads((folder / "one-two" / "config.json").read_text())["world"] == 2
    lines = [json.loads(line) for line in (folder / "one-two" / "metrics.jsonl").read_text().splitlines()]
    assert [line["images"] for line in lines] == [32, 48, 64, 96]


def test_a_signal_to_one_rank_stops_all_at_the_same_step(results):
    ranks, folder = results
    assert [rank.get("stopped") for rank in ranks] == [True, True]
    # Sent in step 2; the ranks agree where they pause, at step 3 for a checkpoint.
    assert checkpoint.steps_in(folder / "stopped" / "checkpoints") == [3]
    assert json.loads((folder / "stopped" / "status.json").read_text())["state"] == "interrupted"


def test_means_over_several_buckets(results):
    for rank in results[0]:
        for found, *each in zip(rank["mean"], some_tensors(0), some_tensors(1), strict=True):
            assert torch.equal(found, (each[0] + each[1]) / 2)
        for found, sent in zip(rank["broadcast"], [*some_tensors(0), torch.tensor(True)], strict=True):
            assert torch.equal(found, sent)
        assert rank["any"] == [False, True]


def test_a_bucket_holds_one_dtype_and_at_most_bucket_bytes(monkeypatch):
    monkeypatch.setattr(distributed, "BUCKET_BYTES", 64)
    sizes = [[(t.dtype, t.numel()) for t in bucket] for bucket in buckets(some_tensors(0))]
    single, double, half = torch.float32, torch.float64, torch.bfloat16
    assert sizes == [
        [(single, 8)], [(single, 24)], [(single, 8), (single, 1), (single, 0)],
        [(double, 8)], [(double, 5)], [(half, 8)],
    ]  # fmt: skip


def test_second_derivatives_through_synchronized_statistics(results):
    x = torch.randn(8, 3, 2, 2, generator=torch.Generator().manual_seed(0)).double()
    norm = batch_norm()
    dx, dweight = second_order(norm, x, 1.0)
    (one, other), _ = results
    torch.testing.assert_close(torch.cat([one["second order"][0], other["second order"][0]]), dx)
    torch.testing.assert_close(one["second order"][1] + other["second order"][1], dweight)
    assert list(one["state"]) == list(norm.state_dict())
    for name, value in norm.state_dict().items():
        torch.testing.assert_close(one["state"][name], value)


def test_ranks_that_differ_are_an_error(results):
    for rank in results[0]:
        assert rank["flags"] == "UsageError: lr_g: expected the same on all ranks, got 0.0001 to 0.0002"
        assert rank["batches"] == "UsageError: batches: expected the same on all ranks, got 4 to 5"
        assert rank["tensors"] == "UsageError: tensors: expected the same on all ranks, got 1 to 2"


def test_all_ranks_name_the_rank_whose_batch_is_not_finite(results):
    first, second = (result["not finite"] for result in results[0])
    message = "3 updates in a row, up to step 3; first bad: the batch's 'real' (3136 of 3136 values are not finite)"
    assert f"NonFiniteError: the discriminator's loss or gradient was not finite in {message} on rank 1;" in first
    assert second == first


def test_a_world_of_one_needs_no_process_group_and_a_larger_one_all_ranks(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with process_group("cpu") as world:
        x = torch.tensor([1.0])
        world.mean_([x])
        world.agree({"x": 1})
        assert world.any(True)
        assert (world.size, float(x)) == (1, 1.0)
        assert not torch.distributed.is_initialized()
    monkeypatch.setenv("WORLD_SIZE", "2")
    networks = models.build("mlp", resolution=28, channels=1, latent=8, width=4)
    with pytest.raises(UsageError, match="world: torchrun has started 2 ranks"):
        Trainer(*networks)
    assert Trainer(*networks, world=World()).state.world.size == 1
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(RankError, match=r"rank 0 of 2 did not meet .*MASTER_ADDR expected"), process_group("cpu"):
        pass
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(UsageError, match="WORLD_SIZE: expected a number in the environment"), process_group("cpu"):
        pass


def test_batches_of_another_size_are_an_error_on_several_ranks():
    networks = models.build("mlp", resolution=28, channels=1, latent=8, width=4)
    trainer = Trainer(*networks, config=Config.from_flags(**SMALL), world=World(0, 2, CPU))
    trainer.state.batch = {"real": torch.zeros(8, 1)}
    batch = next(Batches([torch.zeros(8, 1)], trainer.state))
    assert {name: len(tensor) for name, tensor in batch.items()} == {"real": 8}
    with pytest.raises(UsageError, match=r"expected 8 images each time on several ranks, got 3; .*drop_last"):
        next(Batches([torch.zeros(3, 1)], trainer.state))


def test_only_pytorchs_batch_norms_can_be_synchronized():
    class OwnBatchNorm(nn.BatchNorm2d):
        pass

    with pytest.raises(UsageError, match="sync_statistics: 0 is a OwnBatchNorm"):
        synchronize(nn.Sequential(OwnBatchNorm(2)), World(0, 2))


def test_resuming_keeps_the_images_of_an_update():
    def config(**options):
        return Config.from_flags(**options).settled(ADVERSARIAL["non-saturating"])  # as a run writes it

    facts = {"config": config(batch=16).to_dict()}
    check_resumed(config(batch=16), facts, 1)
    check_resumed(config(batch=8, sync_statistics=True), facts, 2)
    check_resumed(config(batch=4, accumulate=2), facts, 2)
    check_resumed(config(batch=32), facts | {"world": 2}, 1)
    with pytest.raises(UsageError, match="got 2 × batch 16 × accumulate 1 = 32 instead of 1 × batch 16"):
        check_resumed(config(batch=16), facts, 2)
    with pytest.raises(UsageError, match=r"beta1: 0.1 differs from the run's 0.5"):
        check_resumed(config(batch=16, beta1=0.1), facts, 1)


TRAIN = ["-m", "fastgan", "train", "mlp", "--device", "cpu", "--width", 4, "--latent", 8, "--log-every", 1]
TRAIN += ["--compile", "off"]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_the_other_with_one_sentence(tmp_path, pixels, victim):
    words = [*TRAIN, "--data", pixels, "--batch", 4, "--steps", 10**6, "--checkpoint-every", 5, "--out", "run"]
    processes = start(words, tmp_path)
    kept, deadline = tmp_path / "run" / "checkpoints", time.monotonic() + 120
    while not checkpoint.steps_in(kept):
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes), [p.communicate() for p in processes]
        time.sleep(0.05)
    processes[victim].kill()
    _, error = processes[1 - victim].communicate(timeout=30)
    processes[victim].communicate()
    assert processes[1 - victim].returncode == 1
    (sentence,) = [line for line in error.splitlines() if line.startswith("fastgan:")]
    assert sentence.startswith(f"fastgan: rank {1 - victim} of 2 lost contact with the others at step ")
    assert " is whole; the run can go on with --resume " in sentence
    assert "Traceback" not in error
    assert "GLHF" not in error
    assert checkpoint.newest(kept)[1]["step"] % 5 == 0


def test_torchrun(tmp_path, pixels, command):
    run = tmp_path / "run"
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, *TRAIN]
    torchrun += ["--data", pixels, "--batch", 4, "--steps", 4, "--out", run]

    def launch():
        return subprocess.run(
            [sys.executable, *map(str, torchrun)], cwd=tmp_path, capture_output=True, text=True, timeout=200
        )

    done = launch()
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("2 ranks × batch 4 = 8 images per update") == 1
    assert done.stdout.count("trained 4 steps, 32 images") == 1
    assert done.stderr.count("discriminator: real and fake images") == 1
    assert checkpoint.steps_in(run / "checkpoints") == [4]

    again = launch()
    assert again.returncode != 0
    (sentence,) = [line for line in again.stderr.splitlines() if "fastgan: " in line]
    assert "already holds a run; continue it with --resume" in sentence

    alone = command("train", "--resume", run, "--steps", 6)
    assert alone.returncode == 2
    assert "got 1 × batch 4 × accumulate 1 = 4 instead of 2 × batch 4 × accumulate 1 = 8" in alone.stderr
    alone = command("train", "--resume", run, "--steps", 6, "--batch", 8)
    assert alone.returncode == 0, alone.stderr
    assert "trained 6 steps, 48 images" in alone.stdout


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_rank(Path(sys.argv[1]), open_source(sys.argv[2]))
