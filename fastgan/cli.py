"""The command line: `fastgan COMMAND ...`. Errors are one sentence and an exit code; --debug shows the traceback."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastgan import _env
from fastgan.errors import FastganError, UsageError

if TYPE_CHECKING:
    from fastgan.train.config import Config
    from fastgan.train.distributed import World
    from fastgan.train.options import TrainOptions


def main(argv: list[str] | None = None) -> None:
    """Entry point of the `fastgan` script."""
    code = run(sys.argv[1:] if argv is None else argv)
    if _env.read("WORLD_SIZE") not in ("", "1"):
        # Everything is written and the group has ended, but gloo's threads do not wait for Python's end: now and then a
        # rank aborted there ("terminate called without an active exception", torch 2.13).
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run(argv: list[str]) -> int:
    """Run one command and return its exit code: 0, 1 for failure, 2 for usage, 130 when interrupted."""
    debug = "--debug" in argv or _env.flag("FASTGAN_DEBUG")
    argv = [word for word in argv if word != "--debug"]
    try:
        return _dispatch(argv)
    except FastganError as error:
        if debug:
            raise
        return _fail(error, str(error), error.exit_code)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone (`| head`); python would complain again while closing stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if debug:
            raise
        text = str(error).strip().splitlines()
        return _fail(error, f"{text[0] if text else type(error).__name__} (run again with --debug to see where)", 1)


def _fail(error: Exception, sentence: str, code: int) -> int:
    # Of several processes that end together, one says why.
    if not getattr(error, "told", False):
        print(f"fastgan: {sentence}", file=sys.stderr)
    return code


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print("usage: fastgan COMMAND [options]      fastgan COMMAND --help\n")
        for name, (_, about) in COMMANDS.items():
            print(f"  {name:9} {about}")
        print("\n  --debug   show where an error comes from")
        return 0 if argv else 2
    if argv[0] == "--version":
        from fastgan import __version__

        print(__version__)
        return 0
    if argv[0] not in COMMANDS:
        from difflib import get_close_matches

        near = get_close_matches(argv[0], COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(COMMANDS)}"
        raise UsageError(f"unknown command {argv[0]!r}; {hint}")
    COMMANDS[argv[0]][0](argv[1:])
    return 0


def _parse(kind: type, argv: list[str], command: str, default: Any = None) -> Any:
    """Parse flags into a dataclass with tyro. Raises UsageError; prints and exits for --help."""
    import dataclasses

    import tyro

    known = [f.name for f in dataclasses.fields(kind)]
    if default is not None and "config" in known:
        known += [f.name for f in dataclasses.fields(default.config)]
    for word in argv:
        name = word[2:].split("=")[0].replace("-", "_")
        if word.startswith("--") and name not in (*known, "help") and name.removeprefix("no_") not in known:
            from fastgan.train.config import unknown

            flags = [f"--{n.replace('_', '-')}" for n in known]
            raise UsageError(unknown("option", word.split("=")[0], flags))
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, args=argv, prog=f"fastgan {command}", default=default)
    except SystemExit as end:
        if end.code in (0, None):
            raise
        raise UsageError(f"{_sentence_in(complaint.getvalue())}; see fastgan {command} --help") from None


def _sentence_in(panel: str) -> str:
    """The first paragraph inside a panel that tyro drew."""
    lines = [line.strip("│ ") for line in panel.splitlines()[1:]]
    end = next((i for i, line in enumerate(lines) if not line.strip("─╰╯")), len(lines))
    return " ".join(lines[:end]).rstrip(".")


# --- train -----------------------------------------------------------------------------------------------------------


def train(argv: list[str]) -> None:
    """fastgan train [PRESET] [--data SOURCE] [--steps N] [--out DIR] [--resume] [--overwrite] [every config field]"""
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
    if "--resume" not in rest:
        asked = _parse(TrainOptions, rest, "train", TrainOptions(preset(name)))
        return asked, asked.out or Path("runs") / name
    # The flags are read against the run's own configuration, and may change only what does not change the outcome.
    if named:
        raise UsageError(f"resume: a resumed run has its own configuration; leave the preset {name!r} out")
    if "--overwrite" in rest:
        raise UsageError("resume: --resume and --overwrite contradict each other")
    out = _out_among(rest) or Path("runs") / name
    facts = read_config(out)
    asked = _parse(TrainOptions, rest, "train", TrainOptions(Config.from_dict(facts["config"])))
    check_resumed(asked.config, facts, asked_size())
    return asked, out


def _out_among(words: list[str]) -> Path | None:
    for i, word in enumerate(words):
        if word == "--out" and i + 1 < len(words):
            return Path(words[i + 1])
        if word.startswith("--out="):
            return Path(word.removeprefix("--out="))
    return None


def _train(config: Config, out: Path, resume: bool, overwrite: bool, command: str, world: World) -> None:
    from fastgan.data import open_source
    from fastgan.data.stream import BatchStream
    from fastgan.train import Trainer, chance, rundir
    from fastgan.train.load import build_networks

    say = print if world.rank == 0 else lambda sentence: None
    # Before the images are read: that can take long.
    if world.rank == 0:
        rundir.check(out, resume=resume, overwrite=overwrite)
    world.barrier()
    images = open_source(config.data, resolution=config.resolution, channels=config.channels)
    shape = (images.channels, *images.resolution)
    chance.seed(config.seed)
    generator, discriminator = build_networks(config, shape)
    dataset = {
        "name": images.name, "count": len(images), "shape": list(shape), "licence": images.licence,
        "range_real": [-1.0, 1.0],
    }  # fmt: skip
    if resume:
        # What reproduces the run is the command that began it.
        command = rundir.read_config(out).get("command", command)
    about = {"command": command, "dataset": dataset, "image_shape": list(shape)}
    trainer = Trainer(generator, discriminator, config.game, config, out=out, about=about, world=world)
    batches = BatchStream(images, config.batch, config.seed, trainer.device, rank=world.rank, world=world.size)
    say(f"training {config.model} on {images.name} ({len(images)} images {shape}; {batches.where}) → {out}")
    if world.size > 1:
        more = f" × accumulate {config.accumulate}" if config.accumulate > 1 else ""
        total = world.size * config.batch * config.accumulate
        say(f"{world.size} ranks × batch {config.batch}{more} = {total} images per update")
    trainer.fit(batches, resume=resume, overwrite=overwrite)
    say(f"trained {trainer.step} steps, {trainer.images} images in {trainer.seconds:.0f} s:"
          f" {trainer.images / trainer.seconds:.0f} images per second")  # fmt: skip
    say(f"report: {out / 'report.html'}")


# --- sample, export, report ------------------------------------------------------------------------------------------


@dataclass
class _Sample:
    """Make a grid of images from a run or from an exported generator."""

    out: Path = Path("grid.png")
    """PNG to write"""
    n: int = 64
    """how many images"""
    seed: int = 0
    """seed of the latents; a run and its export give the same images for the same seed"""


def sample(argv: list[str]) -> None:
    """fastgan sample RUN|MODEL.onnx [--n 64] [--out grid.png] [--seed 0]"""
    source, rest = _positional(argv, "sample", "RUN or MODEL.onnx", _Sample)
    options = _parse(_Sample, rest, "sample")
    if not 1 <= options.n <= 10_000:
        raise UsageError(f"n: expected a number from 1 to 10000, got {options.n}")
    from fastgan.deploy.session import Session, latents
    from fastgan.report.picture import save_grid

    path = Path(source)
    if path.suffix == ".onnx":
        session = Session(path)
        z = latents(options.n, session.latent_shape, options.seed)
        start = time.perf_counter()
        images = session(z)
        where = f"ONNX Runtime, {session.provider}"
    else:
        import torch

        from fastgan.train.load import load_generator

        trained = load_generator(path)
        z = latents(options.n, trained.latent_shape, options.seed)
        start = time.perf_counter()
        images = trained.generator(torch.from_numpy(z)).numpy()
        where = f"PyTorch, step {trained.step}"
    seconds = time.perf_counter() - start
    try:
        save_grid(images, options.out, scale=max(1, 64 // images.shape[-1]))
    except OSError as error:
        raise UsageError(f"out: {options.out} cannot be written: {error.strerror or error}") from error
    print(f"{options.n} images in {1000 * seconds:.1f} ms ({where}): {options.out}")


@dataclass
class _Export:
    """Export the averaged generator of a run to ONNX, verified against PyTorch."""

    out: Path | None = None
    """file to write (RUN/generator.onnx when left out)"""


def export(argv: list[str]) -> None:
    """fastgan export RUN [--out generator.onnx]"""
    source, rest = _positional(argv, "export", "RUN", _Export)
    run_directory = Path(source)
    options = _parse(_Export, rest, "export")
    out = options.out or run_directory / "generator.onnx"
    from fastgan.deploy import export_onnx
    from fastgan.report.page import write_report
    from fastgan.train.load import load_generator

    trained = load_generator(run_directory)
    about = {
        "step": trained.step,
        "dataset": trained.facts["dataset"]["name"],
        "model": trained.facts["config"]["model"],
    }
    figures = export_onnx(trained.generator, out, trained.latent_shape, about=about)
    print(f"{out}: opset {figures['opset']}, {figures['bytes'] / 1e6:.2f} MB, from step {trained.step}")
    _print_figures(figures)
    if out.parent.resolve() == run_directory.resolve():
        write_report(run_directory)


def _print_figures(figures: dict[str, Any]) -> None:
    for row in figures["parity"]:
        error, limit = row["max_abs_error"], figures["limit"]
        print(f"  parity at batch {row['batch']:2}: max abs error {error:.1e} (allowed {limit:.0e})")
    runtime = figures["runtime"]
    print(f"  {runtime['provider']}: {runtime['latency_ms_batch1']:.2f} ms at batch 1,"
          f" {runtime['images_per_second_batch64']:.0f} images per second at batch 64")  # fmt: skip


@dataclass
class _Nothing:
    """No options."""


def report(argv: list[str]) -> None:
    """fastgan report RUN: write report.html anew, and say where everything is"""
    import json

    from fastgan.report.page import write_report
    from fastgan.report.read import read_run

    source, rest = _positional(argv, "report", "RUN", _Nothing)
    _parse(_Nothing, rest, "report")
    run_directory = Path(source)
    page = write_report(run_directory)
    found = read_run(run_directory)
    if found.metrics:
        last = found.metrics[-1]
        count, seconds = last["images"], last["seconds"]
        print(f"training: {count} images in {seconds:.0f} s, {count / seconds:.0f} images per second")
    if found.fixed:
        print(f"samples:  {found.fixed[max(found.fixed)]}")
    print(f"report:   {page}")
    for file in sorted(run_directory.glob("*.onnx")):
        figures = file.with_name(file.name + ".json")
        described = json.loads(figures.read_text()) if figures.exists() else {}
        print(f"model:    {file}" + (f", from step {described['step']}" if "step" in described else ""))
        if described:
            _print_figures(described)


def _positional(argv: list[str], command: str, what: str, kind: type) -> tuple[str, list[str]]:
    if argv and argv[0] in ("-h", "--help"):
        print(f"usage: fastgan {command} {what} [options]")
        _parse(kind, argv, f"{command} {what}")
    if not argv or argv[0].startswith("-"):
        raise UsageError(f"{command}: expected {what} first; see fastgan {command} --help")
    return argv[0], argv[1:]


# --- data, presets, doctor -------------------------------------------------------------------------------------------


@dataclass
class _Info:
    """Describe a data source as training would see it."""

    resolution: int | None = None
    """crop and resize to this side"""
    channels: int | None = None
    """1 for grey, 3 for colour"""
    out: Path | None = field(default=None)
    """write a grid of the first 64 images here"""


def data(argv: list[str]) -> None:
    """fastgan data list | fetch NAME | info SOURCE"""
    from fastgan import data as sets
    from fastgan.data.fetch import set_dir
    from fastgan.data.pack import check_pack

    usage = "data: expected list, fetch NAME or info SOURCE"
    if argv[:1] in (["-h"], ["--help"]):
        print("usage: fastgan data list | fetch NAME | info SOURCE [--resolution N] [--channels 1|3] [--out GRID.png]")
        print("\nSOURCE is a name in the list, or a path: a folder or a .zip of images, with or without dataset.json;")
        print("WebDataset shards such as train-{000000..000009}.tar; .npz; IDX. Folders, zips and shards are decoded")
        print("once, into a pack; info says where it lies, and compares its checksums.")
    elif argv[:1] == ["list"]:
        print("embedded      10,000 images 1×28×28, the Fashion-MNIST test file, inside the package")
        for name, entry in sets.known().items():
            state = "fetched" if set_dir(name).exists() else f"fastgan data fetch {name} ({entry.megabytes:.0f} MB)"
            print(f"{name:13} {entry.summary}; {state}")
    elif argv[:1] == ["fetch"] and len(argv) == 2:
        sets.fetch(argv[1])
    elif argv[:1] == ["info"] and len(argv) >= 2 and not argv[1].startswith("-"):
        options = _parse(_Info, argv[2:], "data info SOURCE")
        images = sets.open_source(argv[1], resolution=options.resolution, channels=options.channels)
        print(images.describe())
        if images.pack is not None:
            check_pack(images.pack)
            print(f"pack     {images.pack}, checksum ok")
        if options.out is not None:
            from fastgan.report.picture import save_grid

            print(f"grid: {save_grid(images.images[:64], options.out, scale=max(1, 64 // images.resolution[1]))}")
    else:
        raise UsageError(usage + (f", got {shlex.join(argv)!r}" if argv else ""))


def presets(argv: list[str]) -> None:
    """fastgan presets"""
    from fastgan.train.presets import PRESETS

    _parse(_Nothing, argv, "presets")
    for name, preset in PRESETS.items():
        print(f"{name:11} {preset.about}")


@dataclass
class _Doctor:
    """Say what runs where on this machine, what is missing, and what it costs."""

    kernels: bool = False
    """list the kernels that were chosen by measurement, with their times, instead"""


def doctor(argv: list[str]) -> None:
    """fastgan doctor [--kernels]"""
    from fastgan.doctor import examine, kernel_choices

    print(kernel_choices() if _parse(_Doctor, argv, "doctor").kernels else examine())


COMMANDS: dict[str, tuple[Callable[[list[str]], None], str]] = {
    "train": (train, "train a generator: fastgan train [PRESET] [--data SOURCE] [--out DIR] [--resume] ..."),
    "sample": (sample, "make a grid of images: fastgan sample RUN|MODEL.onnx --n 64 --out grid.png"),
    "export": (export, "write a verified ONNX file: fastgan export RUN --out generator.onnx"),
    "report": (report, "write a run's report.html anew and say where everything is: fastgan report RUN"),
    "data": (data, "image sets: fastgan data list | fetch NAME | info SOURCE"),
    "presets": (presets, "list the configurations that have names"),
    "doctor": (doctor, "say what runs where on this machine, what is missing, and what it costs"),
}
