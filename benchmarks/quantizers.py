"""Compares int8 quantizers of ONNX files: fastgan's, ONNX Runtime's (static, QDQ, per channel) and NNCF's.

    fastgan train demo --out runs/demo
    python benchmarks/quantizers.py --run runs/demo [--photos FOLDER] [--out benchmarks/results/quantizers.csv]

All quantize the same float32 file with the same calibration inputs. psnr_dB: of the int8 file's outputs against the
float32 file's, both in ONNX Runtime, on inputs that were not calibrated with. seconds: to quantize. Latencies are
medians of rounds in which all files of a network take turns in one process, in ONNX Runtime and in OpenVINO.
"""

from __future__ import annotations

import argparse
import csv
import functools
import importlib.metadata
import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from generators import Case, crops, dcgan, photographs, srvgg, trained

from fastgan._util.timing import alternate, quantile, rounds_in, watch
from fastgan.export.api import export
from fastgan.export.quantization.quantize import quantize
from fastgan.export.verify import psnr
from fastgan.runtime.hardware import cpu_features, usable_cores
from fastgan.runtime.session import Session, latents

COLUMNS = (
    "network", "weights", "quantizer", "version", "psnr_dB", "seconds", "onnxruntime_ms", "onnxruntime_ratio",
    "openvino_ms", "openvino_ratio", "bytes", "threads", "cpu_features", "note",
)  # fmt: skip
Quantizer = Callable[[Path, Path, Case, list[np.ndarray]], Any]


def ours(source: Path, out: Path, case: Case, calibration: list[np.ndarray]) -> None:
    quantize(source, out, case.spec, calibration)


