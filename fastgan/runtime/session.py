"""Runs a generator, an exported file or a torch module, in the fastest installed library. ONNX files need no torch."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fastgan._util.hashing import file_sha256
from fastgan.errors import BackendError, FastganError, UsageError, first_line
from fastgan.runtime import backend_selection, backends, infer_spec, labels
from fastgan.runtime.backends.base import MODULE, Backend
from fastgan.runtime.hardware import usable_cores
from fastgan.runtime.onnx_metadata import OnnxMetadata, read_metadata
from fastgan.runtime.spec import KEY, Inputs, Spec

#: A numpy array or a torch tensor.
Array = TypeVar("Array")

#: Width and height of the images with which image models are measured.
FRAME = (320, 180)
_SMALL = (64, 64)


class Session:
    """A generator, opened and ready to run.

    model: path of a file that `fastgan export` wrote (ONNX; a package of --to aoti; an engine of --to tensorrt), of any
    other ONNX file with one float input [N, C, H, W] and one output of as many channels, or a torch module with the
    attributes that Spec.of reads.
    backend: the name of a back-end (`fastgan doctor` lists them), or "auto": the installed ones are timed on this model
    once (about two seconds), and the fastest is stored in fastgan's cache directory. torch.compile takes part on a GPU
    only.
    device: "cpu", "cuda", "cuda:N", or "auto", which prefers a GPU. threads: of the CPU; None for all usable cores.
    latent_shape: of one z, for a module without the attribute `latent`.

    session(x): latents z float32 [N, *latent_shape] or images float32 [N, C, H, W] → images float32 [N, C, H, W].
    session(z, y): with labels y of a conditional generator, int64 [N], or a list of numbers or of names in
    session.class_names; without y, labels 0, 1, ... in turn.
    session.pixels(frames): uint8 [N, H, W, C] → uint8. numpy arrays give numpy arrays, torch tensors give tensors on
    the same device. A session may be used from several threads; their calls run one after another.

    Raises UsageError for wrong arguments (no such file, a back-end that is not installed, no such device), ExportError
    for a file that is no such model, BackendError where a library cannot open it.
    """

    spec: Spec
    about: dict[str, Any]

    def __init__(
        self,
        model: str | Path | Any,
        *,
        backend: str = "auto",
        device: str = "auto",
        threads: int | None = None,
        latent_shape: tuple[int, ...] | None = None,
    ):
        _check(backend, device, threads)
        spec: Spec | None = None
        self.about = {}
        self._onnx: OnnxMetadata | None = None
        if isinstance(model, (str, Path)):
            model = Path(model)
            suffix = model.suffix.lower() if model.suffix.lower() in backends.suffixes() else ".onnx"
            if suffix == ".onnx":
                self._onnx = read_metadata(model)
                if KEY in self._onnx.metadata:
                    spec, self.about = Spec.from_json(self._onnx.metadata[KEY])
            elif not model.is_file():
                raise UsageError(f"model: {model} is not a file")
        else:
            torch = sys.modules.get("torch")  # imported, if the caller has a module
            if not (torch and isinstance(model, torch.nn.Module)):
                raise UsageError(f"model: expected a path or a torch module, got {type(model).__name__}")
            spec, suffix = Spec.of(model, latent_shape), MODULE
        self.model = model
        self._lock = threading.Lock()
        selector = backend_selection.Selector(*backends.candidates(model, suffix, backend, device, threads))
        if spec is None:
            opened = selector.first_that_opens()
            spec, self.about = opened.stated or (infer_spec.infer(opened, model), {})
        self.spec = spec

        def store() -> tuple[Any, str]:
            module = suffix == MODULE
            digest = backend_selection.module_digest(model) if module else file_sha256(model)
            return backend_selection.store(digest, device, threads or usable_cores())

        self._backend: Backend
        self._backend, self.choice = selector.fastest(lambda opened: _timing_inputs(spec, opened), store)
        self._backend.limits = spec.range
        self._unavailable = selector.unavailable

    # --- running --------------------------------------------------------------------------------------------------

    def __call__(self, x: Array, y: Array | Sequence[int | str] | None = None) -> Array:
        """Latents or images → images, float32; y: labels, see the class. UsageError for inputs that do not fit."""
        name = "z" if self.spec.kind == "latent" else "x"
        _check_input(x, name, "float32")
        shape = tuple(x.shape)  # type: ignore[attr-defined]
        if self.spec.kind == "latent":
            if shape[1:] != self.spec.latent_shape or not shape[0]:
                wanted = ", ".join(map(str, self.spec.latent_shape))
                raise UsageError(f"z: expected [N, {wanted}], got {list(shape)}")
        else:
            if len(shape) != 4 or shape[1] != self.spec.channels or 0 in shape:
                raise UsageError(f"x: expected [N, {self.spec.channels}, H, W], got {list(shape)}")
            self._check_size("x", shape[2], shape[3])
            m = self.spec.multiple
            if shape[2] % m or shape[3] % m:
                raise UsageError(f"x: expected height and width in multiples of {m}, got {list(shape)}")
        return self._run(x, self._labels(x, y), pixels=False)

    def pixels(self, frames: Array) -> Array:
        """Frames uint8 [N, H, W, spec.channels] → uint8 [N, scale·H, scale·W, C], for image models.

        H and W may be any: they are padded with the edge pixels to multiples of spec.multiple, and the result is
        cropped. Values are clipped and rounded to the nearest, halves to even; NaN becomes 0. The conversion runs in
        the back-end's graph.
        """
        spec = self.spec
        if spec.kind != "image":
            raise UsageError("frames: expected an image-to-image model; this one generates images from latents")
        _check_input(frames, "frames", "uint8")
        shape = tuple(frames.shape)  # type: ignore[attr-defined]
        if len(shape) != 4 or shape[3] != spec.channels or 0 in shape:
            raise UsageError(f"frames: expected [N, H, W, {spec.channels}], got {list(shape)}")
        h, w = shape[1:3]
        self._check_size("frames", h, w)
        padded = _padded(frames, -h % spec.multiple, -w % spec.multiple)
        result: Any = self._run(padded, None, pixels=True)
        return result if padded is frames else result[:, : spec.scale * h, : spec.scale * w]

    def warm_up(self, x: Any) -> None:
        """Run x, float32 values or uint8 frames, three times: later calls of its shape compile and capture nothing."""
        for _ in range(3):
            self.pixels(x) if "uint8" in str(x.dtype) else self(x)

    def _labels(self, x: Any, y: Any) -> Any:
        """Labels for x: an array or tensor like x, on its device."""
        classes = self.spec.classes
        if not classes:
            if y is not None:
                raise UsageError("y: this model takes no labels")
            return None
        array = isinstance(x, np.ndarray)
        if y is None:
            y = labels.in_turn(len(x), classes)
            return y if array else sys.modules["torch"].from_numpy(y).to(x.device)
        if isinstance(y, list | tuple):
            y = np.array([labels.number_of(label, classes, self.class_names) for label in y], np.int64)
            y = y if array else sys.modules["torch"].from_numpy(y)
        if getattr(y, "ndim", 1) == 2:
            labels.check(y, len(x), classes)  # names one-hot rows
        _check_input(y, "y", "int64")
        labels.check(y, len(x), classes)
        if isinstance(y, np.ndarray) != array:
            raise UsageError(f"y: expected {type(x).__name__} as z is one, got {type(y).__name__}")
        return np.ascontiguousarray(y) if array else y.to(x.device)

    def _run(self, x: Any, y: Any, pixels: bool) -> Any:
        # A file may be exported for one batch size.
        fixed = self.fixed_batch
        if fixed and len(x) % fixed:
            name = "frames" if pixels else "z" if self.spec.kind == "latent" else "x"
            raise UsageError(f"{name}: expected a multiple of {fixed} at a time, got {len(x)}")
        with self._lock:
            try:
                if fixed and len(x) > fixed:
                    cuts = [slice(i, i + fixed) for i in range(0, len(x), fixed)]
                    parts = [self._run_batch(x[cut], None if y is None else y[cut], pixels) for cut in cuts]
                    return np.concatenate(parts) if isinstance(x, np.ndarray) else sys.modules["torch"].cat(parts)
                return self._run_batch(x, y, pixels)
            except FastganError:
                raise
            except Exception as error:  # every library has exceptions of its own
                raise BackendError(
                    f"{self._backend.title} fails on {list(x.shape)} ({self._backend.provider}): {first_line(error)}"
                ) from error

    def _run_batch(self, x: Any, y: Any, pixels: bool) -> Any:
        if isinstance(x, np.ndarray):
            return self._backend.run(np.ascontiguousarray(x), y, pixels=pixels)
        return self._backend.run_tensor(x, y, pixels=pixels)

    def _check_size(self, name: str, height: int, width: int) -> None:
        if (fixed := self.fixed) and (height, width) != fixed:
            raise UsageError(f"{name}: this model takes images of {fixed[1]}×{fixed[0]} only, got {width}×{height}")

    # --- properties -----------------------------------------------------------------------------------------------

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes in order, or () where the file does not state them."""
        return labels.names_in(self.about, self.spec.classes)

    @property
    def backend(self) -> str:
        """The name of the back-end in use."""
        return self._backend.name

    @property
    def provider(self) -> str:
        """What the back-end runs on, in its own words: an execution provider, a CPU, a GPU."""
        return self._backend.provider

    @property
    def device(self) -> str:
        """ "cpu" or "cuda:N"."""
        return self._backend.device

    @property
    def threads(self) -> int | None:
        """Threads of the CPU; None where the library decides."""
        return self._backend.threads

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Of one z; empty for an image model."""
        return self.spec.latent_shape

    @property
    def fixed(self) -> tuple[int, int] | None:
        """Height and width, if the file accepts images of one size only."""
        shape = self._backend.inputs[0].shape if self._backend.inputs and self.spec.kind == "image" else ()
        return (shape[2], shape[3]) if len(shape) == 4 and shape[2] and shape[3] else None

    @property
    def fixed_batch(self) -> int | None:
        """The batch size, if the file accepts only one; larger inputs are split, and must be multiples of it."""
        return self._backend.inputs[0].shape[0] if self._backend.inputs else None

    @property
    def title(self) -> str:
        """The library in use, with its version."""
        return self._backend.title

    def describe(self) -> str:
        """The model, the back-end in use, its measured times and the reasons against others, as text."""
        spec, used = self.spec, self._backend
        if spec.kind == "latent":
            takes = f"z [N, {', '.join(map(str, spec.latent_shape))}]"
            takes += f" and y [N] of {spec.classes} classes → images" if spec.classes else " → images"
        else:
            h, w = self.fixed or ("H", "W")
            larger = f"{spec.scale} times as large" if spec.scale > 1 else "of the same size"
            takes = f"images [N, {spec.channels}, {h}, {w}] → {larger}"
            takes += f", sides in multiples of {spec.multiple}" if spec.multiple > 1 else ""
        facts = [f"values from {spec.range[0]:g} to {spec.range[1]:g}"]
        facts += [str(self.about["precision"])] if "precision" in self.about else []
        facts += [f"opset {self._onnx.opset}"] if self._onnx and self._onnx.opset else []
        if self._onnx and KEY not in self._onnx.metadata:
            facts.append("inferred by running it: the file has no fastgan metadata")
        name = self.model if isinstance(self.model, Path) else type(self.model).__name__
        threads = "" if used.threads is None else f", {used.threads} thread{'s' if used.threads > 1 else ''}"
        lines = [
            f"{name}: {takes} ({', '.join(facts)})",
            f"back-end: {used.name} ({used.title}) on {used.provider}{threads}",
        ]
        if self.choice:
            times = sorted(self.choice.milliseconds.items(), key=lambda item: item[1])
            lines.append("measured: " + ", ".join(f"{name} {ms:.2f} ms" for name, ms in times))
        unavailable = {**(self.choice.unavailable if self.choice else {}), **self._unavailable}
        lines += [f"not {name}: {reason}" for name, reason in unavailable.items()]
        return "\n  ".join([*lines, *used.notes])

    # --- measuring ------------------------------------------------------------------------------------------------

    def example(self, batch: int = 1, size: tuple[int, int] = FRAME) -> np.ndarray:
        """A float32 input: latents, or images of about `size` (width, height), rounded to what the model accepts."""
        return _example(self.spec, self._backend, batch, size)

    def measure(self, batch: int = 1, seconds: float = 1.0, size: tuple[int, int] = FRAME) -> float:
        """Median seconds of one call at that batch size, over about `seconds` after a warm-up."""
        x = self.example(batch, size)
        start = time.perf_counter()
        self(x)
        if time.perf_counter() - start < seconds:
            self.warm_up(x)
        times: list[float] = []
        while not times or ((sum(times) < seconds or len(times) < 5) and sum(times) < 5 * seconds):
            start = time.perf_counter()
            self(x)
            times.append(time.perf_counter() - start)
        return float(np.median(times))

    def figures(self, seconds: float = 1.0) -> dict[str, Any]:
        """Measures latency at batch 1 in ms, and images per second at batch 64 or output megapixels per second."""
        found: dict[str, Any] = {"backend": self.backend, "provider": self.provider}
        if self.spec.kind == "latent":
            return {
                **found,
                "latency_ms_batch1": 1000 * self.measure(1, seconds),
                "images_per_second_batch64": 64 / self.measure(64, seconds),
            }
        shape, took = self.example(size=_SMALL).shape, self.measure(1, seconds, _SMALL)
        pixels = shape[2] * shape[3] * self.spec.scale**2
        return {
            **found,
            "size": f"{shape[3]}x{shape[2]}",
            "latency_ms_batch1": 1000 * took,
            "output_megapixels_per_second": pixels / took / 1e6,
        }


def latents(n: int, latent_shape: tuple[int, ...], seed: int, truncation: float | None = None) -> np.ndarray:
    """z float32 [n, *latent_shape] from N(0, 1), determined by the seed.

    truncation: numbers beyond ±truncation are drawn again, for better images of less variety (Brock et al. 2019,
    arXiv:1809.11096, section 3.1).
    """
    random = np.random.default_rng(seed)
    z = random.standard_normal((n, *latent_shape), dtype=np.float32)
    while truncation is not None and (count := np.count_nonzero(outside := np.abs(z) > truncation)):
        if truncation > 1:
            z[outside] = random.standard_normal(count, dtype=np.float32)
        else:  # most of N(0, 1) would be drawn in vain: accepted with the density, out of a uniform distribution
            drawn = random.uniform(-truncation, truncation, count)
            z[outside] = np.where(random.random(count) < np.exp(-(drawn**2) / 2), drawn, np.inf)
    return z


def _check(backend: str, device: str, threads: int | None) -> None:
    if backend != "auto" and backend not in backends.registry():
        raise UsageError(f"backend: expected auto, {', '.join(backends.registry())}, got {backend!r}")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise UsageError(f"device: expected auto, cpu, cuda or cuda:N, got {device!r}")
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise UsageError(f"threads: expected a number >= 1, got {threads!r}")


def _check_input(x: Any, name: str, dtype: str) -> None:
    torch = sys.modules.get("torch")  # imported, if the caller has a tensor
    if not isinstance(x, np.ndarray) and not (torch and isinstance(x, torch.Tensor)):
        raise UsageError(f"{name}: expected a numpy array or a torch tensor, got {type(x).__name__}")
    if (came := str(x.dtype).removeprefix("torch.")) != dtype:
        raise UsageError(f"{name}: expected {dtype}, got {came}")


def _padded(frames: Any, down: int, right: int) -> Any:
    """Frames [N, H, W, C] with the last row and column repeated."""
    for axis, more in ((1, down), (2, right)):
        if more:
            size = frames.shape[axis]
            index = np.minimum(np.arange(size + more), size - 1)
            frames = np.take(frames, index, axis) if isinstance(frames, np.ndarray) else _select(frames, index, axis)
    return frames


def _select(frames: Any, index: np.ndarray, axis: int) -> Any:
    return frames.index_select(axis, sys.modules["torch"].from_numpy(index).to(frames.device))


def _example(spec: Spec, backend: Backend, batch: int, size: tuple[int, int]) -> np.ndarray:
    shape = backend.inputs[0].shape if backend.inputs else ()
    if shape and shape[0]:
        batch = shape[0]
    if spec.kind == "latent":
        return latents(batch, spec.latent_shape, seed=0)
    m, fixed = spec.multiple, shape[2:] or (None, None)
    height, width = (one or max(m, side // m * m) for one, side in zip(fixed, reversed(size), strict=True))
    low, high = spec.range
    x = np.random.default_rng(0).random((batch, spec.channels, height, width), dtype=np.float32)
    return low + np.float32(high - low) * x


def _timing_inputs(spec: Spec, backend: Backend) -> list[Inputs]:
    """The inputs with which back-ends are timed: a small one, and for image models one of the size FRAME."""
    small = _example(spec, backend, 1, _SMALL)
    if spec.classes:
        return [(small, labels.in_turn(len(small), spec.classes))]
    return [(small,)] if spec.kind == "latent" else [(small,), (_example(spec, backend, 1, FRAME),)]
