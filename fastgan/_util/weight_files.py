"""Reads files of weights that others made: the format by its content, never any code, memory only for what is there."""

from __future__ import annotations

import argparse
import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from fastgan._util.memory import require_memory
from fastgan._util.schema import shown
from fastgan.errors import DataError, first_line

if TYPE_CHECKING:
    from torch import Tensor


def is_safetensors(start: bytes) -> bool:
    """Whether a file with these first 16 bytes is a safetensors file, which begins with the length of a JSON header."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32


def is_torch_file(start: bytes) -> bool:
    """Whether it is a PyTorch file: a zip, or the pickle of before PyTorch 1.6."""
    return start.startswith((b"PK", b"\x80"))


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises DataError where it is damaged; the text does not name the path."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise DataError(f"this safetensors file is damaged ({first_line(error)})") from error


def read_torch_file(path: Path) -> Any:
    """The content of a PyTorch file, of tensors and plain values alone. Raises DataError like `read_safetensors`."""
    import torch

    # An open file: given a path, torch.load decides by its suffix, which may be that of another format.
    with path.open("rb") as file:
        try:
            given: BinaryIO = file
            if zipfile.is_zipfile(file):
                # Members may be compressed, which PyTorch never does: a small file could become any size.
                with zipfile.ZipFile(file) as archive:
                    require_memory(sum(member.file_size for member in archive.infolist()), "reading this PyTorch file")
            else:
                # A pickle states lengths, and a file would allocate them before it reads.
                file.seek(0)
                given = io.BytesIO(file.read())
            given.seek(0)
            # Training code stores its options as a Namespace, which holds values and runs nothing.
            with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
                warnings.simplefilter("ignore")  # about pickles that PyTorch did not write
                return torch.load(given, map_location="cpu", weights_only=True)
        except DataError:
            raise
        except pickle.UnpicklingError as error:
            # PyTorch's message suggests weights_only=False, so it is not shown.
            requested = re.search(r"GLOBAL ([\w.]+)", str(error))
            raise DataError(
                f"this PyTorch file loads {requested[1] if requested else 'an unknown object'}, which could run any"
                " code: only tensors are read; save its state dict alone, or as safetensors"
            ) from error
        except Exception as error:  # a damaged file can raise any exception
            raise DataError(f"this PyTorch file cannot be read ({first_line(error)})") from error


def check_tensors(state: Mapping[str, Tensor]) -> None:
    """Raise DataError unless all values are ordinary tensors, whose values are all in memory already.

    A tensor on "meta" has no values. One with strides of 0 may claim any number, which a copy of it would take: a file
    of 2 kB made 32 GB. Sparse, nested and quantized ones lack the operations that weights go through.
    """
    import torch

    for name, value in state.items():
        kinds = {
            "nested": value.is_nested,
            f"of layout {value.layout}": value.layout is not torch.strided,
            f"on the device {value.device}": value.device.type != "cpu",
            "quantized": value.is_quantized,
        }
        if kind := next((kind for kind, found in kinds.items() if found), None):
            raise DataError(f"{shown(name)} is {kind}: expected an ordinary tensor")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise DataError(
                f"{shown(name)} has {value.numel():,} values that share {value.untyped_storage().nbytes():,} bytes:"
                " expected all of them; save it contiguous"
            )
    require_memory(sum(4 * value.numel() for value in state.values()), "a float32 copy of these weights")
