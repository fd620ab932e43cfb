"""A session that upscales, from what a user has: a pretrained network's name, weights, an exported file, a module."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from fastgan import __version__
from fastgan._util.env import cache_dir
from fastgan._util.hashing import file_sha256
from fastgan.errors import UsageError
from fastgan.runtime import backends
from fastgan.runtime.backends.base import MODULE
from fastgan.runtime.hardware import gpu_names
from fastgan.runtime.spec import Spec
from fastgan.upscale.image.enlarge import check_network

if TYPE_CHECKING:
    from fastgan.runtime.session import Session

#: What `fastgan upscale` takes unasked: a photograph of a megapixel takes seconds on a CPU, not minutes.
DEFAULT = "realesr-animevideov3-x4"


def open_upscaler(
    model: str = DEFAULT, *, backend: str = "auto", device: str = "auto", threads: int | None = None
) -> Session:
    """Open a model for upscaling.

    model: a name that `fastgan models` lists (fetched once); a file that `fastgan export` wrote; a file of weights in a
    layout of `fastgan.models.esrgan`; or a user's "file.py:name". Weights that are to run on a CPU are exported once,
    verified, into fastgan's cache directory: the runtimes for exported files are the faster ones there. backend,
    device, threads: as in `fastgan.runtime.Session`. Raises what opening raises, and UsageError for a model that does
    not make images from images.
    """
    from fastgan.runtime.session import Session

    path = Path(model)
    if path.is_file() and path.suffix.lower() in backends.suffixes():
        session = Session(path, backend=backend, device=device, threads=threads)
    else:
        weights = path if path.is_file() else _pretrained(model)
        if weights is not None and backend not in backends.that_run(MODULE) and not _on_gpu(device) and _can_export():
            session = Session(_exported(weights), backend=backend, device=device, threads=threads)
        else:
            from fastgan.export.source import open_network

            network = open_network(model if weights is None else weights, names=_names())
            session = Session(network, backend=backend, device=device, threads=threads)
    check_network(session.spec)
    return session


def _pretrained(name: str) -> Path | None:
    """The weights of that name, fetched; None for what is no name of such."""
    from fastgan.upscale import pretrained

    if name not in pretrained.KNOWN:
        return None
    return pretrained.fetch(name, report=_say)


def _names() -> list[str]:
    from fastgan.upscale import pretrained

    return list(pretrained.KNOWN)


def _exported(weights: Path) -> Path:
    """An ONNX file in the cache made from these weights, by this version of fastgan."""
    other_half = weights.with_suffix(".bin")  # of an ncnn pair
    parts = [weights, other_half] if other_half != weights and other_half.is_file() else [weights]
    digest = file_sha256(*parts)[:32]
    path = cache_dir() / "exported" / f"{weights.stem}-{__version__}-{digest}.onnx"
    if not path.is_file():
        from fastgan.export.api import export
        from fastgan.export.source import open_network

        _say(f"exporting {weights.name} for the fast runtimes; this is done once")
        network = open_network(weights)
        check_network(Spec.of(network))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"the cache {path.parent} cannot be made: {error.strerror or error}; set FASTGAN_CACHE to another place"
            ) from error
        export(network, path)
    return path


def _can_export() -> bool:
    return all(find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))


def _on_gpu(device: str) -> bool:
    """Whether a session would run on a GPU, where torch is as fast as any, and needs no export."""
    if device != "auto":
        return device != "cpu"
    if not gpu_names():  # asks the driver; torch takes seconds to import
        return False
    import torch

    return torch.cuda.is_available()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
