"""Fixtures of tests/export, tests/runtime and tests/upscale: small networks, and ONNX files written node by node.

A plugin (see tests/conftest.py), so that all three folders have them.
"""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from fastgan.runtime.spec import Spec


class Upscaler(nn.Module):
    """×2: convolution, PReLU, convolution and pixel shuffle, added to nearest-neighbor upscaling."""

    channels, reach = 3, 2

    def __init__(self, scale=2, gain=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.scale, self.gain = scale, gain
        self.first = nn.Conv2d(3, 8, 3, 1, 1)
        self.act = nn.PReLU(8, init=0.2)
        self.last = nn.Conv2d(8, 3 * scale**2, 3, 1, 1)

    def forward(self, x):
        y = nn.functional.pixel_shuffle(self.last(self.act(self.first(x))), self.scale)
        return (y + nn.functional.interpolate(x, scale_factor=self.scale, mode="nearest")) * self.gain


class Generator(nn.Module):
    latent = 5

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(5, 3 * 4 * 4)

    def forward(self, z):
        return torch.tanh(self.linear(z).view(-1, 3, 4, 4))


class Conditional(nn.Module):
    """Three classes; the embedding of the class is added to z."""

    latent, classes = 5, 3

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(3, 5)
        self.linear = nn.Linear(5, 16)
        self.conv = nn.Conv2d(1, 3, 3, 1, 1)

    def forward(self, z, y):
        return torch.tanh(self.conv(self.linear(z + self.embed(y)).view(-1, 1, 4, 4)))


def write(path, nodes, weights, sources, result, opset=18, metadata=None):
    """An ONNX file. sources: one or more of (name, shape) or (name, shape, type), like the result."""
    sources = sources if isinstance(sources, list) else [sources]
    values = [helper.make_tensor_value_info(s[0], (*s, TensorProto.FLOAT)[2], s[1]) for s in (*sources, result)]
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", values[:-1], values[-1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    if metadata:
        helper.set_model_props(model, {"fastgan": metadata})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def write_upscaler(path, network, *, size=("h", "w"), batch="n", spec=True, half=False, opset=18):
    weights = {name.replace(".", "_"): value.numpy() for name, value in network.state_dict().items()}
    weights["act_weight"] = weights["act_weight"].reshape(-1, 1, 1)
    weights["scales"] = np.array([1, 1, network.scale, network.scale], np.float32)
    weights["gain"] = np.array(network.gain, np.float32)
    same = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    kind, source, result = TensorProto.FLOAT, "x", "y"
    if half:
        kind = TensorProto.FLOAT16
        weights = {k: v if k == "scales" else v.astype(np.float16) for k, v in weights.items()}
    nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    nodes = [
        helper.make_node("Conv", [source, "first_weight", "first_bias"], ["a"], **same),
        helper.make_node("PRelu", ["a", "act_weight"], ["b"]),
        helper.make_node("Conv", ["b", "last_weight", "last_bias"], ["c"], **same),
        helper.make_node("DepthToSpace", ["c"], ["d"], blocksize=network.scale, mode="CRD"),
        helper.make_node("Resize", [source, "", "scales"], ["e"], **nearest),
        helper.make_node("Add", ["d", "e"], ["f"]),
        helper.make_node("Mul", ["f", "gain"], [result]),
    ]
    larger = [s * network.scale if isinstance(s, int) else f"{s}2" for s in size]
    metadata = Spec.of(network).to_json(precision="fp16" if half else "fp32", step=7) if spec else None
    return write(
        path, nodes, weights, (source, [batch, 3, *size], kind), (result, [batch, 3, *larger], kind), opset, metadata
    )


def write_generator(path, network, spec=True):
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
    metadata = Spec.of(network).to_json() if spec else None
    return write(path, nodes, weights, ("z", ["n", 5]), ("images", ["n", 3, 4, 4]), metadata=metadata)


def write_conditional(path, network, batch="n"):
    weights = {name.replace(".", "_"): value.numpy() for name, value in network.state_dict().items()}
    weights["linear_weight"] = weights["linear_weight"].T.copy()
    weights["shape"] = np.array([-1, 1, 4, 4])
    nodes = [
        helper.make_node("Gather", ["embed_weight", "y"], ["a"]),
        helper.make_node("Add", ["z", "a"], ["b"]),
        helper.make_node("Gemm", ["b", "linear_weight", "linear_bias"], ["c"]),
        helper.make_node("Reshape", ["c", "shape"], ["d"]),
        helper.make_node("Conv", ["d", "conv_weight", "conv_bias"], ["e"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("Tanh", ["e"], ["images"]),
    ]
    sources = [("z", [batch, 5]), ("y", [batch], TensorProto.INT64)]
    metadata = Spec.of(network).to_json()
    return write(path, nodes, weights, sources, ("images", [batch, 3, 4, 4]), metadata=metadata)


@pytest.fixture
def conditional(tmp_path):
    network = Conditional().eval().requires_grad_(False)
    return network, write_conditional(tmp_path / "conditional.onnx", network)


@pytest.fixture
def upscaler(tmp_path):
    """A module and an ONNX file that computes the same. gain 1.5: some pixels are outside of [0, 1]."""
    network = Upscaler(gain=1.5).eval()
    return network, write_upscaler(tmp_path / "upscaler.onnx", network)


@pytest.fixture
def generator(tmp_path):
    network = Generator().eval()
    return network, write_generator(tmp_path / "generator.onnx", network)


@pytest.fixture
def make():
    """Writers of further files: make.upscaler(path, network, ...), make.write, ...; and the classes of networks."""

    class Make:
        pass

    writers = {"upscaler": write_upscaler, "generator": write_generator, "conditional": write_conditional}
    for name, function in {**writers, "write": write}.items():
        setattr(Make, name, staticmethod(function))
    Make.Upscaler, Make.Generator = Upscaler, Generator
    return Make
