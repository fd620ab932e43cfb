"""Tensors and numbers of NumPy in what `read_pickle` reads, made from bytes that are there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from fastgan._util.pickle_data import Call, Global, Persistent, read_pickle
from fastgan._util.schema import shown
from fastgan.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")
#: Number types of NumPy: byte order, kind, bytes.
_NUMPY_DTYPE = re.compile(r"[<|=]?[fiub][1248]")
_REBUILD_TENSOR = ("_rebuild_tensor", "_rebuild_tensor_v2")
#: Storage classes of PyTorch and the dtypes of their values.
_STORAGES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
#: With these three pickles a storage begins, see torch/serialization.py: a number, the version, facts of the machine.
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001


def tensor_globals() -> set[Global]:
    """The globals by which pickles refer to tensors, dtypes and numbers of NumPy."""
    import torch

    dtypes = {Global("torch", name) for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
    return (
        dtypes
        | {Global("torch._utils", name) for name in (*_REBUILD_TENSOR, "_rebuild_parameter")}
        | {Global("torch.storage", "_load_from_bytes"), Global("torch", "Size"), Global("torch", "device")}
        | {Global(module, name) for module in _NUMPY for name in ("scalar", "_reconstruct")}
        | {Global("numpy", "dtype"), Global("numpy", "ndarray"), Global("_codecs", "encode")}
    )


class Tensors:
    """Makes tensors of calls; storages that several tensors share are made once."""

    def __init__(self) -> None:
        self._storages: dict[int, Tensor] = {}

    def tensor(self, call: Any, name: str) -> Tensor:
        """The tensor that `_rebuild_tensor_v2` or `_rebuild_parameter` is called for. Raises DataError with `name`."""
        if isinstance(call, Call) and call.function == ("torch._utils", "_rebuild_parameter") and call.args:
            return self.tensor(call.args[0], name)
        if not isinstance(call, Call) or call.function.module != "torch._utils" or len(call.args) < 4:
            raise DataError(f"{shown(name)} is no tensor")
        storage, offset, size, stride = call.args[:4]
        if not (_whole_numbers((offset,)) and _whole_numbers(size) and _whole_numbers(stride)):
            raise DataError(f"{shown(name)} is damaged: expected sizes and strides, whole numbers from 0")
        values = self._storage(storage, name)
        count, last = 1, offset
        for length, step in zip(size, stride, strict=False):
            count, last = count * length, last + (length - 1) * step
        if len(size) != len(stride) or len(size) > 32 or count > len(values) or (count and last >= len(values)):
            raise DataError(f"{shown(name)} has {shown(size)} values in a storage of {len(values):,}")
        return values.as_strided(size, stride, offset) if count else values.new_empty(size)

    def _storage(self, call: Any, name: str) -> Tensor:
        if not isinstance(call, Call) or call.function != ("torch.storage", "_load_from_bytes"):
            raise DataError(f"{shown(name)} is no tensor with its values in the file")
        data = call.args[0] if call.args else None
        # By the bytes: any number of calls may be of the same ones. The pickle's content keeps them, and so their id.
        if id(data) not in self._storages:
            if (given := _bytes(data)) is None:
                raise DataError(f"{shown(name)} is damaged: expected the bytes of its values")
            self._storages[id(data)] = _values(given, name)
        return self._storages[id(data)]


def _bytes(value: Any) -> memoryview | None:
    """Bytes of a pickle: in protocol 2 a call that encodes a text."""
    if isinstance(value, Call) and value.function == ("_codecs", "encode") and len(value.args) == 2:
        text, encoding = value.args
        if isinstance(text, str) and encoding == "latin1" and (not text or max(text) < "\u0100"):
            return memoryview(text.encode("latin1"))
    return value if isinstance(value, memoryview) else None


def _values(data: memoryview, name: str) -> Tensor:
    """The values of a storage: four pickles, the list of its one key, its length and its bytes."""
    import torch

    at, found = 0, []
    for _ in range(5):
        value, at = read_pickle(data, lambda one: one.module == "torch" and one.name in _STORAGES, at, 1000)
        found.append(value)
    magic, version, machine, storage, _ = found
    parts = storage.key if isinstance(storage, Persistent) and isinstance(storage.key, tuple) else ()
    known = len(parts) >= 5 and isinstance(parts[1], Global) and magic == _MAGIC and version == _VERSION
    if not known or not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise DataError(f"{shown(name)} is damaged: expected a storage of PyTorch in the order of bytes of a PC")
    dtype = getattr(torch, _STORAGES[parts[1].name])
    count = int.from_bytes(data[at : at + 8], "little", signed=True)
    given = data[at + 8 :]
    if count != parts[4] or count * dtype.itemsize != len(given):
        raise DataError(f"{shown(name)} is damaged: expected {shown(parts[4])} values, {len(given):,} bytes are there")
    # Of bytes in the file, which need not be aligned, a copy that may be written to.
    return torch.frombuffer(bytearray(given), dtype=dtype) if count else torch.empty(0, dtype=dtype)


def plain(value: Any) -> Any:
    """A value of JSON's types; what is none becomes its name in brackets, such as "<torch.float16>".

    Raises DataError for one that is nested too deeply or of too many values: a few lists can contain each other.
    """
    left = 10_000

    def convert(value: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0 or not depth:
            raise DataError("its arguments are nested too deeply or too many")
        if isinstance(value, str | int | float | None):
            return value
        if isinstance(value, list | tuple | set | frozenset) and not isinstance(value, Global):
            return [convert(each, depth - 1) for each in value]
        if isinstance(value, dict):
            return {str(key): convert(each, depth - 1) for key, each in value.items()}
        if isinstance(value, Call) and value.function.name == "scalar":
            return _number(value)
        found = value.function if isinstance(value, Call) else value
        return f"<{found if isinstance(found, Global) else type(found).__name__}>"

    return convert(value, 16)


def _number(call: Call) -> Any:
    """The number that numpy.core.multiarray.scalar(dtype, bytes) is called for."""
    import numpy as np

    dtype, data = call.args if len(call.args) == 2 else (None, None)
    data = _bytes(data)
    name = dtype.args[0] if isinstance(dtype, Call) and dtype.function == ("numpy", "dtype") and dtype.args else ""
    if not isinstance(name, str) or not _NUMPY_DTYPE.fullmatch(name) or data is None:
        return "<numpy.scalar>"
    try:
        return np.frombuffer(data, np.dtype(name), 1).item()
    except (ValueError, TypeError):  # of too few bytes, "f1"
        return "<numpy.scalar>"


def _whole_numbers(values: Any) -> bool:
    return isinstance(values, tuple) and all(type(one) is int and 0 <= one < 1 << 50 for one in values)
