"""Small networks as ONNX files, written node by node. (The same fixtures as tests/deploy has: to be shared.)"""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from fastgan.runtime.spec import Spec


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTGAN_CACHE", str(tmp_path / "cache"))


class Upscaler(nn.Module):
    """Twice as large: convolution, PReLU, convolution, shuffle, on top of the nearest pixels."""

    channels, reach, scale = 3, 2, 2

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, 1, 1)
        self.act = nn.PReLU(8, init=0.2)
        self.last = nn.Conv2d(8, 12, 3, 1, 1)

    def forward(self, x):
        y = nn.functional.pixel_shuffle(self.last(self.act(self.first(x))), 2)
        return (y + nn.functional.interpolate(x, scale_factor=2, mode="nearest")) * 1.5  # some pixels leave [0, 1]


class Generator(nn.Module):
    latent = 5

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(5, 3 * 4 * 4)

    def forward(self, z):
        return torch.tanh(self.linear(z).view(-1, 3, 4, 4))


def write(path, nodes, weights, source, result, metadata):
    """An ONNX file. source, result: name and shape."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (source, result)]
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {"fastgan": metadata})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


@pytest.fixture
def upscaler(tmp_path):
    """A module and the file that computes the same."""
    network = Upscaler().eval()
    weights = {name.replace(".", "_"): value.numpy() for name, value in network.state_dict().items()}
    weights["act_weight"] = weights["act_weight"].reshape(-1, 1, 1)
    weights["scales"] = np.array([1, 1, 2, 2], np.float32)
    weights["gain"] = np.array(1.5, np.float32)
    same = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    nodes = [
        helper.make_node("Conv", ["x", "first_weight", "first_bias"], ["a"], **same),
        helper.make_node("PRelu", ["a", "act_weight"], ["b"]),
        helper.make_node("Conv", ["b", "last_weight", "last_bias"], ["c"], **same),
        helper.make_node("DepthToSpace", ["c"], ["d"], blocksize=2, mode="CRD"),
        helper.make_node("Resize", ["x", "", "scales"], ["e"], **nearest),
        helper.make_node("Add", ["d", "e"], ["f"]),
        helper.make_node("Mul", ["f", "gain"], ["y"]),
    ]
    source, result = ("x", ["n", 3, "h", "w"]), ("y", ["n", 3, "h2", "w2"])
    metadata = Spec.of(network).to_json(precision="fp32", step=7)
    return network, write(tmp_path / "upscaler.onnx", nodes, weights, source, result, metadata)


@pytest.fixture
def generator(tmp_path):
    network = Generator().eval()
    weights = {
        "weight": network.linear.weight.detach().numpy().T.copy(),
        "bias": network.linear.bias.detach().numpy(),
        "shape": np.array([-1, 3, 4, 4]),
    }
    nodes = [
        helper.make_node("Gemm", ["z", "weight", "bias"], ["a"]),
        helper.make_node("Reshape", ["a", "shape"], ["b"]),
        helper.make_node("Tanh", ["b"], ["images"]),
    ]
    result = ("images", ["n", 3, 4, 4])
    return network, write(
        tmp_path / "generator.onnx", nodes, weights, ("z", ["n", 5]), result, Spec.of(network).to_json()
    )
