"""fastgan bench: times models in several back-ends."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fastgan._util.files import overwritable
from fastgan.cli._parse import parse
from fastgan.errors import UsageError

if TYPE_CHECKING:
    from fastgan.runtime.session import Session


@dataclass
class _Bench:
    """Time models in every back-end that can run them here, in alternating rounds: latency at batch 1 (p50, p95, p99),
    images per second by batch size, of the network alone and from pixels to pixels, and memory. Models are exported
    files (.onnx, .pt2, .engine), or what fastgan export accepts: runs, weights, names of pretrained networks, modules
    of your own. For a training step: fastgan bench step FILE:FUNCTION."""

    sources: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """exported files, runs, weights or names"""
    size: str = "320x180"
    """WIDTHxHEIGHT of the input images, for image models"""
    batches: str = ""
    """batch sizes (default: 1,4,16,64; for image models 1,4)"""
    backends: str = "auto"
    """names of back-ends, separated by commas (fastgan doctor lists them); auto: all that are installed and run the
    model, torch.compile on a GPU only"""
    device: str = "auto"
    """cpu, cuda, cuda:N; auto prefers a GPU"""
    threads: int | None = None
    """of the CPU (default: all usable cores)"""
    seconds: float = 1.0
    """of timing, for each back-end, task and batch size"""
    trust: tyro.conf.FlagCreatePairsOff[bool] = False
    """open .pt2 files, whose native code runs with your rights: only those that you trust"""
    out: Path | None = None
    """CSV to write"""
    plot: Path | None = None
    """SVG to draw (needs matplotlib: pip install 'fastgan[plot]')"""
    overwrite: bool = False
    """replace existing files"""


def bench(argv: list[str]) -> None:
    """fastgan bench MODEL... [--size WxH] [--batches 1,4] [--backends ...] [--seconds 1] [--out CSV] [--plot SVG]
    fastgan bench step FILE:FUNCTION [--seconds 1] [--json]"""
    if argv[:1] == ["step"]:
        from fastgan.cli.bench_step import bench_step

        bench_step(argv[1:])
        return
    options = parse(_Bench, argv, "bench")
    sources = list(options.sources)
    if not sources:
        raise UsageError("models: expected one or more to time, got none")
    size = _size(options.size)
    if not options.seconds > 0:
        raise UsageError(f"seconds: expected a number > 0, got {options.seconds}")
    _check_path("out", options.out, ".csv", options.overwrite)
    _check_path("plot", options.plot, ".svg", options.overwrite)
    from fastgan._util.files import write_whole
    from fastgan.runtime import benchmark

    if options.plot:
        benchmark.require_matplotlib()
    chosen = benchmark.BenchmarkOptions(batches=_batches(options.batches), size=size, seconds=options.seconds)
    models = {_name(source, sources): _opens(source, options) for source in dict.fromkeys(sources)}
    rows = benchmark.bench(models, chosen)
    print(benchmark.table(rows))
    if options.out:
        write_whole(options.out, benchmark.as_csv(rows).encode())
    if options.plot:
        write_whole(options.plot, benchmark.picture(rows).encode())


def _opens(source: str, options: _Bench) -> dict[str, Callable[[], Session]]:
    """Functions that open a model, by the name of the back-end."""
    from fastgan.cli._source import open_source
    from fastgan.runtime import backends
    from fastgan.runtime.backends.base import MODULE
    from fastgan.runtime.session import Session

    suffix = Path(source).suffix.lower()
    suffix = suffix if suffix in backends.suffixes() else MODULE
    possible = backends.that_run(suffix)
    if options.backends == "auto":
        wanted = [name for name, backend in possible.items() if not backend.why_not_automatic(options.device)]
    else:
        named = [name.strip() for name in options.backends.split(",")]
        for name in named:
            if name not in backends.registry():
                raise UsageError(f"backends: expected auto or some of {', '.join(backends.registry())}, got {name!r}")
        wanted = [name for name in named if name in possible]
        if not wanted:
            raise UsageError(f"backends: {source} runs in {' or '.join(possible)}, got {options.backends}")
    model, latent_shape, _ = open_source(source) if suffix == MODULE else (Path(source), None, {})
    return {
        name: functools.partial(
            Session,
            model,
            backend=name,
            device=options.device,
            threads=options.threads,
            latent_shape=latent_shape,
            trust=options.trust,
        )
        for name in wanted
    }


def _name(source: str, sources: list[str]) -> str:
    """The last part of a path, or all of it where the last part of another source is the same."""
    short = Path(source).name or source
    return short if [Path(other).name for other in dict.fromkeys(sources)].count(short) == 1 else source


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not match:
        raise UsageError(f"size: expected WIDTHxHEIGHT, such as 320x180, got {text!r}")
    return int(match[1]), int(match[2])


def _batches(text: str) -> tuple[int, ...]:
    if text and not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise UsageError(f"batches: expected numbers such as 1,4,16, got {text!r}")
    return tuple(int(number) for number in text.split(",")) if text else ()


def _check_path(name: str, path: Path | None, suffix: str, overwrite: bool) -> None:
    # Checked before the measurements, which take minutes.
    if path is None:
        return
    if path.suffix.lower() != suffix or path.is_dir():
        raise UsageError(f"{name}: expected a file {suffix}, got {path}")
    overwritable(path, overwrite, argument=name)
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"{name}: {path} cannot be written: {path.parent} is no writable directory")
