"""Weights of an RRDBNet or SRVGGNetCompact out of an ncnn graph, which is compared with the network layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from fastgan.errors import DataError
from fastgan.models.esrgan.rrdb import RESIDUAL, SLOPE
from fastgan.models.esrgan.state import from_state
from fastgan.models.ncnn import NcnnLayer, Value

#: Number of convolutions in an RRDB, and outside of the RRDBs.
_IN_RRDB, _OUTSIDE = 15, 6
#: Parameters of a 3×3 convolution with stride 1 and padding 1, besides channels, size and activation.
_CONV: dict[int, Value] = {1: 3, 2: 1, 3: 1, 4: 1, 5: 1, 11: 3, 12: 1, 13: 1, 14: 1, 15: 1, 16: 1}
_NEAREST, _BICUBIC = 1, 3
_ADD, _MULTIPLY = 0, 2


def from_ncnn(layers: Sequence[NcnnLayer]) -> nn.Module:
    """The network of an ncnn model, as `from_state` returns it.

    Raises DataError if a layer differs from the one that RRDBNet or SRVGGNetCompact has in its place.
    """
    graph = _Graph(layers)
    if any(layer.kind == "PReLU" for layer in layers):
        scale = _srvgg(graph)
        return from_state(graph.state, scale=scale)
    unshuffle = _rrdb(graph)
    network = from_state(graph.state)
    if network.multiple != unshuffle:
        channels = graph.state["conv_first.weight"].shape[1]
        raise DataError(
            f"its first convolution has {channels} input channels: expected a Reorg by {network.multiple} before"
        )
    return network


def _srvgg(graph: _Graph) -> int:
    x = image = graph.image
    convolutions = graph.count("Convolution")
    for i in range(convolutions - 1):
        x = graph.prelu(f"body.{2 * i + 1}", graph.conv(f"body.{2 * i}", x))
    x = graph.conv(f"body.{2 * convolutions - 2}", x)
    x, shuffle = graph.rearrange("PixelShuffle", x)
    x = graph.add(x, graph.nearest(image, shuffle))
    x, ratio = graph.bicubic(x) if graph.follows("Interp", x) else (x, 1.0)
    graph.end(x)
    scale = round(shuffle * ratio)
    if abs(scale - shuffle * ratio) > 1e-3 or not 1 <= scale <= shuffle:
        raise DataError(f"its scale is {shuffle} · {ratio:g}: expected a whole number")
    return scale


def _rrdb(graph: _Graph) -> int:
    blocks, rest = divmod(graph.count("Convolution") - _OUTSIDE, _IN_RRDB)
    if blocks < 1 or rest:
        raise DataError(
            f"expected {_OUTSIDE} convolutions and {_IN_RRDB} in each block of an RRDBNet, or PReLU layers as in a"
            f" SRVGGNetCompact, got {graph.count('Convolution')} convolutions"
        )
    x, unshuffle = graph.rearrange("Reorg", graph.image) if graph.follows("Reorg", graph.image) else (graph.image, 1)
    first = x = graph.conv("conv_first", x)
    for i in range(blocks):
        block = x
        for j in (1, 2, 3):
            x = _dense(graph, f"body.{i}.rdb{j}", x)
        x = graph.residual(x, block)
    x = graph.add(first, graph.conv("conv_body", x))
    x = graph.conv("conv_up1", graph.nearest(x, 2), leaky=True)
    x = graph.conv("conv_up2", graph.nearest(x, 2), leaky=True)
    graph.end(graph.conv("conv_last", graph.conv("conv_hr", x, leaky=True)))
    return unshuffle


def _dense(graph: _Graph, name: str, x: str) -> str:
    maps = [x]
    for k in (1, 2, 3, 4):
        maps.append(graph.conv(f"{name}.conv{k}", graph.concat(maps), leaky=True))
    return graph.residual(graph.conv(f"{name}.conv5", graph.concat(maps)), x)


class _Graph:
    """The layers that are not yet matched, and the weights of the matched ones under the names of a PyTorch state dict.

    Each method takes the names of input blobs, matches the one layer of its kind that has these inputs, and returns the
    name of its output blob.
    """

    def __init__(self, layers: Sequence[NcnnLayer]):
        self.state: dict[str, Tensor] = {}
        self.unmatched: dict[NcnnLayer, None] = {}  # in the order of the file
        self.by_inputs: dict[tuple[str, ...], list[NcnnLayer]] = {}
        original: dict[str, str] = {}  # output of a Split or Noop → its input
        inputs: list[str] = []
        for layer in layers:
            blobs = tuple(original.get(blob, blob) for blob in layer.inputs)
            if layer.kind in ("Split", "Noop") and len(blobs) == 1:
                original |= dict.fromkeys(layer.outputs, blobs[0])
            elif layer.kind == "Input":
                inputs += layer.outputs
            else:
                layer = replace(layer, inputs=blobs)
                self.unmatched[layer] = None
                self.by_inputs.setdefault(_key(blobs), []).append(layer)
        if len(inputs) != 1:
            raise DataError(f"expected one Input layer with one output, got {len(inputs)} outputs")
        self.image = inputs[0]

    def count(self, kind: str) -> int:
        return sum(layer.kind == kind for layer in self.unmatched)

    def follows(self, kind: str, *blobs: str) -> bool:
        return any(layer.kind == kind for layer in self.by_inputs.get(_key(blobs), ()))

    def conv(self, name: str, x: str, leaky: bool = False) -> str:
        layer, y = self._match("Convolution", x)
        params = dict(layer.params)
        out, size, activation, slope = params.pop(0, 0), params.pop(6, 0), params.pop(9, 0), params.pop(10, ())
        _expect(layer, params, {number: _CONV.get(number, 0) for number in {*params, 1, 4, 5}})
        assert isinstance(out, int)
        assert isinstance(size, int)
        if out < 1 or size % (9 * out):
            raise DataError(f"{layer}: expected weights of 3×3 kernels, got {size} numbers for {out} output channels")
        weight, bias = (torch.from_numpy(values) for values in layer.weights)
        self.state |= {f"{name}.weight": weight.view(out, -1, 3, 3), f"{name}.bias": bias}
        if leaky and activation == 0:
            layer, y = self._match("ReLU", y)
            _expect(layer, layer.params, {0: SLOPE})
        elif (activation, slope) != ((2, (SLOPE,)) if leaky else (0, ())):
            expected = f"a leaky ReLU of slope {SLOPE}" if leaky else "no activation"
            raise DataError(f"{layer}: expected {expected}, got 9={activation} with {slope}")
        return y

    def prelu(self, name: str, x: str) -> str:
        layer, y = self._match("PReLU", x)
        self.state[f"{name}.weight"] = torch.from_numpy(layer.weights[0])
        return y

    def concat(self, blobs: Sequence[str]) -> str:
        if len(blobs) == 1:
            return blobs[0]
        layer, y = self._match("Concat", *blobs)
        if layer.inputs != tuple(blobs):
            raise DataError(f"{layer}: expected its inputs in the order {', '.join(blobs)}")
        _expect(layer, layer.params, {0: 0})
        return y

    def add(self, *blobs: str) -> str:
        layer, y = self._match(("BinaryOp", "Eltwise"), *blobs)
        _expect(layer, layer.params, {0: _ADD} if layer.kind == "BinaryOp" else {0: 1})
        return y

    def residual(self, x: str, to: str) -> str:
        """0.2·x + to, as two BinaryOp layers or one Eltwise."""
        if self.follows("BinaryOp", x):
            layer, x = self._match("BinaryOp", x)
            _expect(layer, layer.params, {0: _MULTIPLY, 1: 1, 2: RESIDUAL})
            return self.add(x, to)
        layer, y = self._match("Eltwise", x, to)
        _expect(layer, layer.params, {0: 1, 1: tuple(RESIDUAL if blob == x else 1.0 for blob in layer.inputs)})
        return y

    def nearest(self, x: str, factor: int) -> str:
        layer, y = self._match("Interp", x)
        _expect(layer, layer.params, {0: _NEAREST, 1: float(factor), 2: float(factor)})
        return y

    def bicubic(self, x: str) -> tuple[str, float]:
        layer, y = self._match("Interp", x)
        ratio = layer.params.get(1, 1.0)
        _expect(layer, layer.params, {0: _BICUBIC, 1: ratio, 2: ratio})
        assert isinstance(ratio, int | float)
        return y, float(ratio)

    def rearrange(self, kind: str, x: str) -> tuple[str, int]:
        """A PixelShuffle or Reorg (pixel unshuffle): its output blob and its factor."""
        layer, y = self._match(kind, x)
        factor = layer.params.get(0, 1)
        _expect(layer, layer.params, {0: factor})
        assert isinstance(factor, int)
        return y, factor

    def end(self, x: str) -> None:
        if self.unmatched:
            raise DataError(f"{next(iter(self.unmatched))} is unexpected: expected the network to end at blob {x}")

    def _match(self, kinds: str | tuple[str, ...], *blobs: str) -> tuple[NcnnLayer, str]:
        kinds = (kinds,) if isinstance(kinds, str) else kinds
        candidates = self.by_inputs.get(_key(blobs), [])
        for layer in candidates:
            if layer.kind in kinds and len(layer.outputs) == 1:
                candidates.remove(layer)
                del self.unmatched[layer]
                return layer, layer.outputs[0]
        # For the message: a layer that has one of the blobs as an input, else the first unmatched one.
        found = next((layer for layer in self.unmatched if set(layer.inputs) & set(blobs)), None)
        found = found or next(iter(self.unmatched), None)
        expected = f"expected a {' or '.join(kinds)} of {', '.join(blobs)}"
        raise DataError(f"{found} is unexpected: {expected}" if found else f"the graph ends: {expected}")


def _key(blobs: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(blobs))


def _expect(layer: NcnnLayer, params: Mapping[int, Value], expected: Mapping[int, Value]) -> None:
    """Raise DataError for a parameter of another value than expected; one that is not listed must be 0, the default."""
    for number in sorted({*params, *expected}):
        value, required = params.get(number, 0), expected.get(number, 0)
        if not _equal(value, required):
            raise DataError(f"{layer}: expected {number}={required}, got {value}")


def _equal(a: Value, b: Value) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    return isinstance(a, int | float) and isinstance(b, int | float) and abs(a - b) < 1e-6
