"""fastgan train, fastgan presets."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from fastgan.cli._file import flags_of
from fastgan.cli._parse import Nothing, parse
from fastgan.errors import UsageError

if TYPE_CHECKING:
    from fastgan.train.config import Config
    from fastgan.train.distributed import World
    from fastgan.train.options import TrainOptions


def train(argv: list[str]) -> None:
    """fastgan train [PRESET] [--config FILE] [--data SOURCE] [--steps N] [--out DIR] [--resume] [--overwrite] [...]"""
    from fastgan.train.distributed import joined, one_voice

    with one_voice():
        asked, out = _train_options(argv)
    with joined(asked.config.device) as world:
        _train(asked.config, out, asked.resume, asked.overwrite, shlex.join(["fastgan", "train", *argv]), world)


def _train_options(argv: list[str]) -> tuple[TrainOptions, Path]:
    from fastgan.train.config import Config
    from fastgan.train.distributed import asked_size
    from fastgan.train.options import TrainOptions, check_resumed
    from fastgan.train.presets import preset
    from fastgan.train.rundir import read_config

    named = bool(argv) and not argv[0].startswith("-")
    name, rest = (argv[0], argv[1:]) if named else ("demo", argv)
    file, rest = _taken(rest, "--config")
    if file is not None:
        # Before the other flags, of which the last one counts.
        rest = [*flags_of(Path(file)), *rest]
    if "--resume" not in rest:
        asked = parse(TrainOptions, rest, "train", TrainOptions(preset(name)))
        return asked, asked.out or Path("runs") / name
    # The flags are read against the run's own configuration, and may change only what does not change the outcome.
    if named:
        raise UsageError(f"resume: a resumed run has its own configuration; leave the preset {name!r} out")
    if file is not None:
        raise UsageError(f"resume: a resumed run has its own configuration; leave --config {file} out")
    if "--overwrite" in rest:
        raise UsageError("resume: --resume and --overwrite contradict each other")
    out = Path(_taken(rest, "--out")[0] or Path("runs") / name)
    facts = read_config(out)
    asked = parse(TrainOptions, rest, "train", TrainOptions(Config.from_dict(facts["config"])))
    check_resumed(asked.config, facts, asked_size())
    return asked, out


def _taken(words: list[str], flag: str) -> tuple[str | None, list[str]]:
    """What is said of a flag, and the words without it."""
    for i, word in enumerate(words):
        if word == flag and i + 1 < len(words):
            return words[i + 1], words[:i] + words[i + 2 :]
        if word.startswith(f"{flag}="):
            return word.removeprefix(f"{flag}="), words[:i] + words[i + 1 :]
    return None, words


def _train(config: Config, out: Path, resume: bool, overwrite: bool, command: str, world: World) -> None:
    from fastgan.data import open_source
    from fastgan.data.stream import BatchStream, labels_of
    from fastgan.train import Trainer, rng_state, rundir
    from fastgan.train.load import build_networks

    say = print if world.rank == 0 else lambda sentence: None
    # Before the images are read: that can take long.
    if world.rank == 0:
        rundir.check(out, resume=resume, overwrite=overwrite)
    world.barrier()
    images = open_source(config.data, resolution=config.resolution, channels=config.channels)
    if config.condition != "none":
        labels = labels_of(images)
        config = dataclasses.replace(config, classes=config.classes or images.num_classes)
        if labels.max() >= (config.classes or 0):
            raise UsageError(
                f"classes: expected a number above the labels of {images.name}, which go up to"
                f" {labels.max()}, got {config.classes}"
            )
    shape = (images.channels, *images.resolution)
    rng_state.seed(config.seed)
    generator, discriminator = build_networks(config, shape)
    dataset = {
        "name": images.name, "count": len(images), "shape": list(shape), "license": images.license,
        "range_real": [-1.0, 1.0],
    }  # fmt: skip
    if config.condition != "none" and images.class_names is not None:
        dataset["class_names"] = list(images.class_names)
    if resume:
        # What reproduces the run is the command that began it.
        command = rundir.read_config(out).get("command", command)
    about = {"command": command, "dataset": dataset, "image_shape": list(shape)}
    trainer = Trainer(generator, discriminator, config.game, config, out=out, about=about, world=world)
    batches = BatchStream(
        images, config.batch, config.seed, trainer.device, rank=world.rank, world=world.size, held_out=config.held_out,
        labels=config.condition != "none",
    )  # fmt: skip
    say(f"training {config.model} on {images.name} ({len(images)} images {shape}; {batches.where}) → {out}")
    if world.size > 1:
        more = f" × accumulate {config.accumulate}" if config.accumulate > 1 else ""
        total = world.size * config.batch * config.accumulate
        say(f"{world.size} ranks × batch {config.batch}{more} = {total} images per update")
    held_out, reference = None, images.images
    if config.held_out:
        held_out, reference = batches.held_out, images.images[batches.given]
    trainer.fit(batches, held_out=held_out, reference=reference, resume=resume, overwrite=overwrite)
    say(f"trained {trainer.step} steps, {trainer.images} images in {trainer.seconds:.0f} s:"
          f" {trainer.images / trainer.seconds:.0f} images per second")  # fmt: skip
    say(f"report: {out / 'report.html'}")


def presets(argv: list[str]) -> None:
    """fastgan presets"""
    from fastgan.train.presets import PRESETS, about, costs

    parse(Nothing, argv, "presets")
    print("name, time for all steps and memory on two cores with AVX2, what it is")
    for name in PRESETS:
        print(f"{name:13} {costs(name):>15}  {about(name)}")
