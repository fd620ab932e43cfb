"""Opset and metadata of an ONNX file, read without a library and without loading the graph.

An ONNX file is one protobuf message (ModelProto in onnx.proto). Only a few of its fields are read here; the graph with
the weights is skipped. Session needs the metadata before it chooses a back-end, and without the package onnx.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from fastgan._util.schema import shown
from fastgan.errors import ExportError, UsageError

# Field numbers of ModelProto.
_IR_VERSION, _GRAPH, _OPSET_IMPORT, _METADATA = 1, 7, 8, 14
#: Beyond the operator sets of all domains; the standard one is at 26 in 2026.
_LAST_OPSET = 1000


@dataclass
class OnnxMetadata:
    """opsets: version by domain ("" is the standard one). metadata: metadata_props, text by key."""

    opsets: dict[str, int] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def opset(self) -> int:
        """The version of the standard operators."""
        return self.opsets.get("", self.opsets.get("ai.onnx", 0))


def read_metadata(path: Path) -> OnnxMetadata:
    """Raises UsageError where there is no such file, ExportError where it is no complete ONNX model."""
    if not path.is_file():
        raise UsageError(f"model: {path} is {'a directory' if path.is_dir() else 'not a file'}")
    found = OnnxMetadata()
    numbers = set()
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            for number, content in _fields(file, size, (_OPSET_IMPORT, _METADATA)):
                numbers.add(number)
                if number == _OPSET_IMPORT and isinstance(content, bytes):
                    entry = _entries(content)
                    found.opsets[_string(entry.get(1, b""))] = int(entry.get(2, 0))
                elif number == _METADATA and isinstance(content, bytes):
                    entry = _entries(content)
                    found.metadata[_string(entry.get(1, b""))] = _string(entry.get(2, b""))
    except (ValueError, EOFError, TypeError) as error:
        raise ExportError(f"model: {path} is no ONNX file, or an incomplete one: {error}") from None
    except OSError as error:
        raise UsageError(f"model: {path} cannot be read: {error.strerror or error}") from error
    if odd := {name: version for name, version in found.opsets.items() if not 0 <= version <= _LAST_OPSET}:
        # For 2^40 OpenVINO searches for ever.
        raise ExportError(f"model: {path} has an opset that does not exist: {shown(next(iter(odd.values())))}")
    if not {_IR_VERSION, _GRAPH} <= numbers:
        raise ExportError(f"model: {path} is no ONNX file, or an incomplete one: it has no graph")
    return found


def _fields(file: BinaryIO, end: int, wanted: tuple[int, ...]) -> Iterator[tuple[int, int | bytes | None]]:
    """Number and content of the message's fields up to position `end`; the content of those not wanted is None."""
    while file.tell() < end:
        number, wire = divmod(_varint(file), 8)
        if wire == 0:
            yield number, _varint(file)
        elif wire == 2:
            size = _varint(file)
            if file.tell() + size > end:
                raise EOFError(f"field {number} should have {size} bytes, only {end - file.tell()} are left")
            if number not in wanted:
                file.seek(size, 1)
                yield number, None
            else:
                yield number, file.read(size)
        elif wire in (1, 5):
            yield number, file.read(8 if wire == 1 else 4)
        else:
            raise ValueError(f"unknown wire type {wire}")


def _entries(content: bytes) -> dict[int, int | bytes]:
    return {number: value for number, value in _fields(io.BytesIO(content), len(content), (1, 2)) if value is not None}


def _string(value: int | bytes) -> str:
    if isinstance(value, int):
        raise ValueError("expected a string, got a number")
    return value.decode("utf-8")


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 64, 7):
        byte = file.read(1)
        if not byte:
            raise EOFError("it ends within a number")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("a number without an end")
