"""`open_upscaler`: a session for upscaling from a pretrained network's name, weights, an exported file or a module."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from fastgan import __version__
from fastgan._util.cache import require_writable
from fastgan._util.env import cache_dir
from fastgan._util.hashing import file_sha256
from fastgan._util.locks import locked
from fastgan.errors import UsageError
from fastgan.runtime import backends
from fastgan.runtime.backends.base import MODULE
from fastgan.runtime.hardware import gpu_names
from fastgan.runtime.network_spec import spec_of
from fastgan.upscale.image.inference import check_network

if TYPE_CHECKING:
    from torch import nn

    from fastgan.runtime.session import Session
    from fastgan.runtime.spec import Spec

_logger = logging.getLogger(__name__)

#: The fact of an exported file, and of its report, that names the weights.
_WEIGHTS = "weights_sha256"
#: The default model: a photograph of a megapixel takes seconds on a CPU, not minutes.
DEFAULT = "realesr-animevideov3-x4"


@dataclass(frozen=True)
class Weights:
    """Weights of a network from images to images that are not opened by the name of a file, such as those of a run.

    files: what they depend on. name: of the exported file in the cache. open: builds the network.
    """

    files: tuple[Path, ...]
    name: str
    open: Callable[[], nn.Module]


def open_upscaler(
    model: str | Weights = DEFAULT,
    *,
    backend: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    trust: bool = False,
) -> Session:
    """Open a model for upscaling.

    model: a name that `fastgan models list` prints (fetched once); a file written by `fastgan export`; weights in a
    format of `fastgan.models.esrgan`; "file.py:name", a module of the user's; or `Weights`. On a CPU, weights are
    exported once into the cache directory, and verified, for the runtimes of exported files are faster there. backend,
    device, threads, trust: as in `fastgan.runtime.Session`.
    Returns a Session. Raises UsageError for a model that does not map images to images, and the errors of opening it.
    """
    return open_network_for_images(
        model, check_network, backend=backend, device=device, threads=threads, trust=trust, names=_names()
    )


def open_network_for_images(
    model: str | Weights,
    check: Callable[[Spec], None],
    *,
    backend: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    trust: bool = False,
    names: Iterable[str] = (),
) -> Session:
    """As `open_upscaler`, of a model whose spec `check` takes. names: of the pretrained networks that it may be."""
    from fastgan.runtime.session import Session

    weights = model if isinstance(model, Weights) else _weights_of(model, names)
    path = Path() if isinstance(model, Weights) else Path(model)
    if path.is_file() and path.suffix.lower() in backends.suffixes():
        session = Session(path, backend=backend, device=device, threads=threads, trust=trust)
    elif weights is not None and backend not in backends.that_run(MODULE) and not _on_gpu(device) and _can_export():
        session = Session(_exported(weights, check), backend=backend, device=device, threads=threads)
    else:
        network = _module(str(model), names) if weights is None else weights.open()
        session = Session(network, backend=backend, device=device, threads=threads)
    check(session.spec)
    return session


def _weights_of(model: str, names: Iterable[str]) -> Weights | None:
    """The weights that a file or the name of a pretrained network stands for; None for a module."""
    path = Path(model)
    file = path if path.is_file() else _pretrained(model) if model in names else None
    if file is None:
        return None
    ncnn_bin = file.with_suffix(".bin")  # ncnn weights are two files, .param and .bin
    files = (file, ncnn_bin) if ncnn_bin != file and ncnn_bin.is_file() else (file,)

    return Weights(files, file.stem, lambda: _module(file))


def _module(source: str | Path, names: Iterable[str] = ()) -> nn.Module:
    from fastgan.export.source import open_network

    return open_network(source, names=names)


def _pretrained(name: str) -> Path | None:
    """The weights of a pretrained network, fetched if missing; None for any other name."""
    from fastgan.upscale import pretrained

    if name not in pretrained.KNOWN:
        return None
    return pretrained.fetch(name)


def _names() -> list[str]:
    from fastgan.upscale import pretrained

    return list(pretrained.KNOWN)


def _exported(weights: Weights, check: Callable[[Spec], None]) -> Path:
    """The ONNX file in the cache, exported from these weights by this version of fastgan."""
    digest = file_sha256(*weights.files)[:32]
    path = cache_dir() / "exported" / f"{weights.name[:100]}-{__version__}-{digest}.onnx"
    if _is_exported(path, digest):
        return path
    from fastgan.export.api import export

    network = weights.open()
    check(spec_of(network))
    try:
        require_writable(path.parent)
        with locked(path.parent):
            if _is_exported(path, digest):  # by another process meanwhile
                return path
            _logger.info("exporting %s for the runtimes of exported files; this is done once", weights.name)
            export(network, path, about={_WEIGHTS: digest}, overwrite=True)
    except OSError as error:
        raise UsageError(
            f"the cache {path.parent} cannot be written: {error.strerror or error};"
            " set FASTGAN_CACHE to another directory"
        ) from error
    return path


def _is_exported(path: Path, digest: str) -> bool:
    """Whether a file in the cache is whole, and of these weights: by the report beside it."""
    try:
        report = json.loads(path.with_name(path.name + ".json").read_bytes())
        return report[_WEIGHTS] == digest and report["sha256"] == file_sha256(path)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False


def _can_export() -> bool:
    return all(find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))


def _on_gpu(device: str) -> bool:
    """Whether a session would run on a GPU, where torch is as fast as other runtimes, and needs no export."""
    if device != "auto":
        return device != "cpu"
    if not gpu_names():  # queries the driver, without the seconds of importing torch
        return False
    import torch

    return torch.cuda.is_available()
