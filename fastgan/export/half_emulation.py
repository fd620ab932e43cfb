"""A float32 twin of an fp16 or bf16 file: the same operators, rounded exactly where the file rounds.

ONNX Runtime's CPU provider has no bf16 convolution. It does take fp16 files, but computes them in float32 and rounds
only at the end, whatever the optimization level: 4e4 + 4e4, halved, is 4e4 there and infinity on a GPU. The twin casts
every half result to the half type and back, which the runtime keeps, so that an overflow shows on any machine.
"""

from __future__ import annotations

from pathlib import Path

from fastgan.errors import ExportError


def widened(path: Path) -> bytes:
    """The twin of a file, as the bytes of a model. ExportError for control flow, which is not followed."""
    import onnx
    from onnx import TensorProto, helper

    model = onnx.shape_inference.infer_shapes(onnx.load(path), data_prop=True)
    graph = model.graph
    halves = {TensorProto.FLOAT16, TensorProto.BFLOAT16}
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    nodes = []
    wide: dict[str, str] = {}  # half value → its float32 copy
    for node in graph.node:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise ExportError(f"the exported model has control flow ({node.op_type}), which only fp32 supports")
        unknown = [name for name in (*node.input, *node.output) if name and types.get(name, 0) == 0]
        if unknown:
            raise ExportError(f"the exported model does not say of what type {unknown[0]} is ({node.op_type})")
        if node.op_type == "Cast" or not any(types[name] in halves for name in node.input if name):
            nodes.append(node)
            continue
        for i, name in enumerate(node.input):
            if name and types[name] in halves:
                if name not in wide:
                    wide[name] = f"{name}__wide"
                    nodes.append(helper.make_node("Cast", [name], [wide[name]], to=TensorProto.FLOAT))
                node.input[i] = wide[name]
        after = []
        for i, name in enumerate(node.output):
            if name and types[name] in halves:
                node.output[i] = f"{name}__exact"
                after.append(helper.make_node("Cast", [f"{name}__exact"], [name], to=types[name]))
        nodes += [node, *after]
    del graph.node[:]
    del graph.value_info[:]
    graph.node.extend(nodes)
    return model.SerializeToString()
