"""ONNX files of standard operators: written, stamped with what they are, and opened in ONNX Runtime on the CPU."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastgan.errors import ExportError, UsageError
from fastgan.export.verify import Run
from fastgan.runtime.spec import KEY, Spec

#: What one protobuf file can hold. Larger networks would need their weights in files beside it.
LARGEST = 2**31 - 2**20


def need_packages() -> None:
    """Raise UsageError with the command that installs what is missing."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(name)
        except ImportError:
            raise UsageError(f"{name} is not installed; install it with: pip install 'fastgan[onnx]'") from None


def write(network: nn.Module, sample: list[Tensor], path: Path, spec: Spec, opset: int, smallest: int = 1) -> None:
    """Write a network as ONNX, with a dynamic batch and, from images to images, dynamic height and width.

    sample: inputs on which it is traced, no size being 1. smallest: least height and width in units of spec.multiple.
    The inputs are named `z` (and `y`) or `images`, the output `images` or `upscaled`. Raises ExportError for what
    cannot be traced or expressed in standard operators, and for networks of 2 GB and more.
    """
    weights = sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers()))
    if weights > LARGEST:
        raise ExportError(f"the network's weights take {weights / 1e9:.1f} GB; an ONNX file holds less than 2 GB")
    made = "images" if spec.kind == "latent" else "upscaled"
    with _quiet():
        try:
            program = torch.export.export(network, tuple(sample), dynamic_shapes=_dynamic(spec, smallest))
            references = _references()
            if any(node.target in references for node in program.graph.nodes):
                program = program.run_decompositions(references)
            exported = torch.onnx.export(
                program, dynamo=True, opset_version=opset, input_names=spec.inputs, output_names=[made], verbose=False
            )  # fmt: skip
        except Exception as error:  # of many classes, torch's own and python's
            raise ExportError(f"the network cannot be exported: {_reason(error)}") from error
    assert exported is not None
    model = exported.model
    foreign = sorted({f"{n.domain}::{n.op_type}" for n in model.graph.all_nodes() if n.domain not in ("", "ai.onnx")})
    if foreign or model.functions:
        what = foreign or [str(identifier) for identifier in model.functions]
        raise ExportError(f"the exported model is not of standard ONNX operators alone: {', '.join(what)}")
    if model.opset_imports[""] != opset:
        raise ExportError(f"the exporter wrote opset {model.opset_imports['']}, asked for was {opset}")
    exported.save(path, external_data=False)


def _dynamic(spec: Spec, smallest: int) -> tuple[dict[int, Any], ...]:
    batch = torch.export.Dim("batch")
    shape: dict[int, Any] = {0: batch}
    if spec.kind == "image":
        for axis, name in ((2, "height"), (3, "width")):
            if spec.multiple == 1:
                shape[axis] = torch.export.Dim(name, min=smallest)
            else:
                shape[axis] = spec.multiple * torch.export.Dim(f"{name}_units", min=smallest)
    return shape, *({0: batch} for _ in spec.inputs[1:])


def _references() -> dict[Any, Any]:
    # Only of ours: PyTorch's own operators are what the exporter knows best (PRelu, DepthToSpace), whole.
    from fastgan.ops._library import registry

    return {op.overload: op.reference for op in registry.values()}


def stamp(path: Path, spec: Spec, facts: dict[str, Any]) -> None:
    """Write spec and facts into a file's metadata, in place."""
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
    foreign = sorted({f"{n.domain}::{n.op_type}" for n in model.graph.node if n.domain not in ("", "ai.onnx")})
    if foreign:
        raise ExportError(f"the exported model is not of standard ONNX operators alone: {', '.join(foreign)}")
    return next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def open_file(model: Path | bytes) -> Run:
    """A file (or its bytes) in ONNX Runtime, on the CPU. Raises ExportError where it cannot be opened."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    source = model if isinstance(model, bytes) else str(model)
    try:
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base but Exception
        raise ExportError(f"the exported model cannot be opened by ONNX Runtime: {_reason(error)}") from error
    names = [port.name for port in session.get_inputs()]

    def run(*inputs: np.ndarray) -> np.ndarray:
        return session.run(None, dict(zip(names, map(np.ascontiguousarray, inputs), strict=True)))[0]

    return run


def _reason(error: BaseException) -> str:
    """The sentence that says most, out of exporters' long texts."""
    while error.__cause__ is not None and type(error).__module__.startswith("torch.onnx"):
        error = error.__cause__
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if lines[0].startswith("Constraints violated") and len(lines) > 1:
        return f"it works at some sizes only. {lines[1]}"
    return lines[0]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # The exporter reports its progress on every channel there is; its failures are exceptions and still come through.
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
