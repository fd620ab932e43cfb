"""TensorRT engines (.engine, .plan), as `fastgan export --to tensorrt` writes them.

Written after the documentation of TensorRT 10 and tested with a stand-in for its Python package: it has not run on a
GPU yet. torch allocates the memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastgan.errors import BackendError, ExportError, UsageError
from fastgan.runtime.backends.base import Port, register
from fastgan.runtime.backends.torch import TensorBackend, _device
from fastgan.runtime.onnx_metadata import read_metadata
from fastgan.runtime.spec import KEY, Spec

if TYPE_CHECKING:
    import torch
    from torch import Tensor

#: tensorrt.DataType → numpy's name, of the types that exported inputs and outputs have.
_DTYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT32": "int32", "INT64": "int64"}


@register
class TensorRT(TensorBackend):
    """An engine. Its spec is in the metadata of the ONNX file beside it (NAME.onnx), from which it was built.

    An engine runs on the kind of GPU and with the version of TensorRT that it was built for, and on the shapes of its
    optimization profile only. CUDA graphs are not captured.
    """

    name = "tensorrt"
    suffixes = (".engine", ".plan")
    package = "tensorrt"
    install = "pip install tensorrt"

    def __init__(self, path: Path, device: str, threads: int | None):
        import tensorrt as trt
        import torch

        self.stated = _spec_beside(path)
        place = _device(device)
        if place.type != "cuda":
            raise UsageError(f"device: a TensorRT engine needs an NVIDIA GPU, and torch {torch.__version__} finds none")
        logger = make_logger(trt)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UsageError(f"model: {path} cannot be read: {error.strerror or error}") from error
        runtime = trt.Runtime(logger)
        with torch.cuda.device(place):
            engine = runtime.deserialize_cuda_engine(data)
        if engine is None:
            raise BackendError(
                f"model: {path} cannot be opened by TensorRT {trt.__version__}: {logger.last_error}; an engine runs"
                " with the version of TensorRT and on the kind of GPU it was built for"
            )
        self._runtime = runtime  # has to outlive the engine
        call = _Engine(trt, engine, place, self.stated[0].inputs)
        self._set_function(call, place, torch.float32, threads)
        self._graphs, self.warm_ups = None, 1
        self.inputs, self.outputs = call.inputs, [call.output]
        self.title = f"TensorRT {trt.__version__}"

    @classmethod
    def why_not(cls, device: str) -> str | None:
        if reason := super().why_not(device):
            return reason
        return "TensorRT runs on NVIDIA's GPUs, not on the CPU" if device == "cpu" else None

    @classmethod
    def status(cls) -> str:
        import tensorrt as trt

        return f"TensorRT {trt.__version__}: engines run on NVIDIA's GPUs"


class _Engine:
    """Calls an engine with torch tensors on its device, on torch's current stream."""

    def __init__(self, trt: Any, engine: Any, device: torch.device, order: tuple[str, ...]):
        self._engine, self._device = engine, device
        self._context = engine.create_execution_context()
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        given = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        # In the order that fastgan's exports have, whatever the engine's is.
        self.inputs = [self._port(name) for name in sorted(given, key=lambda name: _place(order, name))]
        (self.output,) = (self._port(name) for name in names if name not in given)

    def _port(self, name: str) -> Port:
        shape = tuple(None if n < 0 else n for n in self._engine.get_tensor_shape(name))
        kind = self._engine.get_tensor_dtype(name).name
        return Port(name, shape, _DTYPES.get(kind, kind))

    def __call__(self, *inputs: Tensor) -> Tensor:
        import torch

        held = []  # alive until the work is queued
        for port, given in zip(self.inputs, inputs, strict=True):
            low, _, high = (tuple(shape) for shape in self._engine.get_tensor_profile_shape(port.name, 0))
            if not all(a <= n <= b for a, n, b in zip(low, given.shape, high, strict=True)):
                raise UsageError(
                    f"{port.name}: this engine was built for shapes from {list(low)} to {list(high)}, got"
                    f" {list(given.shape)}"
                )
            held.append(given.to(getattr(torch, port.dtype)).contiguous())
            self._context.set_input_shape(port.name, tuple(given.shape))
            self._context.set_tensor_address(port.name, held[-1].data_ptr())
        shape = tuple(self._context.get_tensor_shape(self.output.name))
        result = torch.empty(shape, dtype=getattr(torch, self.output.dtype), device=self._device)
        self._context.set_tensor_address(self.output.name, result.data_ptr())
        if not self._context.execute_async_v3(_stream(self._device)):
            raise BackendError(f"TensorRT could not run the engine on {list(inputs[0].shape)}")
        return result


def _place(order: tuple[str, ...], name: str) -> int:
    return order.index(name) if name in order else len(order)


def make_logger(trt: Any) -> Any:
    """A tensorrt.ILogger that prints nothing and keeps the last error in `last_error`."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # pybind11 requires this call, and not super()
            self.last_error = "it gave no reason"

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                self.last_error = " ".join(message.split())

    return Logger()


def _stream(device: torch.device) -> int:
    """The handle of torch's current stream."""
    import torch

    return torch.cuda.current_stream(device).cuda_stream


def _spec_beside(path: Path) -> tuple[Spec, dict[str, Any]]:
    source = path.with_suffix(".onnx")
    if not source.is_file():
        raise ExportError(
            f"model: {path} needs {source.name} beside it, from which it was built: its metadata describe inputs and"
            " outputs"
        )
    metadata = read_metadata(source).metadata
    if KEY not in metadata:
        raise ExportError(f"model: {source}, beside {path.name}, was not written by fastgan export")
    return Spec.from_json(metadata[KEY])
