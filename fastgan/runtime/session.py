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
from fastgan.runtime.declared import check_ports, check_result
from fastgan.runtime.hardware import usable_cores
from fastgan.runtime.onnx_metadata import OnnxMetadata, read_metadata
from fastgan.runtime.spec import KEY, Inputs, Spec

#: A numpy array or a torch tensor.
Array = TypeVar("Array")

#: Width and height of the images with which image models are measured.
FRAME = (320, 180)
_SMALL, _TINY = (64, 64), (16, 16)


class Session:
    """A generator, opened and ready to run.

    model: path of a file that `fastgan export` wrote (ONNX; a package of --to aoti; an engine of --to tensorrt), of any
    other ONNX file from images [N, C, H, W] to images or from signals [N, C, T] to signals, or a torch module
    (`network_spec.spec_of` finds what its attributes do not state).
    backend: the name of a back-end (`fastgan doctor` lists them), or "auto": the installed ones are timed on this model
    once (about two seconds), and the fastest is stored in fastgan's cache directory. torch.compile takes part on a GPU
    only.
    device: "cpu", "cuda", "cuda:N", or "auto", which prefers a GPU. threads: of the CPU; None for all usable cores.
    latent_shape: of one z, for a module without the attribute `latent`. trust: open files that hold native code (.pt2),
    which runs when they are opened.

    session(x): latents z float32 [N, *latent_shape] or images float32 [N, C, H, W] → images float32 [N, C, H, W];
    signals float32 [N, C, T] → [N, C, scale·T].
    session(x, y): with labels y of a conditional generator, int64 [N], or a list of numbers or of names in
    session.class_names; without y, labels 0, 1, ... in turn. Where the network takes vectors of labels, y may be
    float32 [N, classes]; int64 labels become one-hot vectors.
    session(x, y, NAME=value): with the controls in session.spec.controls, such as truncation_psi: a number for all
    samples, or float32 [N] or [N, size]; without them, their defaults.
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
        trust: bool = False,
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
            elif suffix in backends.of_native_code() and not trust:
                raise UsageError(
                    f"trust: {model} holds native code, which runs with your rights as soon as it is opened;"
                    " give --trust (Session(..., trust=True)) if you trust whoever made it"
                )
        else:
            torch = sys.modules.get("torch")  # imported, if the caller has a module
            if not (torch and isinstance(model, torch.nn.Module)):
                raise UsageError(f"model: expected a path or a torch module, got {type(model).__name__}")
            from fastgan.runtime.network_spec import spec_of

            spec, suffix = spec_of(model, latent_shape), MODULE
        self.model = model
        self._lock = threading.Lock()
        selector = backend_selection.Selector(*backends.candidates(model, suffix, backend, device, threads))
        if spec is None:
            opened = selector.first_that_opens()
            spec, self.about = opened.stated or (infer_spec.infer(opened, model), {})
        self.spec = spec
        stated = self._onnx is not None and KEY in self._onnx.metadata

        def trials(opened: Backend) -> list[Inputs]:
            check_ports(spec, opened, model)
            if stated:
                _check_scale(spec, opened)
            return _timing_inputs(spec, opened)

        def store() -> tuple[Any, str]:
            module = suffix == MODULE
            digest = backend_selection.module_digest(model) if module else file_sha256(model)
            return backend_selection.store(digest, device, threads or usable_cores())

        self._backend: Backend
        self._backend, self.choice = selector.fastest(trials, store)
        self._backend.limits = spec.range
        self._unavailable = selector.unavailable
        check_ports(spec, self._backend, model)
        if stated and self.choice is None:  # else it was checked before it was measured
            _check_scale(spec, self._backend)

    # --- running --------------------------------------------------------------------------------------------------

    def __call__(self, x: Array, y: Array | Sequence[int | str] | None = None, **controls: Array | float) -> Array:
        """The spec's first input → images, signals or styles, float32; y, controls: see the class.

        Raises UsageError for inputs that do not fit.
        """
        spec = self.spec
        name = "x" if spec.sizes else spec.inputs[0]
        _check_input(x, name, "float32")
        shape = tuple(x.shape)  # type: ignore[attr-defined]
        if not spec.accepts(shape):
            raise UsageError(f"{name}: expected {spec.wanted}, got {list(shape)}")
        if spec.kind == "image":
            self._check_size("x", shape[2], shape[3])
        return self._run(x, [*self._labels(x, y), *self._controls(x, controls)], pixels=False)

    def pixels(self, frames: Array, y: Array | None = None) -> Array:
        """Frames uint8 [N, H, W, spec.channels] → uint8 [N, scale·H, scale·W, C], for image models.

        y: labels, see the class. H and W may be any: they are padded with the edge pixels to multiples of
        spec.multiple, and the result is cropped. Values are clipped and rounded to the nearest, halves to even; NaN
        becomes 0. The conversion runs in the back-end's graph.
        """
        spec = self.spec
        if spec.kind != "image":
            what = {"signal": "signals from signals", "mapping": "styles from latents"}
            what |= {"latent": "images from latents", "synthesis": "images from styles"}
            raise UsageError(f"frames: expected an image-to-image model; this one generates {what[spec.kind]}")
        _check_input(frames, "frames", "uint8")
        shape = tuple(frames.shape)  # type: ignore[attr-defined]
        if len(shape) != 4 or shape[3] != spec.channels or 0 in shape:
            raise UsageError(f"frames: expected [N, H, W, {spec.channels}], got {list(shape)}")
        h, w = shape[1:3]
        self._check_size("frames", h, w)
        padded = _padded(frames, -h % spec.multiple, -w % spec.multiple)
        result: Any = self._run(padded, [*self._labels(frames, y), *self._controls(frames, {})], pixels=True)
        return result if padded is frames else result[:, : spec.scale * h, : spec.scale * w]

    def warm_up(self, x: Any) -> None:
        """Run x, float32 values or uint8 frames, three times: later calls of its shape compile and capture nothing."""
        for _ in range(3):
            self.pixels(x) if "uint8" in str(x.dtype) else self(x)

    def _labels(self, x: Any, y: Any) -> list[Any]:
        """Labels for x, or none: an array or tensor like x, on its device."""
        spec = self.spec
        if not spec.classes:
            if y is not None:
                raise UsageError("y: this model takes no labels")
            return []
        array = isinstance(x, np.ndarray)
        if y is None:
            (y,) = labels.given(spec, labels.in_turn(len(x), spec.classes))
            return [_like(x, y)]
        if isinstance(y, list | tuple):
            y = np.array([labels.number_of(label, spec.classes, self.class_names) for label in y], np.int64)
            y = y if array else sys.modules["torch"].from_numpy(y)
        if getattr(y, "ndim", 1) == 2:
            labels.check(y, len(x), spec)  # names one-hot rows
        _check_input(y, "y", *(("int64", "float32") if spec.label_vectors else ("int64",)))
        labels.check(y, len(x), spec)
        if isinstance(y, np.ndarray) != array:
            raise UsageError(f"y: expected {type(x).__name__} as {spec.inputs[0]} is one, got {type(y).__name__}")
        if spec.label_vectors and "int64" in str(y.dtype):
            y = labels.one_hot(y if array else y.cpu().numpy(), spec.classes)
            y = y if array else sys.modules["torch"].from_numpy(y)
        return [np.ascontiguousarray(y) if array else y.to(x.device)]

    def _controls(self, x: Any, given: dict[str, Any]) -> list[Any]:
        """The controls for x in the spec's order: arrays or tensors like x, on its device."""
        known = [control.name for control in self.spec.controls]
        if wrong := [name for name in given if name not in known]:
            takes = f"it takes {', '.join(known)}" if known else "it has no controls"
            raise UsageError(f"{wrong[0]}: not an input of this model; {takes}")
        values = []
        for control in self.spec.controls:
            value = given.get(control.name, control.default)
            if isinstance(value, (int, float)):
                values.append(_like(x, np.full((len(x), *control.shape), value, np.float32)))
                continue
            _check_input(value, control.name, "float32")
            control.check(value, len(x))
            if isinstance(value, np.ndarray) != isinstance(x, np.ndarray):
                name = self.spec.inputs[0]
                raise UsageError(
                    f"{control.name}: expected {type(x).__name__} as {name} is one, got {type(value).__name__}"
                )
            values.append(np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value.to(x.device))
        return values

    def _run(self, x: Any, others: list[Any], pixels: bool) -> Any:
        # A file may be exported for one batch size.
        fixed = self.fixed_batch
        if fixed and len(x) % fixed:
            name = "frames" if pixels else "x" if self.spec.sizes else self.spec.inputs[0]
            raise UsageError(f"{name}: expected a multiple of {fixed} at a time, got {len(x)}")
        with self._lock:
            try:
                if fixed and len(x) > fixed:
                    cuts = [slice(i, i + fixed) for i in range(0, len(x), fixed)]
                    parts = [self._run_batch(x[cut], [other[cut] for other in others], pixels) for cut in cuts]
                    return np.concatenate(parts) if isinstance(x, np.ndarray) else sys.modules["torch"].cat(parts)
                return self._run_batch(x, others, pixels)
            except FastganError:
                raise
            except Exception as error:  # every library has exceptions of its own
                raise BackendError(
                    f"{self._backend.title} fails on {list(x.shape)} ({self._backend.provider}): {first_line(error)}"
                ) from error

    def _run_batch(self, x: Any, others: list[Any], pixels: bool) -> Any:
        if isinstance(x, np.ndarray):
            result: Any = self._backend.run(np.ascontiguousarray(x), *others, pixels=pixels)
        else:
            result = self._backend.run_tensor(x, *others, pixels=pixels)
        check_result(self.spec, tuple(x.shape), tuple(result.shape), pixels)
        return result

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
        """Of one z, or of one w of a synthesis network; empty for an image model."""
        return self.spec.latent_shape

    @property
    def fixed(self) -> tuple[int, int] | None:
        """Height and width, if the file accepts images of one size only."""
        shape = self._backend.inputs[0].shape if self._backend.inputs and self.spec.kind == "image" else ()
        return (shape[2], shape[3]) if len(shape) == 4 and shape[2] and shape[3] else None

    @property
    def fixed_batch(self) -> int | None:
        """The batch size, if the file accepts only one; larger inputs are split, and must be multiples of it."""
        shape = self._backend.inputs[0].shape if self._backend.inputs else ()
        return shape[0] if shape else None

    @property
    def title(self) -> str:
        """The library in use, with its version."""
        return self._backend.title

    def describe(self) -> str:
        """The model, the back-end in use, its measured times and the reasons against others, as text."""
        spec, used = self.spec, self._backend
        takes = spec.describe(self.fixed)
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
        """A float32 input: latents, images of about `size` (width, height), or signals as long as `size` is wide,
        rounded to what the model accepts."""
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
        """Measures latency at batch 1 in ms, and images per second at batch 64, output megapixels or output samples per
        second."""
        found: dict[str, Any] = {"backend": self.backend, "provider": self.provider}
        if not self.spec.sizes:
            return {
                **found,
                "latency_ms_batch1": 1000 * self.measure(1, seconds),
                "images_per_second_batch64": 64 / self.measure(64, seconds),
            }
        shape, took = self.example(size=_SMALL).shape, self.measure(1, seconds, _SMALL)
        if self.spec.kind == "signal":
            samples = shape[2] * self.spec.scale
            return {**found, "length": shape[2], "latency_ms_batch1": 1000 * took, "samples_per_second": samples / took}
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


