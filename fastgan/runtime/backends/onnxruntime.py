"""ONNX files in ONNX Runtime: on its TensorRT, CUDA or CPU execution provider, the first that runs here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastgan._util import env
from fastgan.errors import BackendError, UsageError, first_line
from fastgan.runtime import onnx_pixels, pixel_conversion
from fastgan.runtime.backends.base import Backend, Port, register
from fastgan.runtime.hardware import installed, usable_cores

if TYPE_CHECKING:
    from torch import Tensor

_TENSORRT, _CUDA, _CPU = "TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"
_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16"}


@register
class OnnxRuntime(Backend):
    """An ONNX file in ONNX Runtime.

    device: "auto" takes the first of TensorRT, CUDA and CPU that runs, "cuda[:N]" TensorRT or CUDA, "cpu" the CPU.
    threads: of the CPU; None for all usable cores.
    """

    name = "onnxruntime"
    suffixes = (".onnx",)
    package = "onnxruntime"
    install = "pip install 'fastgan[onnx]'"
    distributions = ("onnxruntime", "onnxruntime-gpu")

    def __init__(self, path: Path, device: str, threads: int | None):
        import onnxruntime

        self._library = onnxruntime
        self._path = path
        self._index = int(device.partition(":")[2] or 0)
        self.title = f"ONNX Runtime {onnxruntime.__version__}"
        self.threads = threads or usable_cores()
        self.notes = []
        self._session = self._open_on_first(str(path), device)
        self.provider = self._session.get_providers()[0]
        self.device = "cpu" if self.provider == _CPU else f"cuda:{self._index}"
        self.inputs, self.outputs = _ports(self._session.get_inputs()), _ports(self._session.get_outputs())
        self._pixels: Any = None  # a session of the model with pixels; False where numpy converts
        self._shapes: dict[tuple[int, ...], tuple[int, ...]] = {}

    @classmethod
    def status(cls) -> str:
        import onnxruntime

        text = f"ONNX Runtime {onnxruntime.__version__} with {', '.join(onnxruntime.get_available_providers())}"
        if installed("onnxruntime") and installed("onnxruntime-gpu"):
            text += (
                "; onnxruntime and onnxruntime-gpu are both installed and overwrite each other: uninstall both, then"
                " install one"
            )
        return text

    def run(self, x: np.ndarray, *others: np.ndarray, pixels: bool = False) -> np.ndarray:
        rest = {port.name: value for port, value in zip(self.inputs[1:], others, strict=True)}
        if not pixels:
            given = {self.inputs[0].name: np.ascontiguousarray(x, self.inputs[0].dtype), **rest}
            return self._session.run(None, given)[0].astype(np.float32, copy=False)
        if session := self._session_for_pixels():
            return session.run(None, {onnx_pixels.FRAMES: x, **rest})[0]
        return pixel_conversion.to_bytes(self.run(pixel_conversion.to_float(x, self.limits), *others), self.limits)

    def run_tensor(self, x: Tensor, *others: Tensor, pixels: bool = False) -> Tensor:
        import torch

        session = self._session_for_pixels() if pixels else self._session
        if not session:
            return super().run_tensor(x, *others, pixels=True)
        given, dtype = x.device, x.dtype
        wanted = torch.uint8 if pixels else getattr(torch, self.inputs[0].dtype)
        x = x.detach().to(self.device, wanted).contiguous()
        shape = self._shapes.get((*x.shape, pixels))
        if shape is None:  # the result's shape is known after the first run
            result = super().run_tensor(x, *others, pixels=pixels)
            self._shapes[*x.shape, pixels] = tuple(result.shape)
            return result.to(given)
        # Bound to the tensors' memory: no copy through the host.
        kind, name = self.device.partition(":")[0], session.get_outputs()[0].name
        out = torch.empty(
            shape, dtype=torch.uint8 if pixels else getattr(torch, self.outputs[0].dtype), device=x.device
        )
        binding = session.io_binding()
        tensors = [x, *(other.to(self.device).contiguous() for other in others)]
        ports = [(binding.bind_input, port.name, t) for port, t in zip(session.get_inputs(), tensors, strict=True)]
        for bind, port, tensor in (*ports, (binding.bind_output, name, out)):
            element = np.dtype(str(tensor.dtype).removeprefix("torch."))
            bind(port, kind, self._index, element, tuple(tensor.shape), tensor.data_ptr())
        if x.is_cuda:
            torch.cuda.current_stream(x.device).synchronize()  # the runtime has a stream of its own
        session.run_with_iobinding(binding)
        return out.to(given, dtype)

    def _session_for_pixels(self) -> Any:
        if self._pixels is None:
            reason = onnx_pixels.why_not()
            try:
                if reason is None:
                    model = onnx_pixels.with_pixels(self._path, self.limits)
                    self._pixels = self._open(model, self._session.get_providers())
            except BackendError as error:
                reason = str(error)
            if reason is not None:
                self._pixels = False
                self.notes.append(f"pixels are converted by numpy, outside of the graph: {reason}")
        return self._pixels

    def _open_on_first(self, path: str, device: str) -> Any:
        """A session on the first provider that runs; the reasons why earlier ones do not are added to the notes."""
        available = self._library.get_available_providers()
        wanted = {"auto": (_TENSORRT, _CUDA, _CPU), "cpu": (_CPU,)}.get(device, (_TENSORRT, _CUDA))
        reasons = {}
        for i, first in enumerate(wanted):
            if first not in available:
                reasons[first] = "this build of ONNX Runtime does not have it"
                continue
            # Operators that the first provider does not have run on the next ones; the CPU has all of them.
            chain = [*(name for name in wanted[i:] if name in available), *([] if _CPU in wanted else [_CPU])]
            session = self._open(path, chain)
            if session.get_providers()[0] == first:
                self.notes += [f"{name} is not used: {reason}" for name, reason in reasons.items()]
                return session
            reasons[first] = "its libraries (CUDA, cuDNN, TensorRT) cannot be loaded or have another version"
        text = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise UsageError(f"device: {device} cannot run in ONNX Runtime {self._library.__version__}: {text}")

    def _open(self, model: str | bytes, providers: list[str]) -> Any:
        options = self._library.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        # Threads spin while they wait for work within a run, which is fast. After the run they stop: decoding, encoding
        # and other sessions need the cores.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if _CUDA in providers and hasattr(self._library, "preload_dlls"):
            self._library.preload_dlls()  # CUDA and cuDNN may be in Python packages, where the loader does not look
        try:
            return self._library.InferenceSession(
                model,
                options,
                providers=[(name, self._options(name)) for name in providers],
                enable_fallback=0,
            )
        except Exception as error:  # onnxruntime's exceptions have no common base but Exception
            raise BackendError(f"model: {self._path} cannot be opened by ONNX Runtime: {first_line(error)}") from error

    def _options(self, provider: str) -> dict[str, Any]:
        if provider == _CUDA:
            # TF32 would round float32 to 10 bits of mantissa; a float32 file means float32.
            return {"device_id": self._index, "use_tf32": 0}
        if provider == _TENSORRT:
            cache = str(env.cache_dir() / "tensorrt")
            return {
                "device_id": self._index,
                "trt_engine_cache_enable": True,
                "trt_engine_cache_path": cache,
                "trt_timing_cache_enable": True,
                "trt_timing_cache_path": cache,
            }
        return {}


def _ports(values: Any) -> list[Port]:
    return [
        Port(v.name, tuple(d if isinstance(d, int) else None for d in v.shape), _DTYPES.get(v.type, v.type))
        for v in values
    ]
