"""PyTorch: a module, eager or compiled, on a GPU as CUDA graphs; or a package that was compiled before."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fastgan.errors import UsageError
from fastgan.nn import fold
from fastgan.runtime.backends.base import Backend
from fastgan.runtime.hardware import usable_cores
from fastgan.runtime.pixel_conversion import scaling

#: Shapes that a model keeps CUDA graphs for. Each holds its input, its output and, shared, the memory in between.
_GRAPHS = 8


class _Torch(Backend):
    """What runs tensors on a device of torch's."""

    def __init__(self, function: Callable[..., Tensor], device: torch.device, dtype: torch.dtype, threads: int | None):
        self._function = function
        self._on = device
        self._dtype = dtype
        # torch counts the machine's cores, and not what a container is granted of them.
        self.threads = threads or (min(torch.get_num_threads(), usable_cores()) if device.type == "cpu" else None)
        self.device = str(device)
        self.title = f"PyTorch {torch.__version__}"
        self.provider = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
        self.notes = []
        self.inputs, self.outputs = [], []  # a function of tensors does not say
        self._graphs = _Graphs(device) if device.type == "cuda" else None
        self.warm_ups = 2 if self._graphs else 0  # plainly, then captured

    def run(self, x: np.ndarray, y: np.ndarray | None = None, *, pixels: bool = False) -> np.ndarray:
        # Tensors do not know memory that may not be written, such as a picture's of Pillow.
        given, *labels = (torch.from_numpy(a if a.flags.writeable else a.copy()) for a in (x, y) if a is not None)
        return self.run_tensor(given, *labels, pixels=pixels).numpy()

    def run_tensor(self, x: Tensor, y: Tensor | None = None, *, pixels: bool = False) -> Tensor:
        call = self._of_pixels if pixels else self._of_values
        with torch.no_grad(), _threads(self.threads if self._on.type == "cpu" else None):
            given = [t.to(self._on) for t in (x, y) if t is not None]
            return (self._graphs(call, given) if self._graphs else call(*given)).to(x.device)

    def _of_values(self, x: Tensor, *y: Tensor) -> Tensor:
        made = self._function(_ready(x.to(self._dtype)), *y)
        return made.to(torch.float32, memory_format=torch.contiguous_format)

    def _of_pixels(self, frames: Tensor) -> Tensor:
        low, step = map(float, scaling(self.limits))
        x = frames.permute(0, 3, 1, 2).to(torch.float32).mul_(step).add_(low)  # channels_last as it comes
        y = self._function(_ready(x.to(self._dtype))).float()
        y = y.sub(low).div_(step).nan_to_num_(0.0).clamp_(0, 255).round_()  # halves to even
        return y.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


class Network(_Torch):
    """A copy of a module: in eval mode, norms folded, images in channels_last.

    device: "auto" is the GPU where there is one. compiled: by torch.compile, at the first call of a shape. On a GPU the
    second call of a shape captures a CUDA graph, and the later ones replay it.
    """

    def __init__(self, module: nn.Module, device: str, threads: int | None, compiled: bool = False):
        where = _device(device)
        network = fold(module).requires_grad_(False).to(where)
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)
        function: Callable[..., Tensor] = network
        if compiled:
            function = torch.compile(network, options={"freezing": True} if where.type == "cpu" else None)
        super().__init__(function, where, dtype, threads)
        self.name = "compile" if compiled else "torch"
        if compiled:
            self.title += ", torch.compile"
            self.warm_ups += 1
        if where.type == "cuda":
            self.notes.append("a CUDA graph for each shape from its second call on")
            if dtype == torch.float32 and torch.backends.cudnn.allow_tf32:
                self.notes.append("float32 convolutions are rounded to TF32 (torch.backends.cudnn.allow_tf32)")


class Package(_Torch):
    """A package that `fastgan export --to aoti` wrote."""

    name = "aoti"

    def __init__(self, path: Path, device: str, threads: int | None):
        from fastgan.export.targets import aoti

        package = aoti.load(path)
        super().__init__(package, torch.device(package.device), torch.float32, threads)
        self.says = package.spec, package.about
        self.title += ", AOTInductor"


class _Graphs:
    """CUDA graphs by shape, the least recently used forgotten first."""

    def __init__(self, device: torch.device):
        self._device = device
        self._known: OrderedDict[tuple, tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor] | None] = OrderedDict()
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, call: Callable[..., Tensor], inputs: list[Tensor]) -> Tensor:
        """The result of the call, in memory of its own."""
        key = call.__name__, tuple(inputs[0].shape)
        with torch.cuda.device(self._device):
            if key not in self._known:  # pictures of all sizes come once each: not worth a graph
                self._known[key] = None
                while len(self._known) > _GRAPHS:
                    self._known.popitem(last=False)
                return call(*inputs)
            self._known.move_to_end(key)
            if self._known[key] is None:
                self._known[key] = self._capture(call, inputs)
            graph, given, result = self._known[key]  # type: ignore[misc]
            for held, x in zip(given, inputs, strict=True):
                held.copy_(x)
            graph.replay()
            return result.clone()

    def _capture(
        self, call: Callable[..., Tensor], inputs: list[Tensor]
    ) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]:
        given = [x.clone() for x in inputs]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                call(*given)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Replays follow one another on a stream, so graphs may use the same memory in between. Other threads may copy
        # meanwhile: a decoder's frames.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = call(*given)
        return graph, given, result


def _ready(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def _device(wanted: str) -> torch.device:
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
    """That many threads for as long as a call takes; torch's number belongs to the process."""
    before = torch.get_num_threads()
    if wanted is None or wanted == before:
        yield
        return
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)