def of_onnxruntime(
    source: Path,
    out: Path,
    case: Case,
    calibration: list[np.ndarray],
    *,
    method: str = "MinMax",
    keep_first: bool = False,
    quant_type: str = "QUInt8",
) -> None:
    """keep_first: the layers that read the network's input stay in float32, as in fastgan's quantizer."""
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    (name,) = case.spec.inputs

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._rest = iter(calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            x = next(self._rest, None)
            return None if x is None else {name: x}

    prepared = out.with_suffix(".prepared.onnx")
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    nodes = onnx.load(prepared).graph.node
    kept = [node.name for node in nodes if name in node.input] if keep_first else []
    quantize_static(
        prepared,
        out,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=getattr(QuantType, quant_type),
        weight_type=QuantType.QInt8,
        calibrate_method=getattr(CalibrationMethod, method),
        op_types_to_quantize=["Conv", "ConvTranspose", "Gemm", "MatMul"],
        nodes_to_exclude=kept,
    )


def of_nncf(source: Path, out: Path, case: Case, calibration: list[np.ndarray], *, accurate: bool = False) -> None:
    """accurate: with the slower bias correction."""
    import nncf
    import onnx

    logging.getLogger("nncf").setLevel(logging.ERROR)
    (name,) = case.spec.inputs
    dataset = nncf.Dataset(calibration, lambda x: {name: x})
    model = nncf.quantize(
        onnx.load(source),
        dataset,
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(calibration),
        fast_bias_correction=not accurate,
    )
    onnx.save(model, out)


QUANTIZERS: dict[str, tuple[str, Quantizer]] = {
    "fastgan": ("fastgan", ours),
    "onnxruntime min-max": ("onnxruntime", of_onnxruntime),
    "onnxruntime percentile": ("onnxruntime", functools.partial(of_onnxruntime, method="Percentile")),
    "onnxruntime min-max, first layer float32": ("onnxruntime", functools.partial(of_onnxruntime, keep_first=True)),
    "nncf": ("nncf", of_nncf),
    "nncf, accurate bias correction": ("nncf", functools.partial(of_nncf, accurate=True)),
}


def of_run(run: Path) -> Case:
    """The averaged generator of a run."""
    from fastgan import Config
    from fastgan.train.networks import load_generator

    loaded = load_generator(run)
    weights = f"trained for {loaded.step} steps on {loaded.facts['dataset']['name']}"
    model = Config.from_dict(loaded.facts["config"]).model.family
    return Case(f"{model} of a run", lambda: (loaded.generator, weights), (1, *loaded.latent_shape))


def cases(run: Path | None, quick: bool) -> list[Case]:
    if quick:
        return [
            Case("dcgan-64", functools.partial(dcgan, 4), (1, 128)),
            Case("srvgg-x2", lambda: srvgg(2, width=8, blocks=1), (1, 3, 24, 32)),
        ]
    name = "realesr-animevideov3-x2"
    return [
        *([of_run(run)] if run else []),
        Case("dcgan-64", dcgan, (1, 128)),
        Case(name, trained(name, lambda: srvgg(2, shuffle=4)), (1, 3, 128, 128)),
    ]


def inputs(case: Case, pictures: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Calibration inputs and inputs to compare on: from other seeds, and from other pictures."""
    if case.spec.kind == "latent":
        shape = case.spec.latent_shape
        return [latents(16, shape, 1000 + i) for i in range(16)], [latents(16, shape, i) for i in range(4)]
    half = max(1, len(pictures) // 2)
    found = []
    for part, count in ((pictures[half:] or pictures, 32), (pictures[:half], 12)):
        pieces = crops(part, case.shape, count)
        found.append([np.ascontiguousarray(p.transpose(2, 0, 1)[None], np.float32) / np.float32(255) for p in pieces])
    return found[0], found[1]


def measure(case: Case, pictures: list[np.ndarray], folder: Path, seconds: float, threads: int) -> list[dict[str, Any]]:
    case.open()
    source = folder / f"{case.name}.onnx"
    export(case.network, source, latent_shape=case.spec.latent_shape or None)
    calibration, tested = inputs(case, pictures)
    exact = Session(source, backend="onnxruntime", device="cpu", threads=threads)
    truths = [exact(x) for x in tested]
    files, rows = {"float32": source}, {"float32": {"version": "", "psnr_dB": "", "seconds": ""}}
    for name, (package, quantizer) in QUANTIZERS.items():
        out = folder / f"{case.name} {name}.onnx".replace(" ", "-")
        try:
            version = importlib.metadata.version(package)
            start = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                quantizer(source, out, case, calibration)
            took = time.perf_counter() - start
            session = Session(_with_metadata(out, source), backend="onnxruntime", device="cpu", threads=threads)
            decibels = psnr([session(x) for x in tested], truths, case.spec.range)
        except Exception as error:  # a quantizer that is missing or fails is a result
            rows[name] = {"note": f"not available: {type(error).__name__}: {str(error).strip().splitlines()[0][:120]}"}
            continue
        files[name] = out
        rows[name] = {"version": version, "psnr_dB": f"{decibels:.2f}", "seconds": f"{took:.1f}"}
    for backend in ("onnxruntime", "openvino"):
        calls: dict[str, Callable[[], object]] = {}
        for name, path in files.items():
            try:
                session = Session(path, backend=backend, device="cpu", threads=threads)
                session.warm_up(tested[0])
            except Exception as error:
                rows[name]["note"] = f"{backend}: {str(error).strip().splitlines()[0][:120]}"
                continue
            calls[name] = functools.partial(session, tested[0])
        once = sum(watch(call)() for call in calls.values()) / 1e3
        reads = alternate(calls, watch, rounds_in(seconds * len(calls), once, (5, 500)))
        medians = {name: quantile([read() for read in times], 0.5) for name, times in reads.items()}
        for name, median in medians.items():
            rows[name][f"{backend}_ms"] = f"{median:.3f}"
            rows[name][f"{backend}_ratio"] = f"{medians['float32'] / median:.2f}"
    for name, path in files.items():
        rows[name]["bytes"] = path.stat().st_size
    common = {
        "network": case.name, "weights": case.weights, "threads": threads, "cpu_features": " ".join(cpu_features()),
    }  # fmt: skip
    return [{**common, "quantizer": name, **row} for name, row in rows.items()]


def _with_metadata(path: Path, source: Path) -> Path:
    """The file, with the metadata of the float32 file where the quantizer dropped them."""
    import onnx

    model, old = onnx.load(path), onnx.load(source)
    if not model.metadata_props or "fastgan" not in {entry.key for entry in model.metadata_props}:
        model.metadata_props.extend(old.metadata_props)
        onnx.save(model, path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="folder of photographs (scikit-image's are taken when left out)")
    parser.add_argument("--run", type=Path, help="a run directory, whose generator is quantized too")
    parser.add_argument("--case", default="", help="only networks whose name contains this")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/quantizers.csv"))
    parser.add_argument("--seconds", type=float, default=3.0, help="of timing for each file and runtime")
    parser.add_argument("--quick", action="store_true", help="small random networks, to see that all of it runs")
    options = parser.parse_args()
    pictures, where = photographs(options.photos)
    print(f"photographs: {where}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(options.run, options.quick):
            if options.case in case.name:
                rows += measure(case, pictures, Path(folder), options.seconds, usable_cores())
    for row in rows:
        print("  ".join(str(row.get(name, "")) for name in COLUMNS if name != "cpu_features"))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
