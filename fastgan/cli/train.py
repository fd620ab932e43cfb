"""fastgan train, fastgan presets."""

from __future__ import annotations

import dataclasses
import logging
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from fastgan._util import keyword_options
from fastgan._util import random as rng
from fastgan.cli._file import flags_of
from fastgan.cli._parse import Nothing, parse
from fastgan.data import kinds
from fastgan.data.stream import BatchStream
from fastgan.errors import FastganError, UsageError
from fastgan.models.registry import option_types
from fastgan.tasks import Generation
from fastgan.tasks.registry import task_class
from fastgan.train import Trainer, rundir
from fastgan.train.config import Config, check_resumed
from fastgan.train.distributed import World, process_group, reported_once, torchrun_size
from fastgan.train.networks import build_networks
from fastgan.train.presets import PRESETS, about, costs, preset
from fastgan.train.rundir import read_config
from fastgan.train.sources import Sources, open_data

_logger = logging.getLogger(__name__)

#: What has options of its own.
_TOPICS = ("model", "task", "data")


@dataclass(frozen=True)
class TrainOptions:
    """Train a generator. PRESET (see `fastgan presets`) comes first; --config FILE (.yaml, .toml or .json, of the
    flags below) overrides it, and flags override both. --model.NAME VALUE sets an option of the family of networks
    alone (docs/networks.md), --task.NAME VALUE one of the task, --data.NAME VALUE one of its data (docs/tasks.md)."""

    config: Annotated[Config, tyro.conf.OmitArgPrefixes]
    out: Path | None = None
    """run directory (runs/PRESET when left out)"""
    resume: Path | None = None
    """continue the run in this directory from its newest whole checkpoint"""
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """replace the run in --out"""
    init_from: Path | None = None
    """begin with the weights of this run, checkpoint (RUN/checkpoints/STEP), file, or pretrained network by its name
    (fastgan models list)"""


def train(argv: list[str]) -> None:
    """fastgan train [PRESET] [--config FILE] [--data SOURCE] [--steps N] [--out DIR] [--overwrite] [...]
    fastgan train --resume RUN [--steps N] [...]"""
    with reported_once():
        options, out = _options(argv)
    with process_group(options.config.device) as world:
        command = shlex.join(["fastgan", "train", *argv])
        _train(options, out, command, world)


def _options(argv: list[str]) -> tuple[TrainOptions, Path]:
    """What was asked, and the run directory."""

    def parsed(words: list[str], default: Config) -> TrainOptions:
        words, chosen = _without_options(words)
        if (_value_of(words, "--model")[0] or default.model.family) != default.model.family:
            default = _without(default, "model")  # they are those of another family
        if (_value_of(words, "--task")[0] or default.task.name) != default.task.name:
            default = _without(_without(default, "task"), "data")
        asked = parse(TrainOptions, words, "train", TrainOptions(default), " [PRESET]")
        return dataclasses.replace(asked, config=_with_options(asked.config, chosen))

    named = bool(argv) and not argv[0].startswith("-")
    name, rest = (argv[0], argv[1:]) if named else ("demo", argv)
    file, rest = _value_of(rest, "--config")
    if file is not None:
        # Before the other flags, of which the last one counts.
        rest = [*flags_of(Path(file)), *rest]
    if not any(word.split("=")[0] == "--resume" for word in rest):
        asked = parsed(rest, preset(name))
        return asked, asked.out or Path("runs") / name
    # The flags are read against the run's own configuration, and may change only what RESUMABLE names.
    run, _ = _value_of(rest, "--resume")
    if not run or run.startswith("--"):
        raise UsageError("resume: expected the directory of the run behind it: --resume RUN")
    if named:
        raise UsageError(f"resume: a resumed run has its own configuration; leave the preset {name!r} out")
    if file is not None:
        raise UsageError(f"resume: a resumed run has its own configuration; leave --config {file} out")
    for flag, why in (
        ("--overwrite", "--resume and --overwrite contradict each other"),
        ("--out", "the run goes on in its own directory; leave --out out"),
        ("--init-from", "a resumed run has weights of its own; leave --init-from out"),
    ):
        if any(word.split("=")[0] == flag for word in rest):
            raise UsageError(f"resume: {why}")
    facts = read_config(Path(run))
    asked = parsed(rest, Config.from_dict(facts["config"]))
    check_resumed(asked.config, facts, torchrun_size())
    return asked, Path(run)


def _with_options(config: Config, chosen: dict[str, dict[str, str]]) -> Config:
    """The configuration with the options, which are texts here, of its networks, its task and its data."""
    task = task_class(config.task.name or "generation")
    owners: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
        "model": (config.model.family, lambda: option_types(config.model.family)),
        "task": (f"the task {config.task.name}", lambda: keyword_options.option_types(task)),
        "data": (f"data of the kind {task.data}", lambda: kinds.option_types(task.data)),
    }
    for topic, texts in chosen.items():
        owner, known = owners[topic]
        found = {name: keyword_options.parse_option(owner, known(), name, text) for name, text in texts.items()}
        options = getattr(config, topic).options | found
        config = dataclasses.replace(config, **{topic: dataclasses.replace(getattr(config, topic), options=options)})
    return config


