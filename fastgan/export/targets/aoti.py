"""Packages (.pt2) of native code, compiled ahead of time by PyTorch's AOTInductor for the hardware of this computer."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastgan._util.files import aside_folder, failure, sync
from fastgan.errors import ExportError, UsageError, first_line
from fastgan.export.targets.base import Target, register, tracing_failure
from fastgan.runtime import labels
from fastgan.runtime.backends.aoti import hardware_name, load
from fastgan.runtime.spec import KEY, Spec

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from fastgan.export.prepare import Prepared


@register
class AOTInductor(Target):
    """A package for the CPU of this computer. `fastgan.runtime.Session` opens it."""

    name = "aoti"
    help = "PyTorch's ahead-of-time compiler: native code for this CPU (.pt2)"
    suffixes = (".pt2",)
    packages = ()
    install = ""
    precisions = ("fp32", "fp16", "bf16")

    def write(self, prepared: Prepared, path: Path, calibration: Iterable[np.ndarray] | None) -> dict[str, Any]:
        from fastgan.export.verify import measure_speed, tensors

        write(prepared.network, prepared.spec, path, prepared.facts)
        package = load(path)

        def run(*inputs: np.ndarray) -> np.ndarray:
            return package(*tensors(inputs)).numpy()

        compared = prepared.reference.compare(run)
        timed = {"runtime": {"provider": "AOTInductor", **measure_speed(run, prepared.spec)}}
        return {**prepared.facts, "bytes": path.stat().st_size, "verified_by": "AOTInductor", **compared, **timed}

    @classmethod
    def why_not(cls) -> str | None:
        return why_not()


def write(network: nn.Module, spec: Spec, path: Path, about: dict[str, Any] | None = None) -> dict[str, Any]:
    """Compile a network (eval mode) for the device it is on, and write it to `path` as one file.

    Batch and, for images and signals, height and width or length are dynamic. about: facts to store beside the spec.
    Returns PyTorch's version, device, hardware, bytes and seconds. Takes about a minute and needs a C++ compiler.
    Raises UsageError where there is none, ExportError for a network that cannot be traced, works at some sizes only or
    cannot be compiled, WriteError for `path`; then no file is left.
    """
    import torch
    import torch._inductor
    from torch._inductor.exc import InvalidCxxCompiler

    why = why_not()
    if why is not None:
        raise UsageError(f"to: aoti needs a C++ compiler: {why}")
    device = next((tensor.device for tensor in (*network.parameters(), *network.buffers())), torch.device("cpu"))
    facts = {"torch": torch.__version__, "device": device.type, "hardware": hardware_name(device)}
    start = time.perf_counter()
    try:
        program = torch.export.export(network, _sample(spec, device), dynamic_shapes=_dynamic(spec))
    except Exception as error:  # of many classes, torch's and Python's
        raise ExportError(f"the network cannot be exported: {tracing_failure(error)}") from error
    try:
        # The compiler requires a name that ends in .pt2, and writes in place.
        with aside_folder(path) as folder:
            temporary = folder / "model.pt2"
            try:
                with warnings.catch_warnings():
                    # PyTorch's warnings about its own code: torch.jit.script, a deprecated name in copyreg.
                    warnings.simplefilter("ignore")
                    torch._inductor.aoti_compile_and_package(
                        program,
                        package_path=str(temporary),
                        inductor_configs={"aot_inductor.metadata": {KEY: spec.to_json(**{**(about or {}), **facts})}},
                    )
            except InvalidCxxCompiler as error:
                raise UsageError(f"to: aoti needs a C++ compiler: {first_line(error)}") from error
            except OSError:
                raise
            except Exception as error:  # Inductor's, and of the compiler that it calls
                raise ExportError(f"the network cannot be compiled: {first_line(error)}") from error
            sync(temporary)
            os.replace(temporary, path)
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
        return f"{first_line(error)}; install g++ or clang, or name one in the environment variable CXX"
    return None


def _sample(spec: Spec, device: torch.device) -> tuple[Tensor, ...]:
    import torch

    # All sizes different and none 1: tracing specializes sizes of 1 and may identify equal sizes.
    shape: tuple[int, ...] = (2, *spec.latent_shape)
    if spec.sizes:
        units = (24, 36) if spec.multiple <= 8 else (2, 3)
        shape = (2, spec.channels, *(n * spec.multiple for n in units[: len(spec.sizes)]))
    return torch.rand(shape, device=device), *(torch.from_numpy(other).to(device) for other in labels.default(spec, 2))


def _dynamic(spec: Spec) -> tuple[dict[int, Any], ...]:
    import torch

    Dim = torch.export.Dim
    sizes: dict[int, Any] = {0: Dim.DYNAMIC}
    for axis, name in enumerate(spec.sizes, start=2):
        sizes[axis] = Dim.DYNAMIC if spec.multiple == 1 else spec.multiple * Dim(f"{name}_units", min=1)
    return sizes, *({0: Dim.DYNAMIC} for _ in spec.inputs[1:])
