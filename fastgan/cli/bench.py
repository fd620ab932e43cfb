"""fastgan bench: how fast models run here, back-ends side by side."""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastgan.cli._parse import parse, positional
from fastgan.errors import UsageError

if TYPE_CHECKING:
    from fastgan.runtime.session import Session


@dataclass
class _Bench:
    """Time models in every back-end that runs them here, in alternating rounds: latency at batch 1 (p50, p95, p99),
    images per second against the batch, the network alone and pixels to pixels, memory. Models are exported files
    (.onnx, .pt2), or what fastgan export takes: runs, weights, names of pretrained networks, modules of your own."""

    size: str = "320x180"
    """WIDTHxHEIGHT of the images that go in, for networks from images"""
    batches: str = ""
    """batch sizes (1,4,16,64 when left out; 1,4 for networks from images)"""
    backends: str = "auto"
    """of onnxruntime, openvino, torch, compile, aoti; auto: those that are installed (compile on a GPU only)"""
    device: str = "auto"
    """cpu, cuda, cuda:N; auto prefers a GPU"""
    threads: int | None = None
    """of the CPU (the usable cores when left out)"""
    seconds: float = 1.0
    """spent on each figure of each back-end"""
    out: Path | None = None
    """CSV to write"""
    plot: Path | None = None
    """SVG to draw (needs matplotlib: pip install 'fastgan[plot]')"""


def bench(argv: list[str]) -> None:
    """fastgan bench MODEL... [--size WxH] [--batches 1,4] [--backends ...] [--seconds 1] [--out CSV] [--plot SVG]"""
    first, rest = positional(argv, "bench", "MODEL...", _Bench)
    more = next((i for i, word in enumerate(rest) if word.startswith("-")), len(rest))
    sources, options = [first, *rest[:more]], parse(_Bench, rest[more:], "bench")
    size = _size(options.size)
    if not options.seconds > 0:
        raise UsageError(f"seconds: expected a number > 0, got {options.seconds}")
    _check_path("out", options.out, ".csv")
    _check_path("plot", options.plot, ".svg")
    from fastgan._util.files import write_whole
    from fastgan.runtime import benchmark as benchmark

    if options.plot:
        benchmark.require_matplotlib()
    plan = benchmark.Plan(batches=_batches(options.batches), size=size, seconds=options.seconds)
    models = {_name(source, sources): _opens(source, options) for source in dict.fromkeys(sources)}
    rows = benchmark.bench(models, plan, lambda text: print(text, file=sys.stderr))
    print(benchmark.table(rows))
    if options.out:
        write_whole(options.out, benchmark.as_csv(rows).encode())
    if options.plot:
        write_whole(options.plot, benchmark.picture(rows).encode())


def _opens(source: str, options: _Bench) -> dict[str, Callable[[], Session]]:
    """What opens a model in each back-end that is asked for."""
    from fastgan.runtime import backends
    from fastgan.runtime.session import Session

    suffix = Path(source).suffix.lower()
    suffix = suffix if suffix in backends.RUNS else ""
    possible = backends.RUNS[suffix]
    if options.backends == "auto":
        wanted = [name for name in possible if name != "compile" or _gpu(options.device)]
    else:
        named = [name.strip() for name in options.backends.split(",")]
        for name in named:
            if name not in backends.NAMES:
                raise UsageError(f"backends: expected auto or some of {', '.join(backends.NAMES)}, got {name!r}")
        wanted = [name for name in named if name in possible]
        if not wanted:
            raise UsageError(f"backends: {source} runs in {' or '.join(possible)}, got {options.backends}")
    model, latent_shape = (Path(source), None) if suffix else _network(source)
    return {
        name: functools.partial(
            Session, model, backend=name, device=options.device, threads=options.threads, latent_shape=latent_shape
        )
        for name in wanted
    }


def _network(source: str) -> tuple[Any, tuple[int, ...] | None]:
    """The torch module that is meant, and the shape of its latents where its run knows it."""
    if Path(source).is_dir():
        from fastgan.train.load import load_generator

        trained = load_generator(Path(source))
        return trained.generator, trained.latent_shape
    from fastgan.export.source import open_network

    return open_network(source), None


def _gpu(device: str) -> bool:
    import torch

    return device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())


def _name(source: str, sources: list[str]) -> str:
    """The last part of a path, or all of it where others end alike."""
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


def _check_path(name: str, path: Path | None, suffix: str) -> None:
    # Before minutes of measuring, not after.
    if path is None:
        return
    if path.suffix.lower() != suffix or path.is_dir():
        raise UsageError(f"{name}: expected a file {suffix}, got {path}")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"{name}: {path} cannot be written: {path.parent} is no directory that may be written")
