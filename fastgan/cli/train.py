"""fastgan train, fastgan presets."""

from __future__ import annotations

import dataclasses
import logging
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from fastgan._util import random as rng
from fastgan.cli._file import flags_of
from fastgan.cli._parse import Nothing, parse
from fastgan.data.stream import BatchStream
from fastgan.errors import UsageError
from fastgan.models.registry import parse_option
from fastgan.train import Trainer, rundir
from fastgan.train.config import Config, check_resumed
from fastgan.train.data import open_images
from fastgan.train.distributed import World, process_group, reported_once, torchrun_size
from fastgan.train.networks import build_networks
from fastgan.train.presets import PRESETS, about, costs, preset
from fastgan.train.rundir import read_config

_logger = logging.getLogger(__name__)

_MODEL_OPTION = "--model."


@dataclass(frozen=True)
class TrainOptions:
    """Train a generator. PRESET (see `fastgan presets`) comes first; --config FILE (.yaml, .toml or .json, of the
    flags below) overrides it, and flags override both. --model.NAME VALUE sets an option of the family of networks
    alone (docs/networks.md)."""

    config: Annotated[Config, tyro.conf.OmitArgPrefixes]
    out: Path | None = None
    """run directory (runs/PRESET when left out)"""
    resume: tyro.conf.FlagCreatePairsOff[bool] = False
    """continue the run in --out from its newest whole checkpoint"""
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """replace the run in --out"""


def train(argv: list[str]) -> None:
    """fastgan train [PRESET] [--config FILE] [--data SOURCE] [--steps N] [--out DIR] [--resume] [--overwrite] [...]"""
    with reported_once():
        options, out = _options(argv)
    with process_group(options.config.device) as world:
        command = shlex.join(["fastgan", "train", *argv])
        _train(options.config, out, options.resume, options.overwrite, command, world)


def _options(argv: list[str]) -> tuple[Any, Path]:
    """What was asked, and the run directory."""

    def parsed(words: list[str], default: Config) -> TrainOptions:
        words, chosen = _without_model_options(words)
        if (_value_of(words, "--model")[0] or default.model.family) != default.model.family:
            default = _with_options(default, None)  # they are those of another family
        asked = parse(TrainOptions, words, "train", TrainOptions(default), " [PRESET]")
        return dataclasses.replace(asked, config=_with_options(asked.config, chosen))

    named = bool(argv) and not argv[0].startswith("-")
    name, rest = (argv[0], argv[1:]) if named else ("demo", argv)
    file, rest = _value_of(rest, "--config")
    if file is not None:
        # Before the other flags, of which the last one counts.
        rest = [*flags_of(Path(file)), *rest]
    if "--resume" not in rest:
        asked = parsed(rest, preset(name))
        return asked, asked.out or Path("runs") / name
    # The flags are read against the run's own configuration, and may change only what does not change the outcome.
    if named:
        raise UsageError(f"resume: a resumed run has its own configuration; leave the preset {name!r} out")
    if file is not None:
        raise UsageError(f"resume: a resumed run has its own configuration; leave --config {file} out")
    if "--overwrite" in rest:
        raise UsageError("resume: --resume and --overwrite contradict each other")
    out = Path(_value_of(rest, "--out")[0] or Path("runs") / name)
    facts = read_config(out)
    asked = parsed(rest, Config.from_dict(facts["config"]))
    check_resumed(asked.config, facts, torchrun_size())
    return asked, out


def _with_options(config: Config, chosen: dict[str, str] | None) -> Config:
    """The configuration with options of its family of networks, which are texts here; without any if None."""
    found = {name: parse_option(config.model.family, name, text) for name, text in (chosen or {}).items()}
    options = {} if chosen is None else config.model.options | found
    return dataclasses.replace(config, model=dataclasses.replace(config.model, options=options))


def _without_model_options(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """The words without `--model.NAME VALUE`, and these."""
    rest, found = [], {}
    stream = iter(words)
    for word in stream:
        if not word.startswith(_MODEL_OPTION):
            rest.append(word)
            continue
        name, given, text = word.removeprefix(_MODEL_OPTION).partition("=")
        value = text if given else next(stream, None)
        if value is None:
            raise UsageError(f"{word}: expected a value behind it")
        found[name.replace("-", "_")] = value
    return rest, found


def _value_of(words: list[str], flag: str) -> tuple[str | None, list[str]]:
    """The value of a flag, and the words without it."""
    for i, word in enumerate(words):
        if word == flag and i + 1 < len(words):
            return words[i + 1], words[:i] + words[i + 2 :]
        if word.startswith(f"{flag}="):
            return word.removeprefix(f"{flag}="), words[:i] + words[i + 1 :]
    return None, words


def _train(config: Config, out: Path, resume: bool, overwrite: bool, command: str, world: World) -> None:
    # Before the images are read: that can take long.
    if world.rank == 0:
        rundir.check(out, resume=resume, overwrite=overwrite)
    world.barrier()
    images, config = open_images(config)
    labels = config.model.condition != "none"
    shape = (images.channels, *images.resolution)
    rng.seed(config.seed)
    generator, discriminator = build_networks(config, shape)
    dataset: dict[str, Any] = {
        "name": images.name, "count": len(images), "shape": list(shape), "license": images.license,
        "range_real": [-1.0, 1.0],
    }  # fmt: skip
    if labels and images.class_names is not None:
        dataset["class_names"] = list(images.class_names)
    if resume:
        # What reproduces the run is the command that began it.
        command = rundir.read_config(out).get("command", command)
    about = {"command": command, "dataset": dataset, "image_shape": list(shape)}
    trainer = Trainer(generator, discriminator, config.loss.adversarial, config, out=out, about=about, world=world)
    batches = BatchStream(
        images, config.data.batch, config.seed, trainer.device, rank=world.rank, world=world.size,
        held_out=config.data.held_out, labels=labels,
    )  # fmt: skip
    _logger.info("training %s on %s (%d images %s; %s) → %s", config.model.family, images.name, len(images), shape,
                 batches.where, out)  # fmt: skip
    if world.size > 1:
        accumulate = config.optim.accumulate
        more = f" × accumulate {accumulate}" if accumulate > 1 else ""
        total = world.size * config.data.batch * accumulate
        _logger.info("%d ranks × batch %d%s = %d images per update", world.size, config.data.batch, more, total)
    held_out, reference = None, images.images
    if config.data.held_out:
        held_out, reference = batches.held_out, images.images[batches.given]
    trainer.fit(batches, held_out=held_out, reference=reference, resume=resume, overwrite=overwrite)
    state = trainer.state
    if world.rank == 0:
        print(f"trained {state.step} steps, {state.images} images in {state.seconds:.0f} s:"
              f" {state.images / state.seconds:.0f} images per second")  # fmt: skip
        print(f"report: {out / 'report.html'}")


def presets(argv: list[str]) -> None:
    """fastgan presets"""
    parse(Nothing, argv, "presets")
    print("name, time for all steps and memory on two cores with AVX2, what it is")
    for name in PRESETS:
        print(f"{name:13} {costs(name):>15}  {about(name)}")
