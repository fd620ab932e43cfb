"""ncnn's graphs of RRDBNet and SRVGGNetCompact, walked along the network: layer for layer they have to be it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from fastgan.errors import DataError
from fastgan.models.esrgan.rrdb import RESIDUAL, SLOPE
from fastgan.models.esrgan.state import from_state
from fastgan.models.ncnn import Layer, Value

#: Convolutions in an RRDB, and of the network around its trunk.
_IN_RRDB, _AROUND = 15, 6
#: What a convolution 3×3 of stride 1 that keeps the size may say, besides channels, size and activation.
_CONV: dict[int, Value] = {1: 3, 2: 1, 3: 1, 4: 1, 5: 1, 11: 3, 12: 1, 13: 1, 14: 1, 15: 1, 16: 1}
_NEAREST, _BICUBIC = 1, 3
_ADD, _MULTIPLY = 0, 2


def from_ncnn(layers: Sequence[Layer]) -> nn.Module:
    """The network that the layers of an ncnn pair are, as `from_state` returns it.

    Raises DataError where a layer is not what RRDBNet or SRVGGNetCompact has at that place.
    """
    walk = _Walk(layers)
    if any(layer.kind == "PReLU" for layer in layers):
        scale = _srvgg(walk)
        return from_state(walk.state, scale=scale)
    unshuffle = _rrdb(walk)
    network = from_state(walk.state)
    if network.multiple != unshuffle:
        taken = walk.state["conv_first.weight"].shape[1]
        raise DataError(f"its first convolution takes {taken} channels: expected a Reorg by {network.multiple} before")
    return network


def _srvgg(walk: _Walk) -> int:
    x = image = walk.image
    convolutions = walk.count("Convolution")
    for i in range(convolutions - 1):
        x = walk.prelu(f"body.{2 * i + 1}", walk.conv(f"body.{2 * i}", x))
    x = walk.conv(f"body.{2 * convolutions - 2}", x)
    x, shuffle = walk.rearrange("PixelShuffle", x)
    x = walk.add(x, walk.nearest(image, shuffle))
    x, ratio = walk.bicubic(x) if walk.follows("Interp", x) else (x, 1.0)
    walk.end(x)
    scale = round(shuffle * ratio)
    if abs(scale - shuffle * ratio) > 1e-3 or not 1 <= scale <= shuffle:
        raise DataError(f"it enlarges by {shuffle}, then resizes by {ratio:g}: expected a whole number in the end")
    return scale


def _rrdb(walk: _Walk) -> int:
    blocks, rest = divmod(walk.count("Convolution") - _AROUND, _IN_RRDB)
    if blocks < 1 or rest:
        raise DataError(
            f"expected {_AROUND} convolutions and {_IN_RRDB} in each block of an RRDBNet, or PReLU layers as in a"
            f" SRVGGNetCompact, got {walk.count('Convolution')} convolutions"
        )
    x, unshuffle = walk.rearrange("Reorg", walk.image) if walk.follows("Reorg", walk.image) else (walk.image, 1)
    first = x = walk.conv("conv_first", x)
    for i in range(blocks):
        block = x
        for j in (1, 2, 3):
            x = _dense(walk, f"body.{i}.rdb{j}", x)
        x = walk.residual(x, block)
    x = walk.add(first, walk.conv("conv_body", x))
    x = walk.conv("conv_up1", walk.nearest(x, 2), leaky=True)
    x = walk.conv("conv_up2", walk.nearest(x, 2), leaky=True)
    walk.end(walk.conv("conv_last", walk.conv("conv_hr", x, leaky=True)))
    return unshuffle


def _dense(walk: _Walk, name: str, x: str) -> str:
    maps = [x]
    for k in (1, 2, 3, 4):
        maps.append(walk.conv(f"{name}.conv{k}", walk.concat(maps), leaky=True))
    return walk.residual(walk.conv(f"{name}.conv5", walk.concat(maps)), x)


class _Walk:
    """The layers not yet passed, and the weights of those that were, under PyTorch's names.

    Each step names the blobs it starts from, passes the one layer that fits and gives the blob it ends at.
    """

    def __init__(self, layers: Sequence[Layer]):
        self.state: dict[str, Tensor] = {}
        self.left: dict[Layer, None] = {}  # in the file's order
        self.takers: dict[tuple[str, ...], list[Layer]] = {}  # by what they take
        same: dict[str, str] = {}  # a copy of a blob → it
        inputs: list[str] = []
        for layer in layers:
            takes = tuple(same.get(blob, blob) for blob in layer.inputs)
            if layer.kind in ("Split", "Noop") and len(takes) == 1:
                same |= dict.fromkeys(layer.outputs, takes[0])
            elif layer.kind == "Input":
                inputs += layer.outputs
            else:
                layer = replace(layer, inputs=takes)
                self.left[layer] = None
                self.takers.setdefault(_key(takes), []).append(layer)
        if len(inputs) != 1:
            raise DataError(f"expected one Input layer with one output, got {len(inputs)} outputs")
        self.image = inputs[0]

    def count(self, kind: str) -> int:
        return sum(layer.kind == kind for layer in self.left)

    def follows(self, kind: str, *blobs: str) -> bool:
        return any(layer.kind == kind for layer in self.takers.get(_key(blobs), ()))

    def conv(self, name: str, x: str, leaky: bool = False) -> str:
        layer, y = self._pass("Convolution", x)
        params = dict(layer.params)
        out, size, activation, slope = params.pop(0, 0), params.pop(6, 0), params.pop(9, 0), params.pop(10, ())
        _expect(layer, params, {number: _CONV.get(number, 0) for number in {*params, 1, 4, 5}})
        assert isinstance(out, int)
        assert isinstance(size, int)
        if out < 1 or size % (9 * out):
            raise DataError(f"{layer}: expected weights for kernels of 3×3, got {size} of them for {out} channels")
        weight, bias = (torch.from_numpy(values) for values in layer.weights)
        self.state |= {f"{name}.weight": weight.view(out, -1, 3, 3), f"{name}.bias": bias}
        if leaky and activation == 0:
            layer, y = self._pass("ReLU", y)
            _expect(layer, layer.params, {0: SLOPE})
        elif (activation, slope) != ((2, (SLOPE,)) if leaky else (0, ())):
            expected = f"a leaky ReLU of slope {SLOPE}" if leaky else "no activation"
            raise DataError(f"{layer}: expected {expected}, got 9={activation} with {slope}")
        return y

    def prelu(self, name: str, x: str) -> str:
        layer, y = self._pass("PReLU", x)
        self.state[f"{name}.weight"] = torch.from_numpy(layer.weights[0])
        return y

    def concat(self, blobs: Sequence[str]) -> str:
        if len(blobs) == 1:
            return blobs[0]
        layer, y = self._pass("Concat", *blobs)
        if layer.inputs != tuple(blobs):
            raise DataError(f"{layer}: expected its inputs in the order {', '.join(blobs)}")
        _expect(layer, layer.params, {0: 0})
        return y

    def add(self, *blobs: str) -> str:
        layer, y = self._pass(("BinaryOp", "Eltwise"), *blobs)
        _expect(layer, layer.params, {0: _ADD} if layer.kind == "BinaryOp" else {0: 1})
        return y

    def residual(self, x: str, to: str) -> str:
        """0.2·x + to."""
        if self.follows("BinaryOp", x):
            layer, x = self._pass("BinaryOp", x)
            _expect(layer, layer.params, {0: _MULTIPLY, 1: 1, 2: RESIDUAL})
            return self.add(x, to)
        layer, y = self._pass("Eltwise", x, to)
        _expect(layer, layer.params, {0: 1, 1: tuple(RESIDUAL if blob == x else 1.0 for blob in layer.inputs)})
        return y

    def nearest(self, x: str, factor: int) -> str:
        layer, y = self._pass("Interp", x)
        _expect(layer, layer.params, {0: _NEAREST, 1: float(factor), 2: float(factor)})
        return y

    def bicubic(self, x: str) -> tuple[str, float]:
        layer, y = self._pass("Interp", x)
        ratio = layer.params.get(1, 1.0)
        _expect(layer, layer.params, {0: _BICUBIC, 1: ratio, 2: ratio})
        assert isinstance(ratio, int | float)
        return y, float(ratio)

    def rearrange(self, kind: str, x: str) -> tuple[str, int]:
        """PixelShuffle or Reorg, the way back; and by how much."""
        layer, y = self._pass(kind, x)
        factor = layer.params.get(0, 1)
        _expect(layer, layer.params, {0: factor})
        assert isinstance(factor, int)
        return y, factor

    def end(self, x: str) -> None:
        if self.left:
            raise DataError(f"{next(iter(self.left))} is unexpected: the network ends before it, at blob {x}")

    def _pass(self, kinds: str | tuple[str, ...], *blobs: str) -> tuple[Layer, str]:
        kinds = (kinds,) if isinstance(kinds, str) else kinds
        takers = self.takers.get(_key(blobs), [])
        for layer in takers:
            if layer.kind in kinds and len(layer.outputs) == 1:
                takers.remove(layer)
                del self.left[layer]
                return layer, layer.outputs[0]
        # What is there instead: a layer that takes one of the blobs, or the first of all that were not passed.
        found = next((layer for layer in self.left if set(layer.inputs) & set(blobs)), None)
        found = found or next(iter(self.left), None)
        expected = f"expected a {' or '.join(kinds)} of {', '.join(blobs)}"
        raise DataError(f"{found} is unexpected: {expected}" if found else f"the graph ends: {expected}")


def _key(blobs: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(blobs))


def _expect(layer: Layer, params: Mapping[int, Value], expected: Mapping[int, Value]) -> None:
    """Refuse a parameter of another value than expected, and one that is not expected unless it is 0, the default."""
    for number in sorted({*params, *expected}):
        value, wanted = params.get(number, 0), expected.get(number, 0)
        if not _close(value, wanted):
            raise DataError(f"{layer}: expected {number}={wanted}, got {value}")


def _close(a: Value, b: Value) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(_close(x, y) for x, y in zip(a, b, strict=True))
    return isinstance(a, int | float) and isinstance(b, int | float) and abs(a - b) < 1e-6
