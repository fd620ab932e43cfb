"""Sessions whose results are known exactly, image files made without the tested code, small networks as ONNX files."""

import struct
import zlib

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


class Fake:
    """A session whose network blurs with a kernel (zero padding), then repeats each pixel scale × scale times.

    reach: of its spec; half the kernel by default.
    """

    device = "cpu"

    def __init__(self, scale=2, kernel=(1.0,), channels=3, multiple=1, reach=None, fixed=None, kind="image"):
        self.kernel, self.fixed = np.asarray(kernel, np.float64), fixed
        reach = len(kernel) // 2 if reach is None else reach
        self.spec = Spec(kind, channels=channels, scale=scale, multiple=multiple, reach=reach, range=(0.0, 1.0))
        self.shapes = []

    def __call__(self, x):
        assert x.dtype == np.float32
        _, channels, height, width = x.shape
        assert channels == self.spec.channels
        assert height % self.spec.multiple == width % self.spec.multiple == 0
        assert self.fixed in (None, (height, width))
        self.shapes.append((height, width))
        y = x.astype(np.float64)
        if len(self.kernel) > 1:
            half = len(self.kernel) // 2
            for axis in (2, 3):
                pad = [(half, half) if i == axis else (0, 0) for i in range(4)]
                windows = np.lib.stride_tricks.sliding_window_view(np.pad(y, pad), len(self.kernel), axis)
                y = windows @ self.kernel
        return y.repeat(self.spec.scale, 2).repeat(self.spec.scale, 3).astype(np.float32)

    def pixels(self, frames):
        assert frames.dtype == np.uint8
        assert frames.flags.c_contiguous
        y = self(frames.transpose(0, 3, 1, 2).astype(np.float32) / 255)
        return np.clip(np.rint(y * 255), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def raw_png(pixels, interlaced=False, chunks=()):
    """uint16 or uint8 [H, W, C] as a PNG file's bytes, without filters."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, channels = pixels.shape
    deep = pixels.dtype == np.uint16
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    parts = [pixels[y::dy, x::dx] for y, x, dy, dx in passes] if interlaced else [pixels]
    lines = [b"\0" + row.astype(">u2" if deep else "u1").tobytes() for part in parts if part.size for row in part]
    color = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16 if deep else 8, color, 0, 0, int(interlaced))
    all_chunks = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(b"".join(lines), 1)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, data) for name, data in all_chunks)


@pytest.fixture
def fake():
    return Fake


@pytest.fixture
def png_bytes():
    return raw_png


@pytest.fixture
def noise():
    """noise(h, w, c, dtype): an array of any values."""

    def make(height, width, channels=3, dtype=np.uint8, seed=0):
        return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, (height, width, channels), dtype)

    return make


@pytest.fixture
def exif():
    """EXIF data with an orientation, a maker's name and an opaque maker note."""

    def make(orientation, order="<"):
        mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
        entries = struct.pack(f"{order}HHI", 0x010F, 2, 8) + struct.pack(f"{order}I", 62)
        entries += struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0)
        entries += struct.pack(f"{order}HHI", 0x927C, 7, 4) + b"\xde\xad\xbe\xef"
        entries += struct.pack(f"{order}HHII", 0x0100, 4, 1, 7)
        data = mark + struct.pack(f"{order}IH", 8, 4) + entries + struct.pack(f"{order}I", 0)
        assert len(data) == 62
        return data + b"Lens&Co\0"

    return make


# The fixtures below are those of tests/deploy/conftest.py: to be replaced by shared ones.


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
