"""Emulates fp16 and bf16 ONNX files in float32: the same operators, with every result rounded to the half type.

ONNX Runtime's CPU provider has no bf16 convolution. It runs fp16 files, but computes in float32 and rounds only at the
end, whatever the optimization level: (4e4 + 4e4) / 2 is 4e4 there and infinity on a GPU. The emulation casts every half
result to the half type and back, and the runtime keeps these casts, so that an overflow shows on a CPU too.
"""

from __future__ import annotations

from pathlib import Path

from fastgan.errors import ExportError


def float32_emulation(path: Path) -> bytes:
    """The emulating model of a file, serialized. Raises ExportError for a file with control flow."""
    import onnx
    from onnx import TensorProto, helper

    model = onnx.shape_inference.infer_shapes(onnx.load(path), data_prop=True)
    graph = model.graph
    halves = {TensorProto.FLOAT16, TensorProto.BFLOAT16}
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    nodes = []
    float32: dict[str, str] = {}  # name of a half tensor → name of its float32 copy
    for node in graph.node:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise ExportError(f"the exported model has control flow ({node.op_type}), which is supported in fp32 only")
        unknown = [name for name in (*node.input, *node.output) if name and types.get(name, 0) == 0]
        if unknown:
            raise ExportError(f"the type of {unknown[0]} ({node.op_type}) in the exported model is not known")
        if node.op_type == "Cast" or not any(types[name] in halves for name in node.input if name):
            nodes.append(node)
            continue
        for i, name in enumerate(node.input):
            if name and types[name] in halves:
                if name not in float32:
                    float32[name] = f"{name}__float32"
                    nodes.append(helper.make_node("Cast", [name], [float32[name]], to=TensorProto.FLOAT))
                node.input[i] = float32[name]
        casts = []
        for i, name in enumerate(node.output):
            if name and types[name] in halves:
                node.output[i] = f"{name}__exact"
                casts.append(helper.make_node("Cast", [f"{name}__exact"], [name], to=types[name]))
        nodes += [node, *casts]
    del graph.node[:]
    del graph.value_info[:]
    graph.node.extend(nodes)
    return model.SerializeToString()
