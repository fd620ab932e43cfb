"""Runs that are killed: a program that imports once and forks a process for each part of a run.

killed.py runs FOLDER IMAGES.npz KILLS: a run that is not killed, KILLS runs that are killed once at a random moment,
and one that is killed repeatedly. killed.py saves FOLDER: checkpoint.save killed before each of its operations on
files. Both print JSON.
"""

import json
import logging
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fastgan import Config, Trainer, models
from fastgan._util import random as rng
from fastgan.data import open_source
from fastgan.data.stream import BatchStream
from fastgan.errors import CheckpointError
from fastgan.train import checkpoint

CONFIG = Config.from_flags(latent=8, width=4, batch=8, steps=24, log_every=1, sample_every=8, checkpoint_every=2,
                keep_checkpoints=1, compile="off")  # fmt: skip


class RandomDropout(nn.Module):
    """A discriminator that draws from torch's default generator outside of any layer."""

    def __init__(self, discriminator):
        super().__init__()
        self.discriminator = discriminator

    def forward(self, images):
        return self.discriminator(nn.functional.dropout(images, 0.2, training=self.training))


class Batches:
    """Augmented by Python's and numpy's global generators; the fourth batch is NaN, so that learning rates back off."""

    def __init__(self, images):
        self.stream = BatchStream(images, CONFIG.data.batch, CONFIG.seed, torch.device("cpu"))
        self.state_dict, self.load_state_dict = self.stream.state_dict, self.stream.load_state_dict

    def __iter__(self):
        return self

    def __next__(self):
        batch = next(self.stream) * random.uniform(0.9, 1.0) + 0.01 * np.random.rand()  # noqa: NPY002
        return batch * float("nan") if self.stream.position == 4 * CONFIG.data.batch else batch


def train(out, images, resume):
    """Start or resume a run in this process."""
    torch.set_num_threads(1)
    rng.seed(0)
    generator, discriminator = models.build("dcgan", resolution=28, channels=1, latent=8, width=4, d_norm="spectral")
    trainer = Trainer(generator, RandomDropout(discriminator), config=CONFIG, out=out)
    trainer.fit(Batches(open_source(images)), resume=resume)


def forked(function, *arguments, kill_after=None):
    """Run in a child process, killed after `kill_after` seconds. Returns (ended by itself, seconds)."""
    begun = time.monotonic()
    child = os.fork()
    if not child:
        code = 1
        try:
            function(*arguments)
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit("a child process ended with an error")
    return os.WIFEXITED(status), time.monotonic() - begun


def runs(folder, images, kills):
    """killed_at: for each run the step of its newest checkpoint when it was killed. processes: of the last run."""
    images, kills = Path(images), int(kills)
    train(folder / "warm", images, False)  # imports here, once, what every process would
    _, whole = forked(train, folder / "whole", images, False)
    moments, killed_at = random.Random(0), []
    for i in range(kills):
        out = folder / f"run{i:02d}"
        # One in each of as many equal parts of the run's time.
        done, _ = forked(train, out, images, False, kill_after=whole * (i + moments.random()) / kills)
        steps = checkpoint.steps_in(out / "checkpoints")
        killed_at.append("finished" if done else steps[-1] if steps else None)
        forked(train, out, images, (out / "config.json").exists())
    out, processes = folder / "again", 0
    done = False
    while not done:
        # Longer each time, or it might never reach the first checkpoint.
        processes += 1
        seconds = whole * (0.2 + 0.1 * processes * moments.random())
        done, _ = forked(train, out, images, (out / "config.json").exists(), kill_after=seconds)
    return {"killed_at": killed_at, "processes": processes, "seconds": whole}


def parts(step):
    """The tensors of the checkpoint of a step."""
    return {part: {"w": torch.full((3,), float(step))} for part in checkpoint.PARTS}


def save_and_die(folder, step, keep, operation):
    """Save, killed before the operation on files with that index."""
    left = operation

    def watch(event, _):
        nonlocal left
        if event in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir"):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    checkpoint.save(folder, step, parts(step), {"version": "new"}, keep)


def saves(folder):
    """For each scene the newest checkpoint after a kill before operation 0, 1, ... until a save ends by itself."""
    scenes = {"next": ([1, 2], 3, 1), "again": ([1], 1, 1), "back": ([1, 2, 3], 2, 2)}
    found = {}
    for scene, (before, step, keep) in scenes.items():
        found[scene], done = [], False
        while not done:
            directory = folder / scene / str(len(found[scene]))
            for old in before:
                checkpoint.save(directory, old, parts(old), {"version": "old"}, 3)
            if scene == "back":
                (directory / "00000003" / "ema.safetensors").write_bytes(b"damaged")
            done, _ = forked(save_and_die, directory, step, keep, len(found[scene]))
            warnings = []
            handler = logging.Handler()
            handler.emit = warnings.append
            checkpoint._logger.addHandler(handler)
            try:
                at, state = checkpoint.newest(directory)
                value = checkpoint.load_part(at, "ema")["w"][0].item()
                found[scene].append([state["step"], state["version"], value, len(warnings)])
            except CheckpointError as error:
                found[scene].append([str(error)])
            finally:
                checkpoint._logger.removeHandler(handler)
            checkpoint.save(directory, 9, parts(9), {}, 1)
            if [path.name for path in directory.iterdir()] != ["00000009"]:
                found[scene].append([f"left: {sorted(path.name for path in directory.iterdir())}"])
    return found


if __name__ == "__main__":
    name, where, *rest = sys.argv[1:]
    print(json.dumps({"runs": runs, "saves": saves}[name](Path(where), *rest)))
