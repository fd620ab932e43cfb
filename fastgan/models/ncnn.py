"""Reader of ncnn models: NAME.param, a graph as text, and NAME.bin, the weights in the order of its layers.

Only the kinds of layers of super-resolution networks are supported. Weights are float32 or float16; int8 and other
quantized weights raise DataError.
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
_SHAPE_HINTS = 30  # number of the parameter with the shapes of a layer's outputs; it is ignored
#: Kinds of layers without weights.
_WITHOUT_WEIGHTS = {
    "BinaryOp",
    "Concat",
    "Eltwise",
    "Input",
    "Interp",
    "Noop",
    "PixelShuffle",
    "ReLU",
    "Reorg",
    "Split",
}

Value = int | float | tuple[float, ...]


@dataclass(frozen=True, eq=False)
class NcnnLayer:
    """One line of a .param file.

    kind: such as "Convolution". inputs, outputs: names of blobs. params: values by parameter number, arrays as tuples.
    weights: float32 arrays [size], in the order of the .bin file.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    params: Mapping[int, Value]
    weights: tuple[np.ndarray, ...] = ()

    def __str__(self) -> str:
        return f"layer {self.name[:80]} ({self.kind[:80]})"


def read_pair(path: Path) -> list[NcnnLayer]:
    """The layers of a model with their weights. path: NAME.param or NAME.bin; both must exist. Raises DataError."""
    param, weights = path.with_suffix(".param"), path.with_suffix(".bin")
    for given, other in ((param, weights), (weights, param)):
        if not other.is_file():
            raise DataError(
                f"an ncnn model consists of two files, and {other.name} is missing in the folder of {given.name}"
            )
    layers = _parse(param.read_bytes(), param.name)
    reader = _Reader(weights.read_bytes(), weights.name)
    layers = [_with_weights(layer, reader) for layer in layers]
    reader.end()
    return layers


def _parse(content: bytes, file: str) -> list[NcnnLayer]:
    lines = content.decode("utf-8", errors="replace").splitlines()
    if not lines or lines[0].strip() != str(MAGIC):
        binary = "; it is a graph in binary form" if content.startswith(MAGIC.to_bytes(4, "little")) else ""
        raise DataError(f"{file} does not begin with {MAGIC}, as an ncnn graph in text form does{binary}")
    try:
        count = int(lines[1].split()[0])
    except (ValueError, IndexError) as error:
        raise DataError(f"{file}, line 2: expected the number of layers and the number of blobs") from error
    layers = []
    for number, line in enumerate(lines[2:], 3):
        if not line.strip():
            continue
        try:
            layers.append(_parse_layer(line.split()))
        except (ValueError, IndexError) as error:
            raise DataError(f"{file}, line {number}: expected a layer, got {line[:60]!r}") from error
    if len(layers) != count:
        raise DataError(f"{file} is incomplete or damaged: line 2 gives {count} layers, and there are {len(layers)}")
    return layers


def _parse_layer(words: Sequence[str]) -> NcnnLayer:
    """KIND NAME number-of-inputs number-of-outputs inputs... outputs... number=value..."""
    kind, name, *rest = words
    inputs, outputs = int(rest[0]), int(rest[1])
    if len(rest) < 2 + inputs + outputs or inputs < 0 or outputs < 0:
        raise ValueError("fewer names of blobs than the numbers of inputs and outputs")
    blobs, settings = rest[2 : 2 + inputs + outputs], rest[2 + inputs + outputs :]
    params: dict[int, Value] = {}
    for setting in settings:
        number, _, text = setting.partition("=")
        if int(number) <= -23300:  # an array: its first value is its length
            length, *values = text.split(",")
            if int(length) != len(values):
                raise ValueError("the length of an array differs from the number of its values")
            params[-int(number) - 23300] = tuple(float(value) for value in values)
        else:
            params[int(number)] = float(text) if set(text) & set(".eE") else int(text)
    params.pop(_SHAPE_HINTS, None)
    return NcnnLayer(kind, name, tuple(blobs[:inputs]), tuple(blobs[inputs:]), params)


def _with_weights(layer: NcnnLayer, reader: _Reader) -> NcnnLayer:
    if layer.kind in _WITHOUT_WEIGHTS:
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
    raise DataError(f"{layer} is not supported: RRDBNet and SRVGGNetCompact have no such layer")


class _Reader:
    """Reads the arrays of a .bin file in order."""

    def __init__(self, content: bytes, file: str):
        self.content, self.file, self.position = content, file, 0

    def tagged(self, count: int, layer: NcnnLayer) -> np.ndarray:
        """Weights of a convolution, float32 [count]: a tag of 4 bytes gives the format of the values that follow."""
        tag = int.from_bytes(self._take(4, layer), "little")
        if tag == 0:
            return self.floats(count, layer)
        if tag == _FP16:
            values = np.frombuffer(self._take(2 * count + 2 * (count % 2), layer), "<f2", count)  # padded to 4 bytes
            return values.astype(np.float32)
        found = "int8" if tag == _INT8 else f"tag 0x{tag:08X}"
        raise DataError(
            f"{self.file}: expected the weights of {layer} as float32 or float16, got {found} (not supported, or the"
            " file is damaged)"
        )

    def floats(self, count: int, layer: NcnnLayer) -> np.ndarray:
        """The next values, float32 [count]."""
        return np.frombuffer(self._take(4 * count, layer), "<f4").astype(np.float32)

    def _take(self, size: int, layer: NcnnLayer) -> bytes:
        piece = self.content[self.position : self.position + size] if size >= 0 else b""
        if len(piece) != size:
            raise DataError(
                f"{self.file} is incomplete: it has {len(self.content):,} bytes, and the weights of {layer} end at byte"
                f" {self.position + size:,}"
            )
        self.position += size
        return piece

    def end(self) -> None:
        """Raise DataError if there are more bytes than the layers have weights."""
        if self.position != len(self.content):
            raise DataError(
                f"{self.file} has {len(self.content):,} bytes, and the weights of its layers are {self.position:,}"
            )
