"""fastgan inspect: what a file of networks, an exported file or a run contains."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from fastgan.cli._parse import parse
from fastgan.cli._source import run_of


@dataclass
class _Inspect:
    """Say what a file contains, by its content: layout, networks, resolution, z, classes, parameters, and the arguments
    that it was trained with. FILE is a public checkpoint (NVIDIA's .pkl, of which nothing is executed, rosinality,
    R3GAN, BigGAN-PyTorch, CycleGAN, pix2pix, BasicSR, ESRGAN, ncnn, ...), any other file of weights, an ONNX file, a
    run, or one of its checkpoints."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """file or directory"""


def inspect(argv: list[str]) -> None:
    """fastgan inspect FILE"""
    path = parse(_Inspect, argv, "inspect").file
    for line in _lines(path):
        print(line)


def _lines(path: Path) -> Iterator[str]:
    if (run := run_of(path)) is not None:
        yield from _run(run, path)
    elif path.suffix.lower() == ".onnx" and path.is_file():
        yield from _onnx(path)
    else:
        yield from _networks(path)


def _networks(path: Path) -> Iterator[str]:
    from fastgan.models.checkpoints import describe

    found = describe(path)
    yield f"{path}: {found['format']}"
    for name, about in found["networks"].items():
        layout, kind = about.pop("layout"), about.pop("kind", "network")
        yield f"  {name}: {layout} {kind}, {about.pop('parameters'):,} values"
        yield from _values(about, "    ")
    if found["facts"]:
        yield "  also in the file:"
        yield from _values(found["facts"], "    ")


def _onnx(path: Path) -> Iterator[str]:
    from fastgan.runtime.onnx_metadata import read_metadata
    from fastgan.runtime.spec import KEY, Spec

    found = read_metadata(path)
    yield f"{path}: ONNX file, operator set {found.opset}"
    metadata = dict(found.metadata)
    if KEY in metadata:
        spec, facts = Spec.from_json(metadata.pop(KEY))
        yield f"  {spec.kind} network: {spec.describe()}, values in [{spec.range[0]:g}, {spec.range[1]:g}]"
        yield from _values(facts, "    ")
    else:
        yield "  not exported by fastgan: its metadata do not state inputs and outputs"
    yield from _values(metadata, "    ")


def _run(run: Path, path: Path) -> Iterator[str]:
    from fastgan.train import checkpoint, rundir

    facts = rundir.read_config(run)
    folder, state = checkpoint.newest(run / "checkpoints") if path == run else (path, checkpoint.read_state(path))
    yield f"{path}: {'run' if path == run else 'checkpoint of a run'} of fastgan"
    yield f"  step {state['step']:,} ({folder.name})"
    names: tuple[str, ...] = ("image_shape", "latent_shape", "parameters")
    shown: dict[str, Any] = {name: value for name, value in facts.items() if name in names}
    yield from _values(shown, "    ")
    yield from _values({"config": facts["config"]}, "    ")


def _values(values: dict[str, Any], indent: str) -> Iterator[str]:
    """Names and values, one a line; a table as its names and values below it."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield f"{indent}{_words(name)}:"
            yield from _values(value, f"{indent}  ")
        else:
            yield f"{indent}{_words(name)}: {_words(value if isinstance(value, str) else json.dumps(value))}"


def _words(text: str) -> str:
    """Text of a file in one line of printable characters."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return line if len(line) <= 300 else f"{line[:300]}..."
