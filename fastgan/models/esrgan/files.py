"""Files of weights, of the kinds in which these networks are passed on."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastgan.errors import DataError, UsageError
from fastgan.models.esrgan.from_ncnn import from_ncnn
from fastgan.models.esrgan.state import from_state
from fastgan.models.ncnn import read_pair

#: Under which of them the weights lie, the averaged ones first.
_WRAPPERS = ("params_ema", "params")


def load(path: str | Path) -> nn.Module:
    """The network whose weights a file holds, an RRDBNet or a SRVGGNetCompact: eval mode, float32, on the CPU.

    path: a safetensors file; a torch file, of which nothing but tensors is read, in a dict that may lie under
    "params_ema" (taken first) or "params"; or either file of an ncnn pair NAME.param, NAME.bin. What the file is shows
    in its content, except for the pair. Half precision becomes float32. Raises UsageError where there is no such file,
    DataError (naming it, and what is wrong) where it is damaged, of another network or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        what = "a folder" if path.is_dir() else "not there"
        raise UsageError(f"weights: expected a file, got {path}, which is {what}")
    try:
        with path.open("rb") as file:
            start = file.read(16)
        if not start:
            raise DataError("is empty")
        # A safetensors file begins with the length of a JSON text, so with any two bytes: it is looked for first.
        if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32:
            return from_state(_safetensors(path))
        if start.startswith((b"PK", b"\x80")):  # zip, and the pickle of before torch 1.6
            return from_state(_weights_in(_torch_file(path)))
        if path.suffix in (".param", ".bin"):
            return from_ncnn(read_pair(path))
        raise DataError("expected a safetensors file, a torch file, or a pair of ncnn's .param and .bin, got neither")
    except DataError as error:
        raise DataError(f"{path}: {error}") from error.__cause__
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise DataError(f"this safetensors file is damaged ({error})") from error


def _torch_file(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles of other kinds than torch's; they fail or do not
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own text begins with the advice to trust the file.
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise DataError(
            f"this torch file asks for {asked[1] if asked else 'something unknown'}, and nothing but tensors is read"
            " from one, since it could run anything; have whoever made it save the state dict alone, or as safetensors"
        ) from error
    except Exception as error:  # a damaged file can make the reader fail in any way
        text = str(error).strip().splitlines()
        raise DataError(f"this torch file cannot be read ({text[0] if text else type(error).__name__})") from error


def _weights_in(content: Any) -> Mapping[str, Tensor]:
    for name in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
            break
    if not isinstance(content, Mapping):
        raise DataError(f"expected a dict of weights in this torch file, got {type(content).__name__}")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise DataError(
                f"expected a dict of weights, or one under {' or '.join(_WRAPPERS)}, got a {type(value).__name__} under"
                f" {key!r}"
            )
    return content
