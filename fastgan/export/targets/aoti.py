"""A network compiled ahead of time by PyTorch's Inductor: one .pt2 file, without Python code and without tracing.

A .pt2 file holds native code for one kind of machine. Opening one runs that code: open only what you trust.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastgan._util.files import failure, sync
from fastgan.errors import ExportError, UsageError
from fastgan.runtime import labels
from fastgan.runtime.spec import KEY, Spec

#: Instruction sets of x86 as torch.backends.cpu names them; what is compiled for one runs on those after it.
_SETS = ("DEFAULT", "AVX2", "AVX512")


def write(network: nn.Module, spec: Spec, path: Path, about: dict[str, Any] | None = None) -> dict[str, Any]:
    """Compile a network (eval mode) for the device it is on, and write it to `path` as one file. Returns what it is of.

    Batch and, from images to images, height and width are dynamic. about: facts to carry in the file beside the spec.
    Takes a minute: it needs a C++ compiler. Raises UsageError where there is none, ExportError for a network that
    cannot be traced, that works at some sizes only or cannot be compiled, WriteError for `path`; then nothing is there.
    """
    import torch._inductor
    from torch._inductor.exc import InvalidCxxCompiler

    why = why_not()
    if why is not None:
        raise UsageError(f"to: aoti needs a C++ compiler: {why}")
    device = next((tensor.device for tensor in (*network.parameters(), *network.buffers())), torch.device("cpu"))
    facts = {"torch": torch.__version__, "device": device.type, "machine": _machine(device)}
    start = time.perf_counter()
    try:
        program = torch.export.export(network, _sample(spec, device), dynamic_shapes=_dynamic(spec))
    except Exception as error:  # of many classes, torch's own and python's
        raise ExportError(f"the network cannot be exported: {_first_line(error)}") from error
    try:
        # The compiler asks for a name that ends in .pt2, whatever the user's does; and writes at the place itself.
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            aside = Path(folder) / "model.pt2"
            try:
                with warnings.catch_warnings():
                    # What PyTorch warns itself of: its own modules are scripted, and an old name in copyreg.
                    warnings.simplefilter("ignore")
                    torch._inductor.aoti_compile_and_package(
                        program,
                        package_path=str(aside),
                        inductor_configs={"aot_inductor.metadata": {KEY: spec.to_json(**{**(about or {}), **facts})}},
                    )
            except InvalidCxxCompiler as error:
                raise UsageError(f"to: aoti needs a C++ compiler: {_first_line(error)}") from error
            except OSError:
                raise
            except Exception as error:  # of Inductor, of the compiler it calls
                raise ExportError(f"the network cannot be compiled: {_first_line(error)}") from error
            sync(aside)
            os.replace(aside, path)
            sync(path.parent)
    except OSError as error:
        raise failure(path, error) from error
    return {**facts, "bytes": path.stat().st_size, "seconds_to_compile": time.perf_counter() - start}


def why_not() -> str | None:
    """Why networks cannot be compiled here, or None."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        return f"{_first_line(error)}; install g++ or clang, or name one in the environment variable CXX"
    return None


class Package:
    """A network out of a .pt2 file. spec: what it takes and gives; about: facts beside it; device: where it runs."""

    def __init__(self, call: Any, spec: Spec, about: dict[str, Any]):
        self._call = call
        self.spec, self.about = spec, about
        self.device = torch.device(about["device"])

    def __call__(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """float32 on self.device, latents [N, *latent_shape] or images [N, C, H, W], and where there are classes labels
        y int64 [N] → images. Raises UsageError."""
        # Native code looks at sizes only; of anything else it would read what is not there.
        spec = self.spec
        if spec.kind == "latent":
            wanted = f"[N, {', '.join(map(str, spec.latent_shape))}]"
            fits = x.dim() >= 1 and tuple(x.shape[1:]) == spec.latent_shape
        else:
            wanted = f"[N, {spec.channels}, H, W]"
            if spec.multiple > 1:
                wanted += f" with H and W multiples of {spec.multiple}"
            fits = x.dim() == 4 and x.shape[1] == spec.channels
            fits = fits and not any(n % spec.multiple for n in x.shape[2:])
        if not fits or 0 in x.shape or x.dtype != torch.float32 or x.device.type != self.device.type:
            got = f"{list(x.shape)}, {str(x.dtype).removeprefix('torch.')} on {x.device}"
            raise UsageError(f"x: expected {wanted}, float32 on {self.device}, got {got}")
        if (y is not None) != bool(spec.classes):
            raise UsageError(f"y: expected labels of {spec.classes} classes, got {'none' if y is None else 'some'}")
        if y is None:
            return self._call(x.contiguous())
        labels.check(y, len(x), spec.classes)
        return self._call(x.contiguous(), y.contiguous())


def load(path: Path) -> Package:
    """Open a file that `write` wrote. This runs native code out of it: open only files that you trust.

    Raises UsageError where there is no such file, ExportError for another kind of file or one for another machine.
    """
    spec, about = _read(path)
    device = torch.device(about.get("device", "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ExportError(f"model: {path} was compiled for a GPU ({about.get('machine')}), there is none here")
    compiled, here = str(about.get("machine")), _machine(device)
    known = compiled in _SETS and here in _SETS
    if _SETS.index(compiled) > _SETS.index(here) if known else compiled != here:
        raise ExportError(f"model: {path} was compiled for {compiled}, this machine has {here}; export it again here")
    from torch._inductor import aoti_load_package

    try:
        call = aoti_load_package(str(path))
    except Exception as error:  # what the loader of shared objects raises, and torch's own
        made = "" if about.get("torch") == torch.__version__ else f" (PyTorch {about.get('torch')} compiled it)"
        raise ExportError(f"model: {path} cannot be opened{made}: {_first_line(error)}") from error
    return Package(call, spec, about)


def _read(path: Path) -> tuple[Spec, dict[str, Any]]:
    """What a file says of itself, without running any of it."""
    if not path.is_file():
        raise UsageError(f"model: {path} is not a file")
    try:
        with zipfile.ZipFile(path) as file:
            for name in file.namelist():
                if name.endswith("_metadata.json"):
                    entries = json.loads(file.read(name))
                    if isinstance(entries, dict) and KEY in entries:
                        return Spec.from_json(entries[KEY])
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise ExportError(f"model: {path} is no package of PyTorch's compiler, or is damaged: {error}") from error
    raise ExportError(f"model: {path} was not written by fastgan export (its metadata is missing)")


def _sample(spec: Spec, device: torch.device) -> tuple[Tensor, ...]:
    # No two sizes alike and none 1, which tracing would take for one another.
    shape = (2, *spec.latent_shape)
    if spec.kind == "image":
        shape = (2, spec.channels, 24 * spec.multiple, 36 * spec.multiple)
    x = torch.rand(shape, device=device)
    return (x, torch.arange(2, device=device) % spec.classes) if spec.classes else (x,)


def _dynamic(spec: Spec) -> tuple[dict[int, Any], ...]:
    Dim = torch.export.Dim
    sizes: dict[int, Any] = {0: Dim.DYNAMIC}
    if spec.kind == "image":
        for axis, name in ((2, "height"), (3, "width")):
            sizes[axis] = Dim.DYNAMIC if spec.multiple == 1 else spec.multiple * Dim(f"{name}_units", min=1)
    return sizes, *({0: Dim.DYNAMIC} for _ in spec.inputs[1:])


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        if not torch.cuda.is_available():
            return "no GPU"
        return "compute capability {}.{}".format(*torch.cuda.get_device_capability(device))
    return torch.backends.cpu.get_cpu_capability()


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
