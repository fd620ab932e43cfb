import numpy as np
import pytest
import torch

from fastgan.errors import ExportError
from fastgan.export.half_emulation import float32_emulation
from fastgan.export.targets.onnx import open_file

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper  # noqa: E402


def file(path, nodes, kind, initializers=()):
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("x", "y")]
    inside = [helper.make_node("Cast", ["x"], ["a"], to=kind), *nodes,
              helper.make_node("Cast", ["z"], ["y"], to=TensorProto.FLOAT)]  # fmt: skip
    graph = helper.make_graph(inside, "g", ends[:1], ends[1:], list(initializers))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def test_the_emulation_overflows_where_a_gpu_does_and_onnxruntime_does_not(tmp_path):
    """(x + x) / 4 of 4e4: 8e4 is beyond float16. The reason for the emulation."""
    quarter = helper.make_tensor("quarter", TensorProto.FLOAT16, [1], [0.25])
    nodes = [helper.make_node("Add", ["a", "a"], ["b"]), helper.make_node("Mul", ["b", "quarter"], ["z"])]
    path = file(tmp_path / "m.onnx", nodes, TensorProto.FLOAT16, [quarter])
    x = np.array([4e4, 1], np.float32)
    assert open_file(float32_emulation(path))(x).tolist() == [np.inf, 0.5]
    # Were this [inf, 0.5], ONNX Runtime would round itself, and the emulation would not be needed.
    assert open_file(path)(x).tolist() == [2e4, 0.5]


@pytest.mark.parametrize(
    ("kind", "dtype"), [(TensorProto.FLOAT16, torch.float16), (TensorProto.BFLOAT16, torch.bfloat16)]
)
def test_every_result_is_rounded(tmp_path, kind, dtype):
    nodes = [helper.make_node("Sqrt", ["a"], ["b"]), helper.make_node("Mul", ["b", "b"], ["c"]),
             helper.make_node("Add", ["c", "a"], ["z"])]  # fmt: skip
    path = file(tmp_path / "m.onnx", nodes, kind)
    x = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    a = x.to(dtype)
    b = a.sqrt()
    expected = (b * b + a).float().numpy()
    assert np.array_equal(open_file(float32_emulation(path))(x.numpy()), expected)


def test_control_flow_is_refused(tmp_path):
    branch = helper.make_graph([helper.make_node("Neg", ["a"], ["n"])], "b", [],
                               [helper.make_tensor_value_info("n", TensorProto.FLOAT16, ["n"])])  # fmt: skip
    condition = helper.make_tensor("always", TensorProto.BOOL, [], [True])
    nodes = [helper.make_node("If", ["always"], ["z"], then_branch=branch, else_branch=branch)]
    path = file(tmp_path / "m.onnx", nodes, TensorProto.FLOAT16, [condition])
    with pytest.raises(ExportError, match=r"control flow \(If\)"):
        float32_emulation(path)


def test_a_damaged_file(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(ExportError, match="cannot be opened by ONNX Runtime"):
        open_file(tmp_path / "m.onnx")
