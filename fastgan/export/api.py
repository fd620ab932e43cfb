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
from fastgan.export.halves import (
    MappingHalf,
    SynthesisHalf,
    Truncated,
    digest,
    latent_batches,
    sample_w,
    truncatable,
)
from fastgan.export.precision import PRECISIONS, find_precision
from fastgan.export.prepare import Prepared, prepare
from fastgan.export.targets import Target
from fastgan.models.stylegan.generator import StyleGenerator
from fastgan.nn import fold
from fastgan.runtime.network_spec import spec_of
from fastgan.runtime.pair import pair_files

#: Targets of pairs: the others need more than a file.
PAIRED = ("onnx", "aoti")


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

    network: from latents [N, *latent_shape] to images [N, C, H, W], from images to images, or from signals [N, C, T] to
    signals, a vocoder for example; with a second input of labels, int64 [N] or vectors float32 [N, K], where it takes
    some. What its attributes do not state is found by running it, see `fastgan.runtime.network_spec.spec_of`. It is
    copied and not changed. Norms are frozen as in eval() mode, spectral
    norms multiplied into the weights, batch norms merged into the layer before them, fastgan's operations replaced by
    standard ones. To export averaged weights, pass the averaged module (`trainer.ema.module`).
    A StyleGAN's file has truncation_psi [N] as its last input, which a session fills with 1 where it is not given.
    to: "onnx" (batch, height, width and length dynamic); "tensorrt" (an engine, and the ONNX file it was built from
    beside it); "aoti" (PyTorch's ahead-of-time compiler); "triton" (a folder REPOSITORY/NAME for NVIDIA's server).
    `targets` lists them.
    precision: "fp32"; "fp16" and "bf16": weights and arithmetic of that type, norms in float32, float32 inputs and
    outputs; "int8": quantized with `calibration`, batches float32 like the network's first input (latents need none).
    latent_shape: of one z, for networks without the attribute `latent`. about: facts to store in the file. overwrite:
    replace files that stand where the result and its report go; an earlier export is replaced in any case.

    Every file is compared with the network in float64 at several batches and sizes, which are chosen so that its
    activations take at most `verify.MEMORY` bytes: its error may be twice that of PyTorch at the same precision. A file
    that differs more, overflows or works at the traced size only is refused with ExportError, and what was at `out`
    before stays. Raises UsageError for arguments, missing packages and paths, and for a network whose inputs cannot be
    found.
    """
    target, row = _target(network, to), find_precision(precision)
    if isinstance(network, StyleGenerator) and truncatable(network):
        network = Truncated(fold(network).cpu().float())
    spec = spec_of(network, latent_shape)
    if precision not in target.precisions:
        raise UsageError(f"precision: {to} supports {', '.join(target.precisions)}, got {precision!r}")
    if precision == "int8" and spec.kind == "signal":
        raise UsageError("precision: int8 is for networks from images or latents; export signals in fp16 or bf16")
    if precision == "int8" and calibration is None and spec.kind == "image":
        raise UsageError(
            "calibration: int8 needs images like those the network will see, got none (--calibrate IMAGES on the"
            " command line)"
        )
    if reason := target.missing_package():
        raise UsageError(reason)
    out = Path(out)
    target.check_out(out, overwrite=overwrite)
    with _temporary_file(target, out) as written:
        prepared = prepare(network, spec, row, {**(about or {}), "to": to})
        report = {"file": target.verified_file(out).name, "network": prepared.spec.describe()}
        report |= target.write(prepared, written, calibration)
        target.publish(written, out, prepared, report)
    return report


def export_pair(
    generator: nn.Module,
    out: str | Path,
    *,
    to: str = "onnx",
    precision: str = "fp32",
    about: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> dict[str, dict[str, Any]]:
    """Write the two halves of a generator with styles, such as StyleGAN's, beside each other: for out NAME.onnx
    NAME.mapping.onnx (z, labels, truncation_psi → w) and NAME.synthesis.onnx (w, noise_strength, noise → images).

    See `halves` for their inputs; a session fills those that are not given. Both files have the same `pair` in their
    metadata, by which `fastgan.runtime.StylePair` knows that they belong together. The mapping network stays in
    float32: its part of the time is small, and errors of w are in all layers. Images are compared, and int8 is
    calibrated, with the w of latents from N(0, 1).

    Returns the reports of both, as "mapping" and "synthesis". Arguments and errors are those of `export`; neither file
    is written if one is refused.
    """
    target, row = _target(generator, to), find_precision(precision)
    if to not in PAIRED:
        raise UsageError(f"to: a pair is exported to {' or '.join(PAIRED)}, got {to!r}")
    if precision not in target.precisions:
        raise UsageError(f"precision: {to} supports {', '.join(target.precisions)}, got {precision!r}")
    if reason := target.missing_package():
        raise UsageError(reason)
    generator = fold(generator).cpu().float().requires_grad_(False)
    mapping, synthesis = MappingHalf(generator), SynthesisHalf(generator)
    facts = {**(about or {}), "to": to, "pair": digest(generator)}
    files = pair_files(Path(out))
    for file in files:
        target.check_out(file, overwrite=overwrite)
    calibration = [sample_w(generator, 8, seed).numpy() for seed in range(1000, 1016)]
    with contextlib.ExitStack() as stack:
        temporary = [stack.enter_context(_temporary_file(target, file)) for file in files]
        inputs = latent_batches(generator, mapping.spec)
        reports: list[tuple[Prepared, dict[str, Any]]] = []
        for half, path, given in zip((mapping, synthesis), temporary, (None, inputs), strict=True):
            first = half is mapping
            more = {} if first else {"noise_maps": synthesis.sides}
            prepared = prepare(half, spec_of(half), PRECISIONS["fp32"] if first else row, {**facts, **more}, given)
            report = {"file": files[len(reports)].name, "network": prepared.spec.describe()}
            reports.append((prepared, report | target.write(prepared, path, None if first else calibration)))
        for file, path, (prepared, report) in zip(files, temporary, reports, strict=True):
            target.publish(path, file, prepared, report)
    return {"mapping": reports[0][1], "synthesis": reports[1][1]}


def _target(network: nn.Module, to: str) -> Target:
    if to not in targets.registry():
        raise UsageError(f"to: expected one of {', '.join(targets.registry())}, got {to!r}")
    if not isinstance(network, nn.Module):
        raise UsageError(f"network: expected a torch.nn.Module, got {type(network).__name__}")
    return targets.registry()[to]()


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
