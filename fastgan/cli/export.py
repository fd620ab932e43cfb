"""fastgan export: a network as a file for a runtime, verified."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fastgan.cli._parse import parse, positional
from fastgan.errors import UsageError

if TYPE_CHECKING:
    from torch import nn


@dataclass
class _Export:
    """Write a network for a runtime, compare it with PyTorch in float64 at several batches and sizes, and refuse what
    differs. SOURCE is a run (its averaged generator), one checkpoint in a run (RUN/checkpoints/00001000), a file of
    weights of a super-resolution network (.safetensors, .pth, .param), the name of a pretrained one (fastgan models),
    or a module of your own (file.py:name or package.module:name, a torch.nn.Module or a function that returns one)."""

    to: Literal["onnx", "tensorrt", "aoti", "triton"] = "onnx"
    """onnx: batch, height and width stay dynamic. tensorrt: an engine for this GPU, and its ONNX file beside it.
    aoti: PyTorch's ahead-of-time compiler. triton: REPOSITORY/NAME for NVIDIA Triton Inference Server"""
    precision: Literal["fp32", "fp16", "bf16", "int8"] = "fp32"
    """of weights and arithmetic; inputs and outputs are always float32. int8 needs --calibrate for image networks"""
    out: Path | None = None
    """file to write (RUN/generator.onnx for a run when left out); FILE.json beside it says what was compared"""
    calibrate: Path | None = None
    """int8: an image, or a folder of them, like those the network will see; they set the ranges of its numbers"""


def export(argv: list[str]) -> None:
    """fastgan export SOURCE [--to onnx] [--precision fp32] [--out FILE] [--calibrate IMAGES]"""
    source, rest = positional(argv, "export", "SOURCE", _Export)
    options = parse(_Export, rest, "export")
    if options.calibrate is not None and options.precision != "int8":
        raise UsageError(f"calibrate: is for --precision int8, got {options.precision}")
    run = _run_of(Path(source))
    out = options.out
    if out is None:
        if run is None or options.to != "onnx":
            raise UsageError("out: expected a file to write (--out FILE); only a run has a place for its ONNX file")
        out = run / "generator.onnx"
    from fastgan.export import export as export_network
    from fastgan.runtime.spec import Spec

    network, latent_shape, about = _open(source, run)
    calibration = None
    if options.calibrate is not None:
        from fastgan.export.quantization.calibration import Pictures

        spec = Spec.of(network, latent_shape)
        if spec.kind == "latent":
            raise UsageError("calibrate: is for networks from images to images; latents are drawn from N(0, 1)")
        calibration = Pictures(options.calibrate, spec)
    figures = export_network(
        network,
        out,
        to=options.to,
        precision=options.precision,
        latent_shape=latent_shape,
        calibration=calibration,
        about=about,
    )
    origin = f", from step {about['step']}" if "step" in about else ""
    opset = f", opset {figures['opset']}" if "opset" in figures else ""
    print(f"{out}: {options.to}, {options.precision}{opset}, {figures['bytes'] / 1e6:.2f} MB{origin}")
    print_figures(figures)
    if run is not None and out.parent.resolve() == run.resolve():
        from fastgan.report.page import write_report

        write_report(run)


def _run_of(path: Path) -> Path | None:
    """The run directory that a path is, or is a checkpoint in; None for what is no directory."""
    if not path.is_dir():
        return None
    return path.parent.parent if path.parent.name == "checkpoints" else path


def _open(source: str, run: Path | None) -> tuple[nn.Module, tuple[int, ...] | None, dict[str, Any]]:
    """The network, the shape of its latents where the run knows it, and facts for the file."""
    if run is None:
        from fastgan.export.source import open_network

        return open_network(source), None, {"source": Path(source).name}
    from fastgan.train.load import load_generator

    path = Path(source)
    trained = load_generator(run, None if path == run else path)
    facts = trained.facts
    about = {"step": trained.step, "dataset": facts["dataset"]["name"], "model": facts["config"]["model"]}
    if names := facts["dataset"].get("class_names"):
        about["class_names"] = names
    return trained.generator, trained.latent_shape, about


def print_figures(figures: dict[str, Any]) -> None:
    """What was compared, how far off it is and how fast, in lines; of files of version 0.1 too."""
    limit = figures.get("limit")
    allowed = "" if limit is None else f" (allowed {limit:.0e})"
    for row in figures["parity"]:
        size = f", {row['width']}×{row['height']}" if "width" in row else ""
        psnr = f", PSNR {row['psnr']:.1f} dB" if "psnr" in row else ""
        print(f"  parity at batch {row['batch']:2}{size}: max abs error {row['max_abs_error']:.1e}{allowed}{psnr}")
    if "verified_by" in figures:
        overall = f", PSNR {figures['psnr']:.1f} dB over all (at least {figures['psnr_floor']:.0f})"
        print(f"  verified by {figures['verified_by']}{overall}")
    runtime = dict(figures.get("runtime", {}))
    if provider := runtime.pop("provider", None):
        print(f"  {provider}: " + ", ".join(_speed(name, value) for name, value in runtime.items()))


def _speed(name: str, value: float) -> str:
    what, _, batch = name.rpartition("_batch")
    if what == "images_per_second":
        return f"{value:.0f} images per second at batch {batch}"
    size = what.removeprefix("latency_ms").replace("x", "×").replace("_", " for ")
    return f"{value:.2f} ms{size} at batch {batch}"
