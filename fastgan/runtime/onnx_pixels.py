"""Adds the conversion from and to bytes to an image model's ONNX graph, in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastgan.errors import BackendError
from fastgan.runtime.pixel_conversion import scaling

#: Prefix of the names of added tensors.
_PREFIX = "fastgan:"
FRAMES, IMAGES = _PREFIX + "frames", _PREFIX + "images"

#: An operator with the names of its further inputs and its attributes.
Step = tuple[str, list[str], dict[str, Any]]


def why_not() -> str | None:
    """Why models cannot be edited here, or None."""
    try:
        import onnx  # noqa: F401
    except ImportError:
        return "the package onnx is not installed"
    return None


def with_pixels(path: Path, limits: tuple[float, float]) -> bytes:
    """The model with FRAMES uint8 [N, H, W, C] → IMAGES uint8 [N, H, W, C] in place of its images [N, C, H, W].

    Other inputs, labels, stay as they are.

    Two standard operators do most of it, in one pass each: DequantizeLinear is byte · step; QuantizeLinear divides,
    rounds halves to even and clips. Raises BackendError for a model whose opset lacks them.
    """
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load(path)
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if opset < 10:
        raise BackendError(f"model: {path} has opset {opset}; the operators that convert pixels begin with opset 10")
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    image = next(value for value in graph.input if value.name not in weights)  # labels may follow
    (result,) = graph.output
    low, step = scaling(limits)
    for name, kind, number in (
        ("step", TensorProto.FLOAT, float(step)),
        ("zero", TensorProto.UINT8, 0),
        ("low", TensorProto.FLOAT, float(low)),
    ):
        graph.initializer.append(helper.make_tensor(_PREFIX + name, kind, [], [number]))
    table = [_PREFIX + "step", _PREFIX + "zero"]

    # Transpose the bytes, which are a quarter of the floats.
    before: list[Step] = [("Transpose", [], {"perm": [0, 3, 1, 2]}), ("DequantizeLinear", table, {})]
    after: list[Step] = [("QuantizeLinear", table, {}), ("Transpose", [], {"perm": [0, 2, 3, 1]})]
    if low:
        before.append(("Add", [_PREFIX + "low"], {}))
        after.insert(0, ("Sub", [_PREFIX + "low"], {}))
    if image.type.tensor_type.elem_type != TensorProto.FLOAT:
        before.append(("Cast", [], {"to": image.type.tensor_type.elem_type}))
    if result.type.tensor_type.elem_type != TensorProto.FLOAT:
        after.insert(0, ("Cast", [], {"to": TensorProto.FLOAT}))

    nodes = [*_chain(FRAMES, before, image.name), *graph.node, *_chain(result.name, after, IMAGES)]
    del graph.node[:]
    graph.node.extend(nodes)
    for values, old, name in ((graph.input, image, FRAMES), (graph.output, result, IMAGES)):
        dimensions = [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in _dimensions(old)]
        shape = [dimensions[i] for i in (0, 2, 3, 1)] if len(dimensions) == 4 else None  # it may not be stated
        values.remove(old)
        values.insert(0, helper.make_tensor_value_info(name, TensorProto.UINT8, shape))
    return model.SerializeToString()


def _chain(first: str, steps: list[Step], last: str) -> list[Any]:
    """Nodes for the steps from one tensor to another."""
    from onnx import helper

    names = [first, *(f"{last}<{i}" for i in range(1, len(steps))), last]
    return [
        helper.make_node(op, [names[i], *more], [names[i + 1]], name=f"{_PREFIX}{op} {i} to {last}", **attributes)
        for i, (op, more, attributes) in enumerate(steps)
    ]


def _dimensions(value: Any) -> Any:
    return value.type.tensor_type.shape.dim
