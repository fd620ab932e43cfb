"""The interface of an export target and its registration: a class in a file of this package with `@register`."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from fastgan._util.files import overwritable, write_whole
from fastgan._util.hashing import file_sha256
from fastgan.runtime.hardware import is_importable

if TYPE_CHECKING:
    from fastgan.export.prepare import Prepared


class Target(ABC):
    """A kind of file that networks are exported to.

    The class says what fastgan needs to know before a library is imported. A file of this package imports torch and its
    library inside functions only.
    """

    #: What users ask for: export(to=name), fastgan export --to name.
    name: ClassVar[str]
    #: One line for the command line's help.
    help: ClassVar[str]
    #: Suffixes that files of this kind usually have; empty for a folder.
    suffixes: ClassVar[tuple[str, ...]]
    #: Python packages without which nothing is written, and the command that installs them.
    packages: ClassVar[tuple[str, ...]]
    install: ClassVar[str]
    #: Names of the precisions that it supports.
    precisions: ClassVar[tuple[str, ...]]

    @abstractmethod
    def write(self, prepared: Prepared, path: Path, calibration: Iterable[np.ndarray] | None) -> dict[str, Any]:
        """Write a network to `path`, compare the file with the network, and return the report.

        calibration: for int8, batches float32 like the network's input. Raises ExportError for a file that differs.
        """

    def verified_file(self, out: Path) -> Path:
        """The path of the file that `write` writes and that the report is beside, for export(out=out)."""
        return out

    def check_out(self, out: Path, *, overwrite: bool) -> None:
        """Raise UsageError where `out` is no path for a result, or a file stands there that is no earlier export."""
        file = self.verified_file(out)
        for path in dict.fromkeys((out, file, report_path(file))):
            overwritable(path, overwrite, own=is_export(file))

    def publish(self, written: Path, out: Path, prepared: Prepared, report: dict[str, Any]) -> None:
        """Move the verified file `written` to its place, and write the report beside it (NAME.json)."""
        file = self.verified_file(out)
        report_path(file).unlink(missing_ok=True)  # an old report must not stand beside a new file
        report["sha256"] = file_sha256(written)
        os.replace(written, file)
        write_report(file, report)

    @classmethod
    def missing_package(cls) -> str | None:
        """The first missing package as a sentence, or None. Imports nothing."""
        name = next((name for name in cls.packages if not is_importable(name)), None)
        return None if name is None else f"{name} is not installed; install it with: {cls.install}"

    @classmethod
    def why_not(cls) -> str | None:
        """Why such files cannot be written here, or None; for `fastgan doctor`."""
        return cls.missing_package()

    @classmethod
    def status(cls) -> str:
        """One line for `fastgan doctor` where `why_not()` is None."""
        return "can be written"


_Class = TypeVar("_Class", bound=type[Target])
_registered: dict[str, type[Target]] = {}


def register(target: _Class) -> _Class:
    """Class decorator: makes a target known to export, the command line and the doctor."""
    other = _registered.get(target.name)
    if other is not None and other.__module__ != target.__module__:
        raise ValueError(f"export target {target.name!r} is registered twice: {other.__module__}, {target.__module__}")
    _registered[target.name] = target
    return target


def report_path(file: Path) -> Path:
    """NAME.json beside an exported file."""
    return file.parent / f"{file.name}.json"  # of ".", too, which no name can be put in the place of


def is_export(file: Path) -> bool:
    """Whether `file` is an earlier export, or was: the report beside it names it and the version of fastgan."""
    try:
        report = json.loads(report_path(file).read_bytes())
        return "fastgan" in report and report["file"] == file.name
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False


def write_report(file: Path, report: dict[str, Any]) -> None:
    """Write the report beside an exported file, whole or not at all."""
    write_whole(report_path(file), json.dumps(report, indent=1).encode())


def tracing_failure(error: BaseException) -> str:
    """One line from an error of PyTorch's exporters: of its cause, if the error is a wrapper."""
    while error.__cause__ is not None and type(error).__module__.startswith("torch.onnx"):
        error = error.__cause__
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if any("marked batch as dynamic but your code specialized it" in line for line in lines):
        return (
            "it fixes the batch size while it runs, as a convolution with a group for each sample does; use the form"
            " without such groups (fused_modconv=False in StyleGAN)"
        )
    if lines[0].startswith("Constraints violated") and len(lines) > 1:
        return f"it works at some sizes only. {lines[1]}"
    return lines[0]
