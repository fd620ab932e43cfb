"""ONNX files of standard operators, verified in ONNX Runtime on the CPU."""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fastgan.errors import ExportError
from fastgan.export.targets.base import Target, register, tracing_failure
from fastgan.runtime import labels
from fastgan.runtime.session import latents
from fastgan.runtime.spec import KEY, Spec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fastgan.export.prepare import Prepared
    from fastgan.export.verify import Run

#: The largest protobuf file, bytes. Larger networks would need their weights in files beside it.
MAX_BYTES = 2**31 - 2**20
#: int8: images for calibration; how many of them, cropped to how many pixels a side, are compared.
CALIBRATION_IMAGES, COMPARED_IMAGES, COMPARED_SIDE = 64, 3, 256


@register
class Onnx(Target):
    """An ONNX file with dynamic batch and, for images and signals, dynamic height and width or length."""

    name = "onnx"
    help = "an ONNX file; batch, height, width and length stay dynamic"
    suffixes: ClassVar[tuple[str, ...]] = (".onnx",)
    packages = ("onnx", "onnxscript", "onnxruntime")
    install = "pip install 'fastgan[onnx]'"
    precisions = ("fp32", "fp16", "bf16", "int8")
    #: int8 activations with zero point 0.
    symmetric = False

    def write(self, prepared: Prepared, path: Path, calibration: Iterable[np.ndarray] | None) -> dict[str, Any]:
        import torch

        from fastgan.export.half_emulation import float32_emulation
        from fastgan.export.verify import measure_speed

        dtype, spec = prepared.precision.dtype, prepared.spec
        write(prepared.network, prepared.inputs, path, spec, prepared.precision.opset, prepared.smallest)
        quantization: dict[str, Any] = {}
        if prepared.precision.name == "int8":
            quantization = {"quantization": self._quantize(prepared, path, calibration)}
        facts = {**prepared.facts, "opset": opset_of(path)}
        write_metadata(path, spec, facts)
        report: dict[str, Any] = {**facts, "bytes": path.stat().st_size, "verified_by": "ONNX Runtime, CPU"}
        if dtype is not torch.bfloat16:  # ONNX Runtime has no bf16 convolution on the CPU
            run = open_file(path)
            report |= prepared.reference.compare(run)
            report["runtime"] = {"provider": "CPUExecutionProvider", **measure_speed(run, spec)}
        if dtype is not torch.float32:
            # The emulation rounds more often than ONNX Runtime does, so its errors replace the others in the report.
            report |= prepared.reference.compare(open_file(float32_emulation(path)))
            report["verified_by"] += ", with every operator's result rounded to the file's precision"
        return report | quantization

    def _quantize(self, prepared: Prepared, path: Path, calibration: Iterable[np.ndarray] | None) -> dict[str, Any]:
        """Replace the float32 file at `path` by an int8 file, and prepared.reference by one for it."""
        from fastgan.export.quantization.quantize import quantize
        from fastgan.export.verify import Reference

        spec = prepared.spec
        if calibration is None:
            calibration = [latents(8, spec.latent_shape, seed) for seed in range(1000, 1016)]
        elif spec.kind == "image":
            # Compared on images like the calibrated ones: ranges do not fit noise or drawings.
            calibration = list(itertools.islice(calibration, CALIBRATION_IMAGES))
            images = [x[:1, :, :COMPARED_SIDE, :COMPARED_SIDE] for x in calibration[:COMPARED_IMAGES]]
            compared = [(x, *labels.default(spec, len(x), i)) for i, x in enumerate(images)]
            prepared.reference = Reference.of(prepared.exact, spec, "int8", inputs=compared)
        # An error of the export itself must not pass within the larger limit of int8.
        inputs = prepared.reference.inputs if spec.kind == "synthesis" else None
        Reference.of(prepared.exact, spec, inputs=inputs).compare(open_file(path), "the model before quantization")
        source = path.with_name(path.name + ".fp32.onnx")
        os.replace(path, source)
        try:
            return quantize(source, path, spec, calibration, symmetric=self.symmetric)
        finally:
            source.unlink(missing_ok=True)


