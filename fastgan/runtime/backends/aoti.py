"""Packages (.pt2) of PyTorch's ahead-of-time compiler AOTInductor, as `fastgan export --to aoti` writes them.

A package holds native code for one kind of hardware. Opening one runs that code: open only files that you trust.
"""

from __future__ import annotations

import lzma
import re
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastgan._util.files import amount
from fastgan._util.schema import LIMIT, Mismatch, read_json, table, text
from fastgan.errors import ExportError, UsageError, first_line
from fastgan.runtime import labels
from fastgan.runtime.backends.base import register
from fastgan.runtime.backends.torch import TensorBackend
from fastgan.runtime.spec import KEY, Spec

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def _device_name(value: Any, where: str) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"cpu|cuda(:\d{1,3})?", value):
        raise Mismatch(where, "cpu or cuda:N", value)
    return value


#: What a package states besides the spec.
_FACTS = table({"device": _device_name, "hardware": text(200), "machine": text(200), "torch": text(200)})
#: Instruction sets of x86 as torch.backends.cpu names them; code compiled for one runs on the later ones.
_X86_LEVELS = ("DEFAULT", "AVX2", "AVX512")


@register
class AOTInductor(TensorBackend):
    """A package, on the device that it was compiled for."""

    name = "aoti"
    suffixes = (".pt2",)
    native_code = True

    def __init__(self, path: Path, device: str, threads: int | None):
        import torch

        package = load(path)
        self._set_function(package, package.device, torch.float32, threads)
        self.stated = package.spec, package.facts
        self.title += ", AOTInductor"


class Package:
    """The network in a .pt2 file. spec: its inputs and outputs. facts: what export wrote beside the spec."""

    def __init__(self, call: Any, spec: Spec, facts: dict[str, Any]):
        import torch

        self._call = call
        self.spec, self.facts = spec, facts
        self.device = torch.device(facts.get("device", "cpu"))

    def __call__(self, x: Tensor, *others: Tensor) -> Tensor:
        """The spec's first input, float32 on self.device → images, signals or styles float32.

        others: labels int64 [N] of a conditional generator, or vectors float32, then controls float32. Raises
        UsageError for other shapes, dtypes and devices: the native code checks sizes only, and would read beyond the
        memory of other tensors.
        """
        import torch

        spec = self.spec
        if not spec.accepts(tuple(x.shape)) or x.dtype != torch.float32 or x.device.type != self.device.type:
            got = f"{list(x.shape)}, {str(x.dtype).removeprefix('torch.')} on {x.device}"
            raise UsageError(f"x: expected {spec.wanted}, float32 on {self.device}, got {got}")
        if len(others) != len(spec.inputs) - 1:
            wanted = f"labels of {spec.classes} classes" if spec.classes else "no labels"
            wanted += "".join(f" and {control.name}" for control in spec.controls)
            raise UsageError(f"y: expected {wanted}, got {len(others)} inputs after the first")
        given = [x]
        if spec.classes:
            y, *others = others  # type: ignore[assignment]
            labels.check(y, len(x), spec)
            one_hot = spec.label_vectors and y.dtype != torch.float32
            given.append(torch.nn.functional.one_hot(y, spec.classes).float() if one_hot else y)
        for control, value in zip(spec.controls, others, strict=True):
            control.check(value, len(x))
            given.append(value)
        return self._call(*(tensor.contiguous() for tensor in given))


def load(path: Path) -> Package:
    """Open a package; this runs native code from the file.

    Raises UsageError where there is no such file, ExportError for another kind of file or other hardware.
    """
    import torch

    spec, facts = _read_metadata(path)
    device = torch.device(facts.get("device", "cpu"))
    compiled = str(facts.get("hardware", facts.get("machine")))  # "machine" in older files
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ExportError(f"model: {path} was compiled for a GPU ({compiled}), there is none here")
    here = hardware_name(device)
    if compiled in _X86_LEVELS and here in _X86_LEVELS:
        fits = _X86_LEVELS.index(compiled) <= _X86_LEVELS.index(here)
    else:
        fits = compiled == here
    if not fits:
        raise ExportError(f"model: {path} was compiled for {compiled}, this computer has {here}; export it again here")
    from torch._inductor import aoti_load_package

    try:
        call = aoti_load_package(str(path))
    except Exception as error:  # torch's, and those of the loader of shared objects
        made = "" if facts.get("torch") == torch.__version__ else f" (PyTorch {facts.get('torch')} compiled it)"
        raise ExportError(f"model: {path} cannot be opened{made}: {first_line(error)}") from error
    return Package(call, spec, facts)


def hardware_name(device: torch.device) -> str:
    """What a package for this device depends on: the GPU's compute capability, or the CPU's instruction set."""
    import torch

    if device.type == "cuda":
        if not torch.cuda.is_available():
            return "no GPU"
        return "compute capability {}.{}".format(*torch.cuda.get_device_capability(device))
    return torch.backends.cpu.get_cpu_capability()


def _read_metadata(path: Path) -> tuple[Spec, dict[str, Any]]:
    """Spec and facts in a package, read without running its code."""
    if not path.is_file():
        raise UsageError(f"model: {path} is not a file")
    try:
        with zipfile.ZipFile(path) as file:
            for name in file.namelist():
                if name.endswith("_metadata.json"):
                    if file.getinfo(name).file_size > LIMIT:
                        raise ValueError(f"{name} is larger than {amount(LIMIT)}")
                    entries = read_json(file.read(name))
                    if isinstance(entries, dict) and isinstance(entries.get(KEY), str):
                        spec, facts = Spec.from_json(entries[KEY])
                        return spec, _FACTS(facts, KEY)
    except ExportError:
        raise
    # Of zipfile for damaged, encrypted and unknown members.
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, RuntimeError) as error:
        raise ExportError(
            f"model: {path} is no package of PyTorch's compiler, or is damaged: {first_line(error)}"
        ) from error
    raise ExportError(f"model: {path} was not written by fastgan export (its metadata is missing)")
