"""Session opens TensorRT engines. The package tensorrt is a stand-in whose "engines" are ONNX files in ONNX Runtime.

The stand-in has the parts of TensorRT 10's Python API that are used, and checks their order. The back-end has not run
with TensorRT itself: there is none where fastgan is tested.
"""

import ctypes
import importlib.machinery
import types

import numpy as np
import pytest
import torch

from fastgan.errors import BackendError, ExportError, UsageError
from fastgan.export import export
from fastgan.export.targets import tensorrt as target
from fastgan.runtime import Session, pixel_conversion
from fastgan.runtime.backends import tensorrt as backend

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

#: numpy dtype → tensorrt.DataType's name.
NAMES = {"tensor(float)": "FLOAT", "tensor(int64)": "INT64"}


class Engine:
    """An ONNX file as TensorRT's ICudaEngine. low, high: of the batch and of sides."""

    def __init__(self, data, low=(1, 4), high=(8, 64)):
        self.session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        # Outputs first and inputs in reverse order: the back-end must go by modes and names.
        self.ports = [*self.session.get_outputs(), *reversed(self.session.get_inputs())]
        self.num_io_tensors = len(self.ports)
        self.low, self.high = low, high

    def port(self, name):
        return next(port for port in self.ports if port.name == name)

    def get_tensor_name(self, i):
        return self.ports[i].name

    def get_tensor_mode(self, name):
        return "in" if name in [port.name for port in self.session.get_inputs()] else "out"

    def get_tensor_shape(self, name):
        return tuple(n if isinstance(n, int) else -1 for n in self.port(name).shape)

    def get_tensor_dtype(self, name):
        return types.SimpleNamespace(name=NAMES[self.port(name).type])

    def get_tensor_profile_shape(self, name, profile):
        assert profile == 0
        shape = self.get_tensor_shape(name)
        fill = lambda limits: tuple(n if n > 0 else limits[min(i, 1)] for i, n in enumerate(shape))  # noqa: E731
        return fill(self.low), fill(self.low), fill(self.high)

    def create_execution_context(self):
        return Context(self)


class Context:
    def __init__(self, engine):
        self.engine, self.shapes, self.addresses = engine, {}, {}

    def set_input_shape(self, name, shape):
        self.shapes[name] = shape
        return True

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def _inputs(self):
        given = {}
        for port in self.engine.session.get_inputs():
            kind = {"FLOAT": ctypes.c_float, "INT64": ctypes.c_int64}[NAMES[port.type]]
            shape = self.shapes[port.name]
            memory = (kind * int(np.prod(shape))).from_address(self.addresses[port.name])
            given[port.name] = np.ctypeslib.as_array(memory).reshape(shape)
        return given

    def get_tensor_shape(self, name):
        assert set(self.shapes) == {port.name for port in self.engine.session.get_inputs()}
        return self.engine.session.run([name], self._inputs())[0].shape

    def execute_async_v3(self, stream):
        assert stream == 7
        (output,) = self.engine.session.get_outputs()
        (result,) = self.engine.session.run([output.name], self._inputs())
        if np.isnan(result).any():
            return False
        ctypes.memmove(self.addresses[output.name], np.ascontiguousarray(result).ctypes.data, result.nbytes)
        return True


class Module(types.ModuleType):
    def __init__(self):
        super().__init__("tensorrt")
        self.__spec__ = importlib.machinery.ModuleSpec("tensorrt", None)
        self.__version__ = "10.9.0"
        self.TensorIOMode = types.SimpleNamespace(INPUT="in", OUTPUT="out")

        class ILogger:
            class Severity:
                INTERNAL_ERROR, ERROR, WARNING = range(3)

            def __init__(self):
                self.ready = True

        class Runtime:
            def __init__(self, logger):
                assert logger.ready
                self.logger = logger

            def deserialize_cuda_engine(self, data):
                assert isinstance(data, bytes)
                if not data.startswith(b"engine"):
                    self.logger.log(ILogger.Severity.ERROR, "Serialization assertion failed:\nversion tag")
                    return None
                return Engine(data.removeprefix(b"engine"))

        self.ILogger, self.Runtime = ILogger, Runtime


