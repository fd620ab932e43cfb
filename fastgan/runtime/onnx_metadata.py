"""What an ONNX file says before its graph is loaded: opset and metadata, read without any library.

An ONNX file is one protobuf message (ModelProto in onnx.proto); of its fields only a few are read here, the graph with
the weights is skipped. So a model is known before a back-end is chosen for it, and by every back-end alike.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from fastgan.errors import ExportError, UsageError

# Field numbers of ModelProto.
_IR_VERSION, _GRAPH, _OPSET_IMPORT, _METADATA = 1, 7, 8, 14


@dataclass
class Header:
    """opsets: version by domain ("" is the standard). metadata: the file's texts by name."""

    opsets: dict[str, int] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def opset(self) -> int:
        """The version of the standard operators."""
        return self.opsets.get("", self.opsets.get("ai.onnx", 0))


def read_header(path: Path) -> Header:
    """Raises UsageError when there is no such file, ExportError when it is no whole ONNX model."""
    if not path.is_file():
        raise UsageError(f"model: {path} is {'a directory' if path.is_dir() else 'not a file'}")
    header = Header()
    found = set()
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            for number, content in _fields(file, size):
                found.add(number)
                if number == _OPSET_IMPORT and isinstance(content, bytes):
                    entry = _entries(content)
                    header.opsets[_string(entry.get(1, b""))] = int(entry.get(2, 0))
                elif number == _METADATA and isinstance(content, bytes):
                    entry = _entries(content)
                    header.metadata[_string(entry.get(1, b""))] = _string(entry.get(2, b""))
    except (ValueError, EOFError, TypeError) as error:
        raise ExportError(f"model: {path} is no ONNX file, or not the whole of one: {error}") from None
    except OSError as error:
        raise UsageError(f"model: {path} cannot be read: {error.strerror or error}") from error
    if not {_IR_VERSION, _GRAPH} <= found:
        raise ExportError(f"model: {path} is no ONNX file, or not the whole of one: it has no graph")
    return header


def _fields(file: BinaryIO, end: int) -> Iterator[tuple[int, int | bytes | None]]:
    """The fields of the message that a file holds up to `end`: number and content, None for what is skipped."""
    while file.tell() < end:
        number, wire = divmod(_varint(file), 8)
        if wire == 0:
            yield number, _varint(file)
        elif wire == 2:
            size = _varint(file)
            if file.tell() + size > end:
                raise EOFError(f"field {number} should have {size} bytes, {end - file.tell()} are left")
            if number == _GRAPH:
                file.seek(size, 1)
                yield number, None
            else:
                yield number, file.read(size)
        elif wire in (1, 5):
            yield number, file.read(8 if wire == 1 else 4)
        else:
            raise ValueError(f"unknown kind of field {wire}")


def _entries(content: bytes) -> dict[int, int | bytes]:
    return {number: value for number, value in _fields(io.BytesIO(content), len(content)) if value is not None}


def _string(value: int | bytes) -> str:
    if isinstance(value, int):
        raise ValueError("a number where a text belongs")
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
