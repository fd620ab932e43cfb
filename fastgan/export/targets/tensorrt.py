"""TensorRT engines, built from ONNX files by the package tensorrt. Without it, the error has the command to use."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastgan._util import cache
from fastgan._util.env import cache_dir
from fastgan._util.files import write_whole
from fastgan._util.locks import locked
from fastgan.errors import ExportError, UsageError
from fastgan.export.targets.base import register, write_report
from fastgan.export.targets.onnx import Onnx
from fastgan.runtime.backends.tensorrt import make_logger
from fastgan.runtime.spec import Spec

if TYPE_CHECKING:
    from fastgan.export.prepare import Prepared


@register
class TensorRT(Onnx):
    """An engine for the GPU of this computer. The verified ONNX file that it was built from stays beside it, NAME.onnx.

    The report is that of the ONNX file (NAME.onnx.json), with the facts of the engine under "engine". The engine itself
    is not compared with the network. `fastgan.runtime.Session` opens it.
    """

    name = "tensorrt"
    help = "an engine for this GPU, and the ONNX file it was built from beside it"
    suffixes = (".engine", ".plan")
    symmetric = True  # TensorRT requires it

    def verified_file(self, out: Path) -> Path:
        return out.with_suffix(".onnx")

    def publish(self, written: Path, out: Path, prepared: Prepared, report: dict[str, Any]) -> None:
        super().publish(written, out, prepared, report)
        file = self.verified_file(out)
        report["engine"] = build(file, out, prepared.spec)
        write_report(file, report)

    @classmethod
    def why_not(cls) -> str | None:
        return cls.missing_package() or why_not()


@dataclass(frozen=True)
class Sizes:
    """The optimization profile of an engine: (least, the one it is tuned for, most) of batch, height and width.

    Height and width are of image models' inputs; a signal is as long as an image is wide. They are rounded up to
    multiples of spec.multiple.
    """

    batch: tuple[int, int, int] = (1, 1, 8)
    height: tuple[int, int, int] = (32, 480, 1088)
    width: tuple[int, int, int] = (32, 640, 1920)


#: For generators from latents: tuned for a batch of 16.
LATENT_SIZES = Sizes(batch=(1, 16, 64))


def why_not() -> str | None:
    """Why engines cannot be built here, or None."""
    try:
        trt = importlib.import_module("tensorrt")
    except ImportError as error:
        return f"the Python package tensorrt is not installed ({error})"
    missing = [name for name in ("Builder", "OnnxParser", "Logger") if not hasattr(trt, name)]
    if missing:  # the package is there, but not NVIDIA's libraries
        return f"the Python package tensorrt {getattr(trt, '__version__', '')} has no {missing[0]}"
    try:
        _gpu()
    except ExportError as error:
        return str(error)
    return None


def build(onnx: Path, out: Path, spec: Spec, *, sizes: Sizes | None = None) -> dict[str, Any]:
    """Build an engine from an ONNX file and write it to `out`. Returns its GPU, driver, TensorRT version and shapes.

    The network is strongly typed: precisions are those of the file. An engine depends on the GPU, the driver and the
    version of TensorRT, so the cache's key has all three and the file's checksum; kernel timings are cached too.
    Raises UsageError, with the command that builds it elsewhere, where TensorRT or a GPU is missing; ExportError with
    TensorRT's reason where it refuses the file or the sizes; WriteError for `out`. `onnx` is not changed.
    """
    sizes = _rounded(sizes or (Sizes() if spec.sizes else LATENT_SIZES), spec)
    data = _read(onnx)
    shapes = _shapes(spec, sizes)
    why = why_not()
    if why is not None:
        raise UsageError(
            f"to: a TensorRT engine cannot be built here: {why}. Where TensorRT is installed, build one from {onnx}:\n"
            f"  {command(onnx, out, spec, sizes=sizes)}"
        )
    trt = importlib.import_module("tensorrt")
    hardware = {**_gpu(), "tensorrt": str(trt.__version__)}
    facts = {**hardware, "shapes": shapes}
    key = {**facts, "onnx_sha256": hashlib.sha256(data).hexdigest()}
    folder, all_of_it = cache_dir() / "tensorrt", json.dumps(key, sort_keys=True)
    path = folder / f"{hashlib.sha256(all_of_it.encode()).hexdigest()[:32]}.engine"
    timings = folder / f"{_slug(*hardware.values())}.timing"
    cache.require_writable(folder)  # before the minutes of a build
    with locked(path.with_suffix(".lock")):
        try:
            engine, cached = cache.load(path, all_of_it), True
        except (OSError, ValueError):
            engine, cached = _build(trt, onnx, data, shapes, timings), False
            cache.store(path, all_of_it, engine)
    write_whole(out, engine)
    return {**facts, "engine": out.name, "bytes": out.stat().st_size, "from_cache": cached}


def command(onnx: Path, out: Path, spec: Spec, *, sizes: Sizes | None = None) -> str:
    """The command line that builds the same engine with TensorRT's program trtexec."""
    sizes = _rounded(sizes or (Sizes() if spec.sizes else LATENT_SIZES), spec)
    words = ["trtexec", f"--onnx={onnx}", "--stronglyTyped", f"--saveEngine={out}"]
    for kind, shapes in _shapes(spec, sizes).items():
        given = ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())
        words.append(f"--{kind}Shapes={given}")
    return shlex.join(words)


