"""Torch modules in PyTorch, eager or compiled; on a GPU calls are replayed as CUDA graphs.

torch is imported inside functions: listing the back-ends must not import it.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from fastgan.errors import UsageError
from fastgan.runtime.backends.base import MODULE, Backend, register
from fastgan.runtime.hardware import usable_cores
from fastgan.runtime.pixel_conversion import scaling

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

#: Shapes for which a model keeps CUDA graphs. Each has its own input and output; intermediate memory is shared.
MAX_GRAPHS = 8


class TensorBackend(Backend):
    """Base of the back-ends that call a function of torch tensors."""

    package = "torch"
    install = "pip install torch"

    def _set_function(
        self, function: Callable[..., Tensor], device: torch.device, dtype: torch.dtype, threads: int | None
    ) -> None:
        """function: images or latents of `dtype`, and the other inputs, on `device` → images. Every subclass calls this
        once."""
        import torch

        self._function = function
        self._on = device
        self._dtype = dtype
        # torch counts all cores of the computer, also where a container may use fewer.
        self.threads = threads or (min(torch.get_num_threads(), usable_cores()) if device.type == "cpu" else None)
        self.device = str(device)
        self.title = f"PyTorch {torch.__version__}"
        self.provider = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
        self.notes = []
        self.inputs, self.outputs = [], []
        self._graphs = _CudaGraphs(device) if device.type == "cuda" else None
        self.warm_ups = 2 if self._graphs else 0  # the eager call, then the capture

    @classmethod
    def status(cls) -> str:
        import torch

        return f"PyTorch {torch.__version__}"

    def run(self, x: np.ndarray, *others: np.ndarray, pixels: bool = False) -> np.ndarray:
        import torch

        # from_numpy warns about read-only memory, such as that of a Pillow image.
        given, *rest = (torch.from_numpy(a if a.flags.writeable else a.copy()) for a in (x, *others))
        return self.run_tensor(given, *rest, pixels=pixels).numpy()

    def run_tensor(self, x: Tensor, *others: Tensor, pixels: bool = False) -> Tensor:
        import torch

        call = self._call_on_pixels if pixels else self._call
        with torch.no_grad(), _threads(self.threads if self._on.type == "cpu" else None):
            given = [t.to(self._on) for t in (x, *others)]
            return (self._graphs(call, given) if self._graphs else call(*given)).to(x.device)

    def _call(self, x: Tensor, *others: Tensor) -> Tensor:
        import torch

        result = self._function(_channels_last(x.to(self._dtype)), *self._cast(others))
        return result.to(torch.float32, memory_format=torch.contiguous_format)

    def _cast(self, others: tuple[Tensor, ...]) -> list[Tensor]:
        return [other.to(self._dtype) if other.is_floating_point() else other for other in others]

    def _call_on_pixels(self, frames: Tensor, *others: Tensor) -> Tensor:
        import torch

        low, step = map(float, scaling(self.limits))
        x = frames.permute(0, 3, 1, 2).to(torch.float32).mul_(step).add_(low)  # already channels_last
        y = self._function(_channels_last(x.to(self._dtype)), *self._cast(others)).float()
        y = y.sub(low).div_(step).nan_to_num_(0.0).clamp_(0, 255).round_()  # rounds halves to even
        return y.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


@register
class Eager(TensorBackend):
    """A copy of a module: in eval mode, norms folded, images in channels_last.

    device: "auto" is the GPU where there is one. On a GPU the second call of a shape captures a CUDA graph, which later
    calls replay.
    """

    name = "torch"
    suffixes = (MODULE,)

    def __init__(self, module: nn.Module, device: str, threads: int | None):
        import torch

        from fastgan.nn import fold
        from fastgan.runtime.network_spec import without_unused_labels

        place = _device(device)
        network = without_unused_labels(fold(module)).requires_grad_(False).to(place)
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)
        self._set_function(self._prepared(network, place), place, dtype, threads)
        if place.type == "cuda":
            self.notes.append("a CUDA graph for each shape from its second call on")
            convolutions = torch.backends.cudnn.conv  # type: ignore[attr-defined]
            if dtype == torch.float32 and convolutions.fp32_precision == "tf32":
                self.notes.append("float32 convolutions are rounded to TF32 (torch.backends.cudnn.conv.fp32_precision)")

    def _prepared(self, network: nn.Module, device: torch.device) -> Callable[..., Tensor]:
        return network


@register
class Compiled(Eager):
    """The same, compiled by torch.compile at the first call of a shape."""

    name = "compile"

    def __init__(self, module: nn.Module, device: str, threads: int | None):
        super().__init__(module, device, threads)
        self.title += ", torch.compile"
        self.warm_ups += 1

    def _prepared(self, network: nn.Module, device: torch.device) -> Callable[..., Tensor]:
        import torch

        compiled: Any = torch.compile(network, options={"freezing": True} if device.type == "cpu" else None)
        return compiled

    @classmethod
    def why_not_automatic(cls, device: str) -> str | None:
        import torch

        if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
            return None
        return "compiling for a CPU takes up to a minute in each process; name it to use it"

    @classmethod
    def status(cls) -> str:
        return f"{super().status()}, torch.compile; used on a CPU only where it is named"


class _CudaGraphs:
    """CUDA graphs by shape; the least recently used is dropped first."""

    def __init__(self, device: torch.device):
        import torch

        self._device = device
        self._known: OrderedDict[tuple, tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor] | None] = OrderedDict()
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, call: Callable[..., Tensor], inputs: list[Tensor]) -> Tensor:
        """The result of call(*inputs), in memory that later calls do not overwrite."""
        import torch

        key = call.__name__, tuple(inputs[0].shape)
        with torch.cuda.device(self._device):
            if key not in self._known:  # a shape that occurs once is not worth a graph
                self._known[key] = None
                while len(self._known) > MAX_GRAPHS:
                    self._known.popitem(last=False)
                return call(*inputs)
            self._known.move_to_end(key)
            if self._known[key] is None:
                self._known[key] = self._capture(call, inputs)
            graph, given, result = self._known[key]  # type: ignore[misc]
            for static, x in zip(given, inputs, strict=True):
                static.copy_(x)
            graph.replay()
            return result.clone()

    def _capture(
        self, call: Callable[..., Tensor], inputs: list[Tensor]
    ) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]:
        import torch

        given = [x.clone() for x in inputs]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                call(*given)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # One memory pool is safe, because replays follow one another on a stream. Other threads, such as a video
        # decoder, may use the GPU during the capture.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = call(*given)
        return graph, given, result


def _channels_last(x: Tensor) -> Tensor:
    import torch

    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def _device(wanted: str) -> torch.device:
    import torch

    if wanted == "auto":
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    if wanted.startswith("cuda"):
        why = "this torch is built without CUDA" if torch.version.cuda is None else "torch finds no usable CUDA device"
        index = int(wanted.partition(":")[2] or 0)
        if not torch.cuda.is_available():
            raise UsageError(f"device: {wanted} cannot run in PyTorch {torch.__version__}: {why}")
        if index >= torch.cuda.device_count():
            raise UsageError(f"device: expected one of {torch.cuda.device_count()} GPUs, got {wanted}")
        return torch.device("cuda", index)
    return torch.device("cpu")


@contextlib.contextmanager
def _threads(wanted: int | None) -> Iterator[None]:
    """Sets torch's number of threads, which is one for the whole process, and restores it at the end."""
    import torch

    before = torch.get_num_threads()
    if wanted is None or wanted == before:
        yield
        return
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)
