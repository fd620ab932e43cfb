"""ncnn's files: NAME.param, a graph as text, and NAME.bin, the weights in the order of its layers.

Of the layers those are known that super-resolution networks are made of. Weights are float32, or float16 behind a tag;
what was quantized in other ways is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fastgan.errors import DataError

MAGIC = 7767517
_FP16 = 0x01306B47
_INT8 = 0x000D4B38
_HINTS = 30  # parameter: the shapes of a layer's outputs, which change nothing
#: Kinds of layers without weights.
_PLAIN = {"BinaryOp", "Concat", "Eltwise", "Input", "Interp", "Noop", "PixelShuffle", "ReLU", "Reorg", "Split"}

Value = int | float | tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Layer:
    """One line of a .param. params: by their numbers, arrays as tuples. weights: float32, flat, in the file's order."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    params: Mapping[int, Value]
    weights: tuple[np.ndarray, ...] = ()

    def __str__(self) -> str:
        return f"layer {self.name} ({self.kind})"


def read_pair(path: Path) -> list[Layer]:
    """The layers with their weights, of NAME.param and NAME.bin, either of which is given. Raises DataError."""
    param, weights = path.with_suffix(".param"), path.with_suffix(".bin")
    for here, other in ((param, weights), (weights, param)):
        if not other.is_file():
            raise DataError(f"ncnn keeps a network in two files, and {other.name} is not beside {here.name}")
    layers = _parse(param.read_bytes(), param.name)
    reader = _Reader(weights.read_bytes(), weights.name)
    layers = [_with_weights(layer, reader) for layer in layers]
    reader.end()
    return layers


def _parse(content: bytes, file: str) -> list[Layer]:
    lines = content.decode("utf-8", errors="replace").splitlines()
    if not lines or lines[0].strip() != str(MAGIC):
        binary = "; it is the binary form of one" if content.startswith(MAGIC.to_bytes(4, "little")) else ""
        raise DataError(f"{file} does not begin with {MAGIC}, as the text of an ncnn graph does{binary}")
    try:
        count = int(lines[1].split()[0])
    except (ValueError, IndexError) as error:
        raise DataError(f"{file}, line 2: expected the numbers of layers and blobs") from error
    layers = []
    for number, line in enumerate(lines[2:], 3):
        if not line.strip():
            continue
        try:
            layers.append(_layer(line.split()))
        except (ValueError, IndexError) as error:
            raise DataError(f"{file}, line {number}: expected a layer, got {line[:60]!r}") from error
    if len(layers) != count:
        raise DataError(f"{file} is cut off or damaged: its line 2 says {count} layers, and there are {len(layers)}")
    return layers


def _layer(words: Sequence[str]) -> Layer:
    """KIND NAME number-of-inputs number-of-outputs inputs... outputs... number=value..."""
    kind, name, *rest = words
    inputs, outputs = int(rest[0]), int(rest[1])
    if len(rest) < 2 + inputs + outputs or inputs < 0 or outputs < 0:
        raise ValueError("fewer names of blobs than said")
    blobs, settings = rest[2 : 2 + inputs + outputs], rest[2 + inputs + outputs :]
    params: dict[int, Value] = {}
    for setting in settings:
        number, _, text = setting.partition("=")
        if int(number) <= -23300:  # an array: its length comes first
            length, *values = text.split(",")
            if int(length) != len(values):
                raise ValueError("an array of another length than said")
            params[-int(number) - 23300] = tuple(float(value) for value in values)
        else:
            params[int(number)] = float(text) if set(text) & set(".eE") else int(text)
    params.pop(_HINTS, None)
    return Layer(kind, name, tuple(blobs[:inputs]), tuple(blobs[inputs:]), params)


def _with_weights(layer: Layer, reader: _Reader) -> Layer:
    if layer.kind in _PLAIN:
        return layer
    count = layer.params.get(0, 0)
    if layer.kind == "PReLU" and isinstance(count, int):
        return replace(layer, weights=(reader.floats(count, layer),))
    size = layer.params.get(6, 0)
    if layer.kind == "Convolution" and isinstance(count, int) and isinstance(size, int):
        if layer.params.get(8, 0):
            raise DataError(f"{layer} is quantized to int8, which is not supported")
        weight = reader.tagged(size, layer)
        return replace(layer, weights=(weight, reader.floats(count, layer)) if layer.params.get(5, 0) else (weight,))
    raise DataError(f"{layer} is unexpected: RRDBNet and SRVGGNetCompact have no such layer")


class _Reader:
    """Takes weights from the content of a .bin, one after the other."""

    def __init__(self, content: bytes, file: str):
        self.content, self.file, self.at = content, file, 0

    def tagged(self, count: int, layer: Layer) -> np.ndarray:
        """A convolution's weights: a tag that says how they are stored, then they."""
        tag = int.from_bytes(self._take(4, layer), "little")
        if tag == 0:
            return self.floats(count, layer)
        if tag == _FP16:
            values = np.frombuffer(self._take(2 * count + 2 * (count % 2), layer), "<f2", count)  # padded to 4 bytes
            return values.astype(np.float32)
        how = "int8 numbers" if tag == _INT8 else f"the tag 0x{tag:08X}"
        raise DataError(
            f"{self.file}: the weights of {layer} are stored as {how}, which is not supported: expected float32 or"
            " float16 (or the file is damaged)"
        )

    def floats(self, count: int, layer: Layer) -> np.ndarray:
        return np.frombuffer(self._take(4 * count, layer), "<f4").astype(np.float32)

    def _take(self, size: int, layer: Layer) -> bytes:
        piece = self.content[self.at : self.at + size] if size >= 0 else b""
        if len(piece) != size:
            raise DataError(
                f"{self.file} is cut off: it has {len(self.content):,} bytes, and the weights of {layer} would need"
                f" {self.at + size:,}"
            )
        self.at += size
        return piece

    def end(self) -> None:
        if self.at != len(self.content):
            raise DataError(f"{self.file} has {len(self.content):,} bytes, and its layers take {self.at:,} of them")