def _check_input(x: Any, name: str, *dtypes: str) -> None:
    torch = sys.modules.get("torch")  # imported, if the caller has a tensor
    if not isinstance(x, np.ndarray) and not (torch and isinstance(x, torch.Tensor)):
        raise UsageError(f"{name}: expected a numpy array or a torch tensor, got {type(x).__name__}")
    if (came := str(x.dtype).removeprefix("torch.")) not in dtypes:
        raise UsageError(f"{name}: expected {' or '.join(dtypes)}, got {came}")


def _like(x: Any, value: np.ndarray) -> Any:
    """The value as an array, or as a tensor on the device of x, whichever x is."""
    return value if isinstance(x, np.ndarray) else sys.modules["torch"].from_numpy(value).to(x.device)


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
    if not spec.sizes:
        return latents(batch, spec.latent_shape, seed=0)
    m, wanted = spec.multiple, tuple(reversed(size))[-len(spec.sizes) :]
    fixed = shape[2:] or (None,) * len(wanted)
    sizes = (one or max(m, side // m * m) for one, side in zip(fixed, wanted, strict=True))
    low, high = spec.range
    x = np.random.default_rng(0).random((batch, spec.channels, *sizes), dtype=np.float32)
    return low + np.float32(high - low) * x


def _check_scale(spec: Spec, backend: Backend) -> None:
    """Run a model whose library does not know the size of the result, and compare that with the spec."""
    known = backend.outputs[0].shape[2:] if backend.outputs else ()
    if not spec.sizes or (known and all(known)):
        return
    x = _example(spec, backend, 1, _TINY)
    try:
        result = backend.run(x, *labels.default(spec, len(x)))
    except Exception:  # every library has exceptions of its own; the first call says what is wrong
        return
    check_result(spec, x.shape, result.shape, pixels=False)


def _timing_inputs(spec: Spec, backend: Backend) -> list[Inputs]:
    """The inputs with which back-ends are timed: a small one, and for image models one of the size FRAME."""
    small = _example(spec, backend, 1, _SMALL)
    given = [small, _example(spec, backend, 1, FRAME)] if spec.sizes else [small]
    return [(x, *labels.default(spec, len(x))) for x in given]