@pytest.fixture
def trt(monkeypatch):
    """The stand-in is importable as tensorrt. Its GPU is the CPU: addresses are those of host memory."""
    module = Module()
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", module)
    monkeypatch.setattr(backend, "_device", lambda device: types.SimpleNamespace(type="cuda"))
    monkeypatch.setattr(backend, "_stream", lambda device: 7)
    monkeypatch.setattr(torch.cuda, "device", lambda device: __import__("contextlib").nullcontext())
    set_function = backend.TensorRT._set_function
    monkeypatch.setattr(
        backend.TensorRT,
        "_set_function",
        lambda self, function, device, dtype, threads: set_function(
            self, function, torch.device("cpu"), dtype, threads
        ),
    )
    engine = backend._Engine.__init__
    monkeypatch.setattr(
        backend._Engine,
        "__init__",
        lambda self, trt, e, device, order: engine(self, trt, e, torch.device("cpu"), order),
    )

    def build(file, out, spec):
        out.write_bytes(b"engine" + file.read_bytes())
        return {"gpu": "stand-in"}

    monkeypatch.setattr(target, "build", build)
    return module


@pytest.fixture
def engine(trt, make, tmp_path):
    """A network, and the engine that `--to tensorrt` writes of it."""
    network = make.Upscaler().eval()
    path = tmp_path / "up.engine"
    export(network, path, to="tensorrt")
    return network, path


def test_an_image_model(engine):
    network, path = engine
    session = Session(path)
    assert (session.backend, session.title) == ("tensorrt", "TensorRT 10.9.0")
    assert (session.spec.kind, session.spec.scale, session.about["precision"]) == ("image", 2, "fp32")
    for shape in ((1, 3, 8, 12), (3, 3, 16, 5), (1, 3, 8, 12)):
        x = torch.rand(shape)
        expected = network(x).detach()
        torch.testing.assert_close(session(x), expected, atol=1e-5, rtol=0)
        np.testing.assert_allclose(session(x.numpy()), expected.numpy(), atol=1e-5)
    first = session(x)
    kept = first.clone()
    session(torch.rand(1, 3, 8, 12))
    torch.testing.assert_close(first, kept, atol=0, rtol=0)  # a later call has memory of its own
    frames = np.random.default_rng(0).integers(0, 256, (2, 12, 10, 3), dtype=np.uint8)
    plain = pixel_conversion.to_bytes(session(pixel_conversion.to_float(frames, (0, 1))), (0, 1)).astype(int)
    assert np.abs(session.pixels(frames).astype(int) - plain).max() <= 1


def test_labels(trt, conditional, tmp_path):
    network, out = conditional[0], tmp_path / "c.plan"
    export(network, out, to="tensorrt")
    session = Session(out)
    assert session.spec.classes == 3
    z, y = torch.randn(5, 5), torch.tensor([2, 0, 1, 1, 0])
    torch.testing.assert_close(session(z, y), network(z, y), atol=1e-5, rtol=0)


def test_shapes_outside_of_the_profile(engine):
    with pytest.raises(UsageError, match=r"images: .* from \[1, 3, 4, 4\] to \[8, 3, 64, 64\], got \[1, 3, 8, 65\]"):
        Session(engine[1])(torch.rand(1, 3, 8, 65))
    with pytest.raises(UsageError, match=r"got \[9, 3, 8, 8\]"):
        Session(engine[1])(torch.rand(9, 3, 8, 8))


def test_an_engine_that_fails(engine):
    with pytest.raises(BackendError, match=r"TensorRT could not run the engine on \[1, 3, 8, 8\]"):
        Session(engine[1])(torch.full((1, 3, 8, 8), float("nan")))


def test_files_that_cannot_be_opened(engine, tmp_path):
    path = engine[1]
    path.write_bytes(b"other version")
    sentence = (
        r"cannot be opened by TensorRT 10\.9\.0: Serialization assertion failed: version tag; an engine runs with"
    )
    with pytest.raises(BackendError, match=sentence):
        Session(path)
    path.with_suffix(".onnx").unlink()
    with pytest.raises(ExportError, match=r"up\.engine needs up\.onnx beside it"):
        Session(path)
    with pytest.raises(UsageError, match="is not a file"):
        Session(tmp_path / "none.engine")


def test_without_a_gpu_or_the_package(engine, monkeypatch):
    with pytest.raises(UsageError, match=r"tensorrt: TensorRT runs on NVIDIA's GPUs, not on the CPU"):
        Session(engine[1], device="cpu", backend="tensorrt")
    monkeypatch.setattr(backend, "_device", lambda device: torch.device("cpu"))
    with pytest.raises(UsageError, match="device: a TensorRT engine needs an NVIDIA GPU"):
        Session(engine[1])
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    with pytest.raises(UsageError, match="tensorrt is not installed; install it with: pip install tensorrt"):
        Session(engine[1])
