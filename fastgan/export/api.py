"""export(): writes a trained network as a file for a runtime, and verifies the file before it gets its name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from fastgan._util.files import aside_folder
from fastgan.errors import FastganError, UsageError
from fastgan.export import targets
from fastgan.export.precision import find_precision
from fastgan.export.prepare import prepare
from fastgan.export.targets import Target
from fastgan.runtime.spec import Spec


def export(
    network: nn.Module,
    out: str | Path,
    *,
    to: str = "onnx",
    precision: str = "fp32",
    latent_shape: tuple[int, ...] | None = None,
    calibration: Iterable[np.ndarray] | None = None,
    about: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a network to `out`, and a report to `out`.json: what was compared, the errors, and how fast the file runs.

    network: from latents [N, *latent_shape], and labels int64 [N] where it has `classes`, to images [N, C, H, W], or
    from images to images, see `Spec.of`; it is copied and not changed. Norms are frozen as in eval() mode, spectral
    norms multiplied into the weights, batch norms merged into the layer before them, fastgan's operations replaced by
    standard ones. To export averaged weights, pass the averaged module (`trainer.ema.module`).
    to: "onnx" (batch, height and width dynamic); "tensorrt" (an engine, and the ONNX file it was built from beside it);
    "aoti" (PyTorch's ahead-of-time compiler); "triton" (a folder REPOSITORY/NAME for NVIDIA's server). `targets` lists
    them.
    precision: "fp32"; "fp16" and "bf16": weights and arithmetic of that type, norms in float32, float32 inputs and
    outputs; "int8": quantized with `calibration`, batches float32 [N, C, H, W] like the network's input (latents need
    none).
    latent_shape: of one z, for networks without the attribute `latent`. about: facts to store in the file. overwrite:
    replace files that stand where the result and its report go; an earlier export is replaced in any case.

    Every file is compared with the network in float64 at several batches and sizes: its error may be twice that of
    PyTorch at the same precision. A file that differs more, overflows or works at the traced size only is refused with
    ExportError, and what was at `out` before stays. Raises UsageError for arguments, missing packages and paths.
    """
    if to not in targets.registry():
        raise UsageError(f"to: expected one of {', '.join(targets.registry())}, got {to!r}")
    target = targets.registry()[to]()
    if not isinstance(network, nn.Module):
        raise UsageError(f"network: expected a torch.nn.Module, got {type(network).__name__}")
    row = find_precision(precision)
    spec = Spec.of(network, latent_shape)
    if precision not in target.precisions:
        raise UsageError(f"precision: {to} supports {', '.join(target.precisions)}, got {precision!r}")
    if precision == "int8" and calibration is None and spec.kind == "image":
        raise UsageError("calibration: int8 needs images like those the network will see, got none")
    if reason := target.missing_package():
        raise UsageError(reason)
    out = Path(out)
    target.check_out(out, overwrite=overwrite)
    with _temporary_file(target, out) as written:
        prepared = prepare(network, spec, row, {**(about or {}), "to": to})
        report = {"file": target.verified_file(out).name, **target.write(prepared, written, calibration)}
        target.publish(written, out, prepared, report)
    return report


@contextlib.contextmanager
def _temporary_file(target: Target, out: Path) -> Iterator[Path]:
    """A path beside the result for the unverified file. Raises UsageError, before any work, where `out` cannot be."""
    file = target.verified_file(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with aside_folder(file) as folder:
            yield folder / f"model{file.suffix or '.onnx'}"
    except OSError as error:
        if isinstance(error, FastganError):
            raise
        raise UsageError(f"out: {out} cannot be written: {error.strerror or error}") from error
