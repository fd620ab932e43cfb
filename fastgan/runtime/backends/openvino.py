"""ONNX files in OpenVINO, on the CPU."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from fastgan.errors import BackendError, first_line
from fastgan.runtime.backends.base import Backend, Port, register
from fastgan.runtime.hardware import usable_cores
from fastgan.runtime.pixel_conversion import scaling


@functools.cache
def _core() -> Any:
    """One Core for the process, never destroyed.

    Each Core replaces the stack on which this thread handles signals, and restores the previous one when it is
    destroyed. If the previous one belonged to a Core that no longer exists, the next Ctrl-C ends the process (2026.4).
    """
    import openvino

    return openvino.Core()


@register
class OpenVino(Backend):
    """An ONNX file in OpenVINO. threads: None for all usable cores."""

    name = "openvino"
    suffixes = (".onnx",)
    package = "openvino"
    install = "pip install 'fastgan[openvino]'"

    def __init__(self, path: Path, device: str, threads: int | None):
        import openvino

        self._path = path
        self.threads = threads or usable_cores()
        self.title = f"OpenVINO {openvino.__version__.partition('-')[0]}"
        self.device = "cpu"
        self.notes = []
        self._core = _core()
        try:
            model = self._core.read_model(path)
            self._compiled = self._compile(model)
        except Exception as error:  # RuntimeError of its own, and what its binding to Python makes of C++ exceptions
            raise BackendError(f"model: {path} cannot be opened by OpenVINO: {first_line(error)}") from error
        self.inputs, self.outputs = _ports(model.inputs), _ports(model.outputs)
        self._request = self._compiled.create_infer_request()
        self._pixels: Any = None
        self.provider = f"CPU, {self._core.get_property('CPU', 'FULL_DEVICE_NAME').strip()}"

    @classmethod
    def why_not(cls, device: str) -> str | None:
        if reason := super().why_not(device):
            return reason
        return "OpenVINO runs on the CPU, not on NVIDIA's GPUs" if device.startswith("cuda") else None

    @classmethod
    def status(cls) -> str:
        import openvino

        core = _core()
        devices = [f"{name} ({core.get_property(name, 'FULL_DEVICE_NAME').strip()})" for name in core.available_devices]
        return f"OpenVINO {openvino.__version__.partition('-')[0]} on {', '.join(devices)}; sessions use its CPU"

    def run(self, x: np.ndarray, *others: np.ndarray, pixels: bool = False) -> np.ndarray:
        if pixels:
            if self._pixels is None:
                self._pixels = self._compile(self._with_pixels()).create_infer_request()
            request = self._pixels
        else:
            request, x = self._request, np.ascontiguousarray(x, self.inputs[0].dtype)
        # Not shared: the request writes its next result into the same memory.
        result = request.infer(dict(enumerate((x, *others))), share_inputs=True, share_outputs=False)[0]
        return result.astype(np.uint8 if pixels else np.float32, copy=False)

    def _compile(self, model: Any) -> Any:
        return self._core.compile_model(
            model,
            "CPU",
            {
                # The default precision measured 1.8 times slower, and may be less exact. The integer layers of an int8
                # file stay integer.
                "INFERENCE_PRECISION_HINT": "f32",
                # One call at a time on all threads; THROUGHPUT is for several calls at once.
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": self.threads,
                # Decoding and encoding share the cores: threads must be free to move.
                "ENABLE_CPU_PINNING": False,
                # No CACHE_DIR: it halves the time to open (2.5 s of 5 s for RRDBNet), but with a damaged file in it
                # OpenVINO computed other pixels without an error.
            },
        )

    def _with_pixels(self) -> Any:
        """The model with frames uint8 [N, H, W, C] in and out."""
        import openvino
        from openvino import opset13 as ops

        model = self._core.read_model(self._path)
        low, step = scaling(self.limits)
        (image, *labels), (result,) = model.get_parameters(), model.get_results()
        n, c, h, w = image.get_partial_shape()
        frames = ops.parameter(openvino.PartialShape([n, h, w, c]), np.uint8)
        x = ops.convert(ops.transpose(frames, np.array([0, 3, 1, 2])), "f32")
        x = ops.add(ops.multiply(x, step), low)
        if image.get_element_type() != openvino.Type.f32:
            x = ops.convert(x, image.get_element_type().get_type_name())
        for consumer in image.output(0).get_target_inputs():
            consumer.replace_source_output(x.output(0))
        y = ops.convert(result.input(0).get_source_output(), "f32")
        y = ops.divide(ops.subtract(y, low), step)
        zero = ops.constant(np.float32(0))
        # Not select(y >= 0, y, 0): on some CPUs OpenVINO compares as "not less", which is true for NaN.
        y = ops.maximum(ops.select(ops.is_nan(y), zero, y), zero)
        y = ops.round(ops.minimum(y, np.float32(255)), "half_to_even")
        y = ops.transpose(ops.convert(y, "u8"), np.array([0, 2, 3, 1]))
        return openvino.Model([ops.result(y)], [frames, *labels], f"{model.get_friendly_name()} on pixels")


def _ports(values: Any) -> list[Port]:
    return [Port(v.get_any_name() if v.get_names() else "", _shape(v.get_partial_shape()), _dtype(v)) for v in values]


def _shape(shape: Any) -> tuple[int | None, ...]:
    if shape.rank.is_dynamic:
        return ()
    return tuple(None if d.is_dynamic else d.get_length() for d in shape)


def _dtype(value: Any) -> str:
    kind = value.get_element_type()
    try:
        return np.dtype(kind.to_dtype()).name
    except (RuntimeError, TypeError):  # numpy has no such type
        return str(kind.get_type_name())
