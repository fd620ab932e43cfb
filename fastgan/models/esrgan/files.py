"""Opens weight files of super-resolution networks: safetensors, PyTorch checkpoints, ncnn models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fastgan._util.schema import shown
from fastgan._util.weight_files import is_safetensors, is_torch_file, read_safetensors, read_torch_file
from fastgan.errors import DataError, UsageError
from fastgan.models.esrgan.from_ncnn import from_ncnn
from fastgan.models.esrgan.state import from_state
from fastgan.models.ncnn import read_pair

#: Keys of a checkpoint that may hold the state dict, in order of preference: averaged weights first.
_STATE_KEYS = ("params_ema", "params")


def load(path: str | Path) -> nn.Module:
    """The RRDBNet or SRVGGNetCompact of a weight file, in eval mode, float32, on the CPU.

    path: a safetensors file; a PyTorch file (read with weights_only=True) with a state dict, or with one under
    "params_ema" (preferred) or "params"; or one of the two files of an ncnn model, NAME.param and NAME.bin. The format
    is recognized by the content, except for ncnn. Half precision is converted to float32. `fastgan.models.load` opens
    discriminators too, and knows the scale of a network that it saved with a bicubic downsampling. Raises UsageError if
    there is no such file, DataError (with the path and the reason) if it is damaged, of another network or of another
    format.
    """
    path = Path(path)
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise UsageError(f"weights: expected a file, got {path}, which {problem}")
    try:
        with path.open("rb") as file:
            start = file.read(16)
        if not start:
            raise DataError("is empty")
        # The length with which a safetensors file begins can equal the first bytes of the other formats: tested first.
        if is_safetensors(start):
            return from_state(read_safetensors(path))
        if is_torch_file(start):
            return from_state(_state_in(read_torch_file(path)))
        if path.suffix in (".param", ".bin"):
            return from_ncnn(read_pair(path))
        raise DataError(
            "expected a safetensors file, a PyTorch file, or the .param and .bin of an ncnn model, got none of them"
        )
    except DataError as error:
        raise DataError(f"{path}: {error}") from error.__cause__
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _state_in(content: Any) -> Mapping[str, Tensor]:
    for name in _STATE_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
            break
    if not isinstance(content, Mapping):
        raise DataError(f"expected a dict of weights in this PyTorch file, got {type(content).__name__}")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise DataError(
                f"expected a dict of weights, or one under {' or '.join(_STATE_KEYS)}, got a {type(value).__name__}"
                f" under {shown(key)}"
            )
    return content