def _without(config: Config, topic: str) -> Config:
    """The configuration without the options of a topic."""
    return dataclasses.replace(config, **{topic: dataclasses.replace(getattr(config, topic), options={})})


def _without_options(words: list[str]) -> tuple[list[str], dict[str, dict[str, str]]]:
    """The words without `--model.NAME VALUE` and those of the other topics, and these."""
    rest, found = list[str](), dict[str, dict[str, str]]()
    stream = iter(words)
    for word in stream:
        flag, given, text = word.partition("=")
        topic, dot, name = flag.removeprefix("--").partition(".")
        if not (flag.startswith("--") and dot and topic in _TOPICS):
            rest.append(word)
            continue
        value = text if given else next(stream, None)
        if value is None:
            raise UsageError(f"{word}: expected a value behind it")
        found.setdefault(topic, {})[name.replace("-", "_")] = value
    return rest, found


def _value_of(words: list[str], flag: str) -> tuple[str | None, list[str]]:
    """The value of a flag, and the words without it."""
    for i, word in enumerate(words):
        if word == flag and i + 1 < len(words):
            return words[i + 1], words[:i] + words[i + 2 :]
        if word.startswith(f"{flag}="):
            return word.removeprefix(f"{flag}="), words[:i] + words[i + 1 :]
    return None, words


def _train(options: TrainOptions, out: Path, command: str, world: World) -> None:
    config, resume, overwrite = options.config, options.resume is not None, options.overwrite
    # Before the images are read: that can take long.
    if world.rank == 0:
        rundir.check(out, resume=resume, overwrite=overwrite)
    world.barrier()
    sources, config = _open_data(config, out if resume else None)
    images, shape = sources.images, sources.shape
    rng.seed(config.seed)
    generator, discriminator = build_networks(config, shape)
    if resume:
        # What reproduces the run is the command that began it.
        command = rundir.read_config(out).get("command", command)
    about = {"command": command, "dataset": sources.facts(), "image_shape": list(shape)}
    trainer = Trainer(generator, discriminator, config.loss.adversarial, config, out=out, about=about, world=world)
    batches = sources.stream(config, trainer.device, world)
    _logger.info("training %s on %s (%d images %s; %s) → %s", config.model.family, sources.name, len(images), shape,
                 batches.where, out)  # fmt: skip
    if world.size > 1:
        accumulate = config.optim.accumulate
        more = f" × accumulate {accumulate}" if accumulate > 1 else ""
        total = world.size * config.data.batch * accumulate
        _logger.info("%d ranks × batch %d%s = %d images per update", world.size, config.data.batch, more, total)
    held_out = batches.held_out if config.data.held_out else None
    reference = None
    if type(trainer.task) is Generation and isinstance(batches, BatchStream):
        reference = images
        if config.data.held_out:
            given = batches.given
            labels_given = None if images.labels is None else images.labels[given]
            reference = dataclasses.replace(images, images=images.images[given], labels=labels_given, pack=None)
    trainer.fit(
        batches, held_out=held_out, reference=reference, resume=resume, overwrite=overwrite,
        init_from=_weights_of(options.init_from),
    )  # fmt: skip
    state = trainer.state
    if world.rank == 0:
        print(f"trained {state.step} steps, {state.images} images in {state.seconds:.0f} s:"
              f" {state.images / state.seconds:.0f} images per second")  # fmt: skip
        print(f"report: {out / 'report.html'}")


def _weights_of(source: Path | None) -> Path | None:
    """The file of a pretrained network by its name, fetched if missing; anything else as it is."""
    from fastgan.upscale import pretrained

    if source is None or source.exists() or str(source) not in pretrained.KNOWN:
        return source
    return pretrained.fetch(str(source))


def _open_data(config: Config, run: Path | None) -> tuple[Sources, Config]:
    """The images that a configuration names. run: resumed, whose images they must be, wherever they are now."""
    if run is None:
        return open_data(config)
    facts = rundir.read_config(run)
    before = facts.get("dataset", {})
    try:
        sources, config = open_data(config, before.get("class_names"))
    except FastganError as error:
        if config.data.source != Config.from_dict(facts["config"]).data.source:
            raise
        raise type(error)(f"{error}; if the images of the run have moved, give --data NEW_PLACE") from error
    sources.check_same(before, run)
    return sources, config


def presets(argv: list[str]) -> None:
    """fastgan presets"""
    parse(Nothing, argv, "presets")
    print("name, time for all steps and memory on two cores with AVX2, what it is")
    for name in PRESETS:
        print(f"{name:13} {costs(name):>15}  {about(name)}")
