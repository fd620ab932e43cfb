"""Which layers of a network stay in float32, because in int8 they harm its output most for what they cost."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastgan.export.quantization.qdq import Layer, Step, _Weights, quantized_weight
from fastgan.export.quantization.ranges import Seen, opened
from fastgan.runtime.spec import Inputs, Spec

#: PSNR against float32 at which no more layers are kept, in dB; and the most of the work that is kept.
TARGET, SHARE = 40.0, 0.25
#: Inputs on which layers are tried: the so many that int8 harms most (an average would hide them), of that many pixels
#: a side.
TRIED, SIDE = 4, 32


def layers_to_keep(
    model: Any,
    candidates: list[Layer],
    steps: dict[str, Step],
    seen: Seen,
    inputs: list[Inputs],
    spec: Spec,
    *,
    all_layers: list[Layer],
) -> set[str]:
    """Names of candidates whose quantization, tried in groups and then alone, adds most error per multiplication."""
    if len(candidates) < 2:
        return set()
    trial = _Trial(model, candidates, steps, inputs, spec)
    low, high = spec.range
    allowed = (high - low) ** 2 * 10 ** (-TARGET / 10)
    groups = trial.split(list(range(len(candidates))), allowed / 16)
    left = sum(error for error, _ in groups)
    room = SHARE * sum(seen.multiplications.get(layer.name, 0) for layer in all_layers)
    single = [(error, candidates[group[0]]) for error, group in groups if len(group) == 1]
    kept: set[str] = set()
    for error, layer in sorted(single, key=lambda pair: -pair[0] / seen.multiplications[pair[1].name]):
        work = seen.multiplications[layer.name]
        if left <= allowed:
            break
        if work <= room:
            kept.add(layer.name)
            left, room = left - error, room - work
    return kept


class _Trial:
    """The network with a switch at each layer: is it in int8 or not."""

    def __init__(self, model: Any, layers: list[Layer], steps: dict[str, Step], inputs: list[Inputs], spec: Spec):
        self._count = len(layers)
        self._spec = spec
        self._run = _switched(model, layers, steps)
        if spec.kind == "image":
            side = max(spec.multiple, SIDE // spec.multiple * spec.multiple)
            inputs = [(np.ascontiguousarray(x[..., :side, :side]),) for (x,) in inputs]
        everything = list(range(len(layers)))
        tried = [(self._outputs(given, []), given) for given in inputs]
        tried.sort(key=lambda pair: -self._off(pair, everything))
        self._tried = tried[:TRIED]

    def split(self, group: list[int], fine: float) -> list[tuple[float, list[int]]]:
        """Mean squared errors of groups of layers, each of one layer or of an error of at most `fine`."""
        error = self.error(group)
        if len(group) == 1 or error <= fine:
            return [(error, group)]
        middle = len(group) // 2
        return self.split(group[:middle], fine) + self.split(group[middle:], fine)

    def error(self, group: list[int]) -> float:
        """Mean squared error of the output with these layers in int8."""
        return float(np.mean([self._off(pair, group) for pair in self._tried]))

    def _off(self, pair: tuple[np.ndarray, Inputs], group: list[int]) -> float:
        truth, given = pair
        return float(np.square(self._outputs(given, group) - truth).mean())

    def _outputs(self, given: Inputs, group: list[int]) -> np.ndarray:
        switches = np.zeros(self._count, bool)
        switches[group] = True
        return np.clip(self._run(*given, switches=switches)[0], *self._spec.range)


def _switched(model: Any, layers: list[Layer], steps: dict[str, Step]) -> Any:
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
        step = steps[name]
        scale = constant(f"{made}/scale", step.scale, np.float32)
        zero = constant(f"{made}/zero", step.zero_point(), None)
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
            # Everybody who reads the output reads the rounded one, under its old name.
            node.output[0] = f"{layer.y}/exact"
            steps = {**steps, node.output[0]: steps[layer.y]}
            rounding(i, node.output[0], layer.y)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(added)
    graph.input.append(helper.make_tensor_value_info("switches", TensorProto.BOOL, [len(layers)]))
    return opened(copy, [value.name for value in graph.output], onnxruntime)
