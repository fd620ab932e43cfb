"""`fastgan doctor`: which kernels, back-ends and export targets work here, what is missing and how to install it."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fastgan import __version__, ops
from fastgan._util import env, native, nvrtc
from fastgan.export import targets
from fastgan.ops import _autotune, _backend
from fastgan.ops._library import Op, registry
from fastgan.runtime import backends
from fastgan.runtime.hardware import cpu_features, cpu_name, installed, is_importable, usable_cores


def examine() -> str:
    """The findings as text."""
    parts = [_versions(), _processor(), _gpu(), _runtime(), _operations(), _environment()]
    return "\n\n".join(parts)


def _line(good: bool, text: str) -> str:
    return f"  {'✓' if good else '–'} {text}"


def _versions() -> str:
    needed = {name for target in targets.registry().values() for name in target.packages}
    names = sorted({"numpy", "safetensors", "triton", *needed})
    versions = {**{name: version for name in names if (version := installed(name))}, **backends.versions()}
    found = [f"{name} {version}" for name, version in sorted(versions.items()) if name != "torch"]
    return (
        f"fastgan {__version__}, Python {platform.python_version()}, torch {torch.__version__}, {platform.platform()}\n"
        f"  {', '.join(found)}"
    )


def _processor() -> str:
    lines = [f"CPU: {torch.get_num_threads()} threads"]
    reason = native.why_not("_cpu")
    if reason is None:
        kernels = native.cpu()
        threads = "with OpenMP" if kernels.threaded() else "single-threaded: it was built without OpenMP"
        lines.append(_line(True, f"C++ kernels, {kernels.instruction_set()}, {threads}"))
    else:
        lines.append(_line(False, reason))
        lines.append(
            "    everything works with plain PyTorch, but fused operations are slower (see benchmarks/results);\n"
            "    install g++ (Debian, Ubuntu: apt install g++ python3-dev) and run pip install --force-reinstall again"
        )
    return "\n".join(lines)


def _gpu() -> str:
    lines = ["GPU:"]
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for index in range(count):
        major, minor = torch.cuda.get_device_capability(index)
        lines.append(
            _line(True, f"cuda:{index} {torch.cuda.get_device_name(index)}, compute capability {major}.{minor}")
        )
    if not count:
        why = "this torch is built without CUDA" if torch.version.cuda is None else "torch finds no usable CUDA device"
        lines.append(_line(False, f"none: {why}"))
    if not is_importable("triton"):
        lines.append(_line(False, "triton is not installed: on a GPU the operations run on plain PyTorch"))
    else:
        lines.append(_line(True, f"triton {installed('triton')}" + ("" if count else ", unused without a GPU")))
    reason = native.why_not("_cuda")
    if reason is not None:
        return "\n".join([*lines, _line(False, reason), _nvrtc()])
    kernels = native.cuda()
    lines.append(_line(True, f"CUDA C++ part, runtime {_version(kernels.runtime_version())}"))
    for device in kernels.devices():
        problem = kernels.why_not(device.index)
        lines.append(_line(not problem, f"CUDA C++ kernels on {device.name}: {problem or 'run'}"))
    return "\n".join(lines)


def _nvrtc() -> str:
    """The line of the library that compiles the CUDA C++ kernels where fastgan._cuda is missing."""
    try:
        return _line(
            True, f"NVRTC {'.'.join(map(str, nvrtc.version()))} compiles the CUDA C++ kernels at their first call"
        )
    except RuntimeError as error:
        return _line(False, f"the CUDA C++ kernels cannot be compiled at run time: {error}")


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _runtime() -> str:
    features = ", ".join(cpu_features()) or "instruction sets unknown"
    lines = ["Runtime (back-ends of fastgan.Session):"]
    lines += [_status(name, backend.why_not("auto"), backend.status) for name, backend in backends.registry().items()]
    lines.append(_line(True, f"{usable_cores()} cores for a session: {cpu_name()} ({features})"))
    lines.append("Export (targets of fastgan export --to):")
    lines += [_status(name, target.why_not(), target.status) for name, target in targets.registry().items()]
    return "\n".join(lines)


def _status(name: str, reason: str | None, status: Callable[[], str]) -> str:
    """The line of a back-end or target; a library that is installed but fails to load is a finding, not an error."""
    try:
        return _line(reason is None, f"{name}: {status() if reason is None else reason}")
    except Exception as error:  # every library has exceptions of its own
        return _line(False, f"{name}: it is installed, but fails to load: {error}")


def _operations() -> str:
    forced = _backend.forced
    lines = [
        f"Operations (FASTGAN_BACKEND forces {forced}):"
        if forced
        else "Operations (the first kernel that can run on a float32 tensor):"
    ]
    for device in ("cpu", "cuda"):
        if device == "cuda" and not torch.cuda.is_available():
            continue
        for op in registry.values():
            arguments = _example(op, device)
            if forced:
                lines.append(f"  {op.name:25} on {device}: {_forced(op, arguments)}")
                continue
            reasons = [(kernel.name, kernel.why_not(*arguments)) for kernel in op.kernels]
            chosen = next((name for name, reason in reasons if reason is None), "reference")
            refused = "; ".join(f"{name}: {reason}" for name, reason in reasons if reason is not None)
            lines.append(f"  {op.name:25} on {device}: {chosen}" + (f" ({refused})" if refused else ""))
    return "\n".join(lines)


def _forced(op: Op, arguments: list[Any]) -> str:
    try:
        return op.select(*arguments).name
    except RuntimeError as error:
        return f"raises an error: {error}"


def _example(op: Op, device: str) -> list[Any]:
    """Small example arguments of an op, from its schema."""
    x = torch.zeros(1, 1, 1, 1, device=device)
    examples = {"Tensor": x, "Tensor?": None, "Tensor[]": [x], "int[]": [1], "str": "linear", "bool": False}
    found = []
    for argument in op.overload._schema.arguments:
        kind = str(argument.type).replace("List[Tensor]", "Tensor[]").replace("Optional[Tensor]", "Tensor?")
        kind = "int[]" if "List[int]" in kind or "List[SymInt]" in kind else kind
        found.append([1] * (getattr(argument, "N", None) or 1) if kind == "int[]" else examples.get(kind, 1))
    return found


def kernel_choices() -> str:
    """The kernels selected by measurement on the GPUs of this computer, as text."""
    parts = []
    for path in sorted(_autotune.directory().glob("*.json")):
        try:
            hardware, selections = _autotune.read(path)
        except (OSError, ValueError) as error:
            parts.append(_line(False, f"{path} cannot be read: {error}"))
            continue
        about = ", ".join(f"{name} {value}" for name, value in hardware.items() if name != "device")
        lines = [f"{hardware.get('device', path.stem)} ({about}):"]
        lines += [f"  {key} → {_described(selection)}" for key, selection in selections.items()]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) or (
        f"Nothing has been measured yet ({_autotune.directory()} is empty).\n"
        "  On a GPU, each new shape of a convolution in channels_last is measured at its first call:\n"
        "  run a few training steps of a network that uses conv2d_bias_act or conv2d_stack first."
    )


def write_tables(folder: Path) -> list[Path]:
    """Write what was measured on the GPUs of this computer into a folder, as the package ships it: a file for each GPU.

    Of several files of a GPU, the newest has the last word on a shape. Returns the files. Raises OSError or ValueError.
    """
    files = sorted(_autotune.directory().glob("*.json"), key=lambda path: path.stat().st_mtime)
    return sorted({_autotune.write_table(path, folder) for path in files})


def _described(selection: _autotune.Selection) -> str:
    took, library = selection.milliseconds[selection.name], selection.milliseconds[_autotune.LIBRARY]
    if selection.name != _autotune.LIBRARY:
        text = f"{selection.name} {took:.4f} ms, library {library:.4f} ms, {library / took:.2f}×"
    else:
        others = [ms for name, ms in selection.milliseconds.items() if name != _autotune.LIBRARY]
        text = f"library {library:.4f} ms" + (f", ours {min(others):.4f} ms" if others else "")
        text += f", {min(others) / library:.2f}×" if others else ""
    return text + "".join(f"; {name} cannot run: {reason}" for name, reason in selection.unavailable.items())


def _environment() -> str:
    lines = ["Environment:"]
    for name, (_, about) in env.VARIABLES.items():
        value = env.read(name)
        lines.append(f"  {name}={value or '(unset)'}: {about}")
    return "\n".join(lines)


# Importing fastgan.ops fills the registry of operations.
assert ops.__all__