def write(network: nn.Module, sample: list[Tensor], path: Path, spec: Spec, opset: int, smallest: int = 1) -> None:
    """Write a network as ONNX, with a dynamic batch and, for images and signals, dynamic height and width or length.

    sample: inputs on which it is traced, no size being 1. smallest: least of these sizes in units of spec.multiple.
    Inputs and output have the names spec.inputs and spec.output. Raises ExportError for a network
    that cannot be traced or expressed in standard operators, and for networks of 2 GB and more.
    """
    import torch

    weights = sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers()))
    if weights > MAX_BYTES:
        raise ExportError(f"the network's weights take {weights / 1e9:.1f} GB; an ONNX file holds less than 2 GB")
    with _quiet():
        try:
            program = torch.export.export(network, tuple(sample), dynamic_shapes=_dynamic(spec, smallest))
            references = _references()
            if any(node.target in references for node in program.graph.nodes):
                program = program.run_decompositions(references)
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=opset,
                input_names=spec.inputs,
                output_names=[spec.output],
                verbose=False,
            )
        except Exception as error:  # of many classes, torch's own and python's
            raise ExportError(f"the network cannot be exported: {tracing_failure(error)}") from error
    assert exported is not None
    model = exported.model
    custom = sorted({f"{n.domain}::{n.op_type}" for n in model.graph.all_nodes() if n.domain not in ("", "ai.onnx")})
    if custom or model.functions:
        what = custom or [str(identifier) for identifier in model.functions]
        raise ExportError(f"the exported model has operators outside of the ONNX standard: {', '.join(what)}")
    if model.opset_imports[""] != opset:
        raise ExportError(f"the exporter wrote opset {model.opset_imports['']}, expected {opset}")
    for node in model.graph.all_nodes():  # the exporter writes the call stack, with paths of the machine it runs on
        node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)
    exported.save(path, external_data=False)


def _dynamic(spec: Spec, smallest: int) -> tuple[dict[int, Any], ...]:
    import torch

    batch = torch.export.Dim("batch")
    shape: dict[int, Any] = {0: batch}
    for axis, size in enumerate(spec.sizes, start=2):
        name = {"H": "height", "W": "width", "T": "length"}[size]
        if spec.multiple == 1:
            shape[axis] = torch.export.Dim(name, min=smallest)
        else:
            shape[axis] = spec.multiple * torch.export.Dim(f"{name}_units", min=smallest)
    return shape, *({0: batch} for _ in spec.inputs[1:])


def _references() -> dict[Any, Any]:
    # fastgan's operations only: the exporter knows PyTorch's own operators, such as PRelu, and must see them whole.
    from fastgan.ops._library import registry

    return {op.overload: op.reference for op in registry.values()}


def write_metadata(path: Path, spec: Spec, facts: dict[str, Any]) -> None:
    """Write spec and facts into the metadata of a file, in place."""
    import onnx

    model = onnx.load(path)
    for entry in [entry for entry in model.metadata_props if entry.key == KEY]:
        model.metadata_props.remove(entry)
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, spec.to_json(**facts)
    onnx.save(model, path)


def opset_of(path: Path) -> int:
    """The version of the standard operators in a file; ExportError where it uses others."""
    import onnx

    model = onnx.load(path)
    custom = sorted({f"{n.domain}::{n.op_type}" for n in model.graph.node if n.domain not in ("", "ai.onnx")})
    if custom:
        raise ExportError(f"the exported model has operators outside of the ONNX standard: {', '.join(custom)}")
    return next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def open_file(model: Path | bytes) -> Run:
    """Open a file, or the bytes of one, in ONNX Runtime on the CPU. Raises ExportError where it cannot be opened."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    source = model if isinstance(model, bytes) else str(model)
    try:
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base but Exception
        raise ExportError(f"the exported model cannot be opened by ONNX Runtime: {tracing_failure(error)}") from error
    names = [port.name for port in session.get_inputs()]

    def run(*inputs: np.ndarray) -> np.ndarray:
        return session.run(None, dict(zip(names, map(np.ascontiguousarray, inputs), strict=True)))[0]

    return run


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # The exporter reports progress on stdout, in logs and in warnings. Its failures are exceptions.
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
