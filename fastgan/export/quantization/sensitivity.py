"""Selects the layers that stay in float32: those whose quantization adds most error per multiplication."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastgan.export.quantization.qdq import Int8Parameters, QuantizableLayer, _Weights, quantized_weight
from fastgan.export.quantization.ranges import ObservedRanges, open_model
from fastgan.runtime.spec import Inputs, Spec

#: PSNR against float32 in dB at which no more layers are kept, and the largest share of multiplications in kept layers.
TARGET_PSNR, MAX_SHARE = 40.0, 0.25
#: Layers are tried on the TRIED inputs with the largest error in int8 (an average over all would hide them), cropped to
#: SIDE pixels a side.
TRIED, SIDE = 4, 32


def layers_to_keep(
    model: Any,
    candidates: list[QuantizableLayer],
    parameters: dict[str, Int8Parameters],
    observed: ObservedRanges,
    inputs: list[Inputs],
    spec: Spec,
    *,
    all_layers: list[QuantizableLayer],
) -> set[str]:
    """The names of the layers to keep. They are quantized in groups first, then one by one in groups of large error."""
    if len(candidates) < 2:
        return set()
    trial = _Trial(model, candidates, parameters, inputs, spec)
    low, high = spec.range
    allowed = (high - low) ** 2 * 10 ** (-TARGET_PSNR / 10)
    groups = trial.split(list(range(len(candidates))), allowed / 16)
    left = sum(error for error, _ in groups)
    room = MAX_SHARE * sum(observed.multiplications.get(layer.name, 0) for layer in all_layers)
    single = [(error, candidates[group[0]]) for error, group in groups if len(group) == 1]
    kept: set[str] = set()
    for error, layer in sorted(single, key=lambda pair: -pair[0] / observed.multiplications[pair[1].name]):
        work = observed.multiplications[layer.name]
        if left <= allowed:
            break
        if work <= room:
            kept.add(layer.name)
            left, room = left - error, room - work
    return kept


class _Trial:
    """The network with a boolean input for each layer: whether it is quantized."""

    def __init__(
        self,
        model: Any,
        layers: list[QuantizableLayer],
        parameters: dict[str, Int8Parameters],
        inputs: list[Inputs],
        spec: Spec,
    ):
        self._count = len(layers)
        self._spec = spec
        self._run = _switched(model, layers, parameters)
        if spec.kind == "image":
            side = max(spec.multiple, SIDE // spec.multiple * spec.multiple)
            inputs = [(np.ascontiguousarray(x[..., :side, :side]), *y) for (x, *y) in inputs]
        everything = list(range(len(layers)))
        tried = [(self._outputs(given, []), given) for given in inputs]
        tried.sort(key=lambda pair: -self._squared_error(pair, everything))
        self._tried = tried[:TRIED]

    def split(self, group: list[int], fine: float) -> list[tuple[float, list[int]]]:
        """Mean squared errors of groups of layers; each group has one layer, or an error of at most `fine`."""
        error = self.error(group)
        if len(group) == 1 or error <= fine:
            return [(error, group)]
        middle = len(group) // 2
        return self.split(group[:middle], fine) + self.split(group[middle:], fine)

    def error(self, group: list[int]) -> float:
        """Mean squared error of the output with these layers quantized."""
        return float(np.mean([self._squared_error(pair, group) for pair in self._tried]))

    def _squared_error(self, pair: tuple[np.ndarray, Inputs], group: list[int]) -> float:
        expected, given = pair
        return float(np.square(self._outputs(given, group) - expected).mean())

    def _outputs(self, given: Inputs, group: list[int]) -> np.ndarray:
        switches = np.zeros(self._count, bool)
        switches[group] = True
        return np.clip(self._run(*given, switches=switches)[0], *self._spec.range)


def _switched(model: Any, layers: list[QuantizableLayer], parameters: dict[str, Int8Parameters]) -> Any:
    import onnxruntime
    from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

    copy = ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    weights = _Weights(model)
    outputs = {value.name for value in graph.output}
    by_name = {layer.name: (i, layer) for i, layer in enumerate(layers)}
    nodes: list[Any] = []
    added: list[Any] = []

    def constant(name: str, value: Any, dtype: Any) -> str:
        added.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def switch(i: int, given: str, rounded: str, made: str) -> None:
        nodes.append(helper.make_node("Where", [f"switch/{i}", rounded, given], [made]))

    def rounding(i: int, name: str, made: str) -> None:
        own = parameters[name]
        scale = constant(f"{made}/scale", own.scale, np.float32)
        zero = constant(f"{made}/zero", own.zero_point(), None)
        nodes.append(helper.make_node("QuantizeLinear", [name, scale, zero], [f"{made}/int8"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{made}/int8", scale, zero], [f"{made}/back"]))
        switch(i, name, f"{made}/back", made)

    for original in graph.node:
        node = NodeProto()
        node.CopyFrom(original)
        if node.name not in by_name:
            nodes.append(node)
            continue
        i, layer = by_name[node.name]
        nodes.append(helper.make_node("Gather", ["switches", constant(f"which/{i}", i, np.int64)], [f"switch/{i}"]))
        rounding(i, layer.x, f"try/{i}/x")
        whole, scales = quantized_weight(weights[layer.weight], layer.out_axis)
        shape = [1] * whole.ndim
        shape[layer.out_axis] = -1
        back = constant(f"try/{i}/weight/back", whole * scales.reshape(shape), np.float32)
        switch(i, layer.weight, back, f"try/{i}/weight")
        node.input[0], node.input[1] = f"try/{i}/x", f"try/{i}/weight"
        nodes.append(node)
        if layer.y not in outputs:
            # The rounded output takes the name of the output, so that all its consumers read it.
            node.output[0] = f"{layer.y}/exact"
            parameters = {**parameters, node.output[0]: parameters[layer.y]}
            rounding(i, node.output[0], layer.y)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(added)
    graph.input.append(helper.make_tensor_value_info("switches", TensorProto.BOOL, [len(layers)]))
    return open_model(copy, [value.name for value in graph.output], onnxruntime)
