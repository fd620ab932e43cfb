"""A trained generator as an ONNX file of standard operators, verified before it gets its name."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastgan.deploy.session import Session
from fastgan.deploy.verify import LIMIT, verify
from fastgan.errors import UsageError
from fastgan.nn import fold

OPSET = 18


def export_onnx(
    generator: nn.Module, path: str | Path, latent_shape: tuple[int, ...], *, about: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Write `path` (ONNX, dynamic batch) and `path`.json (parity and speed), and return the latter.

    generator: module from z [N, *latent_shape] to images [N, C, H, W]; it is copied and not changed. about: facts to
    carry in the file. Norms and spectral norms are frozen as in eval(), custom ops are replaced by their references.
    Raises UsageError when the onnx packages are missing, ExportError when the result differs from PyTorch by more than
    1e-4 at batch 1, 3 or 64; then nothing is written.
    """
    path = Path(path)
    model = fold(generator).cpu().requires_grad_(False)
    aside, figures = path.with_name(f".{path.stem}.part.onnx"), path.with_name(path.name + ".json")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(model, aside, latent_shape, about or {})
        session = Session(aside, backend="onnxruntime")
        parity = verify(session, model)
        report = {
            "file": path.name,
            **(about or {}),
            "opset": OPSET,
            "bytes": aside.stat().st_size,
            "parity": parity,
            "limit": LIMIT,
            "runtime": session.figures(),
        }
        figures.unlink(missing_ok=True)  # never old figures beside a new model
        os.replace(aside, path)
        figures.write_text(json.dumps(report, indent=1))
    except OSError as error:
        raise UsageError(f"out: {path} cannot be written: {error.strerror or error}") from error
    finally:
        aside.unlink(missing_ok=True)
    return report


def _write(model: nn.Module, path: Path, latent_shape: tuple[int, ...], about: dict[str, Any]) -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(f"{error.name} is not installed; install it with: pip install 'fastgan[onnx]'") from None
    z = torch.randn(2, *latent_shape)
    with _quiet():
        program = torch.export.export(model, (z,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        program = program.run_decompositions(_references())
        exported = torch.onnx.export(
            program, dynamo=True, opset_version=OPSET, input_names=["z"], output_names=["images"], verbose=False
        )
    assert exported is not None
    facts = {"latent_shape": list(latent_shape), "range": [-1.0, 1.0], **about}
    exported.model.metadata_props["fastgan"] = json.dumps(facts)
    exported.save(path, external_data=False)


def _references() -> dict[Any, Any]:
    from fastgan.ops._library import registry

    return {**torch.export.default_decompositions(), **{op.overload: op.reference for op in registry.values()}}


@contextlib.contextmanager
def _quiet():
    # The exporter reports its progress on every channel there is; its failures are exceptions and still come through.
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
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
