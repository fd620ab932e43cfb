"""Compares what a file declares about its network with the shapes that its library found, and with what comes out."""

from __future__ import annotations

from math import prod
from typing import Any

from fastgan._util.memory import require_memory
from fastgan.errors import BackendError, ExportError
from fastgan.runtime.backends.base import Backend
from fastgan.runtime.spec import Spec

#: The largest batch for which a file may be exported alone.
MOST_BATCH = 4096


def check_ports(spec: Spec, backend: Backend, model: Any) -> None:
    """Raise ExportError where inputs or outputs differ from the spec, DataError where one input exceeds the memory.

    Axes of which the library does not know the size are passed over.
    """
    if not backend.inputs:
        return
    shapes = [port.shape for port in backend.inputs]
    if len(shapes) != len(spec.inputs):
        raise ExportError(f"model: {model} has {len(shapes)} inputs, its metadata state {', '.join(spec.inputs)}")
    sizes = [None] * len(spec.sizes)
    declared: list[tuple[int | None, ...]] = [
        (None, spec.channels, *sizes) if sizes else (None, *spec.latent_shape),
        *[(None, spec.classes) if spec.label_vectors else (None,)] * bool(spec.classes),
        *((None, *control.shape) for control in spec.controls),
    ]
    _compare("input", declared, shapes, model)
    batch, *rest = shapes[0] or (None,)
    if batch and batch > MOST_BATCH:
        raise ExportError(f"model: {model} takes {batch:,} at a time only; expected at most {MOST_BATCH:,}")
    require_memory(4 * (batch or 1) * prod(n or 1 for n in rest), f"an input of {model}")
    result: tuple[int | None, ...] = (batch, *(spec.styles or (None, None, None)))
    if sizes:
        sides = rest[1:] or sizes
        result = batch, spec.result_channels, *(n and n * spec.scale for n in sides)
    _compare("output", [result], [port.shape for port in backend.outputs[:1]], model)


def _compare(
    what: str, declared: list[tuple[int | None, ...]], found: list[tuple[int | None, ...]], model: Any
) -> None:
    for wanted, shape in zip(declared, found, strict=False):
        differs = len(wanted) != len(shape) or any(a and b and a != b for a, b in zip(wanted, shape, strict=True))
        if shape and differs:
            raise ExportError(f"model: {model} has an {what} {_text(shape)}, its metadata state {_text(wanted)}")


def _text(shape: tuple[int | None, ...]) -> str:
    return f"[{', '.join('any' if n is None else str(n) for n in shape)}]"


def check_result(spec: Spec, given: tuple[int, ...], result: tuple[int, ...], pixels: bool) -> None:
    """Raise BackendError where a result has not the shape that the spec declares for an input of shape `given`."""
    if spec.kind == "mapping":
        if tuple(result) != (given[0], *spec.styles):
            stated = [given[0], *spec.styles]
            raise BackendError(f"model: for {list(given)} it returns {list(result)}; its metadata state {stated}")
        return
    if not spec.sizes:
        if len(result) != 4 or result[0] != given[0] or 0 in result:
            raise BackendError(f"model: for {list(given)} it returns {list(result)}; expected [{given[0]}, C, H, W]")
        return
    n, channels = given[0], spec.result_channels
    size = tuple(spec.scale * side for side in (given[1:3] if pixels else given[2:]))
    expected = (n, *size, channels) if pixels else (n, channels, *size)
    if tuple(result) != expected:
        raise BackendError(f"model: for {list(given)} it returns {list(result)}; its metadata state {list(expected)}")