def _build(trt: Any, onnx: Path, data: bytes, shapes: dict[str, dict[str, list[int]]], timings: Path) -> bytes:
    logger = make_logger(trt)
    builder = trt.Builder(logger)
    # Needed before version 11, which knows no other kind.
    strongly = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if strongly is None else 1 << int(strongly))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(data):
        reasons = [str(parser.get_error(i).desc()) for i in range(parser.num_errors)]
        raise ExportError(f"TensorRT {trt.__version__} cannot read {onnx}: {'; '.join(reasons) or logger.last_error}")
    profile = builder.create_optimization_profile()
    for i, name in enumerate(shapes["min"]):
        profile.set_shape(network.get_input(i).name, *(tuple(of[name]) for of in shapes.values()))
    config = builder.create_builder_config()
    if config.add_optimization_profile(profile) < 0:
        raise ExportError(f"TensorRT {trt.__version__} refuses the sizes {shapes}: {logger.last_error}")
    try:
        known = cache.load(timings, timings.stem)
    except (OSError, ValueError):
        known = b""
    timing = config.create_timing_cache(known)
    config.set_timing_cache(timing, False)  # False: ignore timings of another GPU or version
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise ExportError(f"TensorRT {trt.__version__} cannot build an engine of {onnx}: {logger.last_error}")
    cache.store(timings, timings.stem, bytes(timing.serialize()))
    return bytes(engine)


def _gpu() -> dict[str, str]:
    """Name, compute capability and driver version of the current GPU. Raises ExportError where there is none."""
    try:
        import torch
    except ImportError as error:
        raise ExportError(f"PyTorch, which is needed to find the GPU, cannot be imported: {error}") from error
    if not torch.cuda.is_available():
        raise ExportError("there is no GPU that PyTorch can use")
    major, minor = torch.cuda.get_device_capability()
    return {
        "gpu": torch.cuda.get_device_name(),
        "compute_capability": f"{major}.{minor}",
        "driver": _driver(),
    }


def _driver() -> str:
    """The version of NVIDIA's driver, from its files or from nvidia-smi. Raises ExportError."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(errors="replace")
    except OSError:
        text = ""
    found = re.search(r"\b(\d+\.\d+(?:\.\d+)?)\b", text)
    if found:
        return found[1]
    import subprocess

    program = shutil.which("nvidia-smi")
    if program is not None:
        words = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
        if done.returncode == 0 and done.stdout.strip():
            return done.stdout.split()[0]
    raise ExportError("the version of NVIDIA's driver, on which an engine depends, cannot be found")


def _read(onnx: Path) -> bytes:
    try:
        return onnx.read_bytes()
    except OSError as error:
        raise UsageError(f"onnx: {onnx} cannot be read: {error.strerror or error}") from error


def _rounded(sizes: Sizes, spec: Spec) -> Sizes:
    """Height and width rounded up to multiples of spec.multiple. Raises UsageError for sizes out of order."""
    for name in ("batch", "height", "width"):
        least, best, most = getattr(sizes, name)
        if not 1 <= least <= best <= most:
            raise UsageError(f"sizes: expected 1 ≤ least ≤ best ≤ most for {name}, got {least}, {best}, {most}")

    def up(values: tuple[int, int, int]) -> tuple[int, int, int]:
        least, best, most = (-(-n // spec.multiple) * spec.multiple for n in values)
        return least, best, most

    return Sizes(sizes.batch, up(sizes.height), up(sizes.width))


def _shapes(spec: Spec, sizes: Sizes) -> dict[str, dict[str, list[int]]]:
    """The "min", "opt" and "max" shape of each input."""
    shapes: dict[str, dict[str, list[int]]] = {}
    for i, kind in enumerate(("min", "opt", "max")):
        rest = spec.latent_shape
        if spec.sizes:
            rest = (spec.channels, *(sizes.height[i], sizes.width[i])[-len(spec.sizes) :])
        batch = sizes.batch[i]
        labels = [[batch, spec.classes] if spec.label_vectors else [batch]] * bool(spec.classes)
        others = [*labels, *([batch, *control.shape] for control in spec.controls)]
        shapes[kind] = dict(zip(spec.inputs, [[batch, *rest], *others], strict=True))
    return shapes


def _slug(*words: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", "_".join(words))
