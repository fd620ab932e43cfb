"""fastgan export: writes a network as a file for a runtime, verified."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fastgan._util.files import not_a_source
from fastgan._util.schema import list_of, number, optional, table, text, whole
from fastgan.cli._parse import parse
from fastgan.errors import UsageError


@dataclass
class _Export:
    """Write a network for a runtime, compare it with PyTorch in float64 at several batches and sizes, and refuse a
    file that differs. SOURCE is a run (its averaged generator; RUN:NAME is one of several, or a part of it), a
    checkpoint of a run (RUN/checkpoints/00001000), a public checkpoint or file of weights (fastgan inspect FILE says
    what it is), the name of a pretrained network (fastgan models), or a module of your own (file.py:name or
    package.module:name, a torch.nn.Module or a function that returns one)."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """what to write"""
    to: str = "onnx"  # the choices are those of fastgan.export.targets
    precision: Literal["fp32", "fp16", "bf16", "int8"] = "fp32"
    """of weights and arithmetic; inputs and outputs are always float32. int8 needs --calibrate for image models"""
    out: Path | None = None
    """file to write (default for a run: RUN/generator.onnx, or RUN/NAME.onnx); the report is written beside it,
    FILE.json"""
    network: str | None = None
    """file.py:name of the generator of a run of your own networks, which gets the run's weights"""
    calibrate: Path | None = None
    """int8: an image, or a folder of images, like those the network will see; they determine the quantization ranges"""
    pair: bool = False
    """of a generator with styles the two halves, NAME.mapping.onnx (z to w) and NAME.synthesis.onnx (w to images)"""
    overwrite: bool = False
    """replace existing files that are no earlier export"""


def export(argv: list[str]) -> None:
    """fastgan export SOURCE [--to onnx] [--precision fp32] [--out FILE] [--calibrate IMAGES] [--pair]"""
    from fastgan.cli._choices import with_choices
    from fastgan.cli._source import open_source, run_of, split_child
    from fastgan.export import targets

    choices = {name: target.help for name, target in targets.registry().items()}
    kind = with_choices(_Export, to=(choices, "onnx"))
    options = parse(kind, argv, "export")
    source = options.source
    if options.calibrate is not None and options.precision != "int8":
        raise UsageError(f"calibrate: is for --precision int8, got {options.precision}")
    path, child = split_child(source)
    run = run_of(path)
    out = options.out
    if out is None:
        if run is None or options.to != "onnx":
            raise UsageError("out: expected a file to write (--out FILE); only the ONNX file of a run has a default")
        out = run / f"{child or 'generator'}.onnx"
    target = targets.registry()[options.to]()
    weights = f"{source.removesuffix('.param')}.bin"  # the other file of ncnn's
    from fastgan.runtime.pair import pair_files

    for one in pair_files(out) if options.pair else (out,):
        for path in (one, target.verified_file(one), targets.base.report_path(target.verified_file(one))):
            not_a_source(path, source, weights, source.rpartition(":")[0])
        target.check_out(one, overwrite=options.overwrite)  # before the network is opened, which may take long
    from fastgan.export.api import export as export_network
    from fastgan.export.api import export_pair
    from fastgan.runtime.network_spec import spec_of

    network, latent_shape, about = open_source(source, options.network)
    if options.pair:
        if options.calibrate is not None:
            raise UsageError("calibrate: is for image models; latents are drawn from N(0, 1)")
        found = export_pair(
            network, out, to=options.to, precision=options.precision, about=about, overwrite=options.overwrite
        )
        for file, report in zip(pair_files(out), found.values(), strict=True):
            _print(file, options.to, report)
        return
    calibration = None
    if options.calibrate is not None:
        from fastgan.export.quantization.calibration import CalibrationImages

        spec = spec_of(network, latent_shape)
        if spec.kind != "image":
            why = "; latents are drawn from N(0, 1)" if spec.kind == "latent" else ""
            raise UsageError(f"calibrate: is for image models{why}")
        calibration = CalibrationImages(options.calibrate, spec)
    report = export_network(
        network,
        out,
        to=options.to,
        precision=options.precision,
        latent_shape=latent_shape,
        calibration=calibration,
        about=about,
        overwrite=options.overwrite,
    )
    _print(out, options.to, report)
    if run is not None and out.parent.resolve() == run.resolve():
        from fastgan.report.page import write_report

        write_report(run)


def _print(out: Path, to: str, report: dict[str, Any]) -> None:
    origin = f", from step {report['step']}" if "step" in report else ""
    opset = f", opset {report['opset']}" if "opset" in report else ""
    print(f"{out}: {to}, {report['precision']}{opset}, {report['bytes'] / 1e6:.2f} MB{origin}")
    print(f"  {report['network']}")
    print_figures(report)


def print_figures(report: dict[str, Any]) -> None:
    """Print the errors of an exported file and its speed; reads reports of version 0.1 too, which FIGURES accepts."""
    limit = report.get("limit")
    allowed = "" if limit is None else f" (allowed {limit:.0e})"
    for row in report["parity"]:
        size = f", {row['width']}×{row['height']}" if "width" in row else ""
        size = f", {row['length']} frames" if "length" in row else size
        psnr = f", PSNR {row['psnr']:.1f} dB" if "psnr" in row else ""
        print(f"  parity at batch {row['batch']:2}{size}: max abs error {row['max_abs_error']:.1e}{allowed}{psnr}")
    if "verified_by" in report:
        overall = f", PSNR {report['psnr']:.1f} dB over all (at least {report['psnr_floor']:.0f})"
        print(f"  verified by {report['verified_by']}{overall}")
    runtime = dict(report.get("runtime", {}))
    if provider := runtime.pop("provider", None):
        print(f"  {provider}: " + ", ".join(_speed(name, value) for name, value in runtime.items()))


_ERROR = table(
    {"batch": whole(), "max_abs_error": number(), "width": whole(), "height": whole(), "psnr": number()},
    required=("batch", "max_abs_error"),
)
#: What `print_figures` reads.
FIGURES = table(
    {
        "limit": optional(number()),
        "parity": list_of(_ERROR),
        "psnr": number(),
        "psnr_floor": number(),
        "runtime": table({"provider": text(), "backend": text(), "size": text()}, others=number()),
    },
    required=("parity",),
)


def _speed(name: str, value: float) -> str:
    what, _, batch = name.rpartition("_batch")
    if what == "images_per_second":
        return f"{value:.0f} images per second at batch {batch}"
    size = what.removeprefix("latency_ms").replace("x", "×").replace("_", " for ", 1).replace("_", " ")
    return f"{value:.2f} ms{size} at batch {batch}"
