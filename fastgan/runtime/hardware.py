"""The hardware and the installed packages: usable cores, CPU name and instruction sets, GPUs. No torch."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import math
import os
import platform
from pathlib import Path

#: Instruction sets that decide how fast a network runs: Linux's name and the usual one.
FEATURES = {
    "avx2": "AVX2",
    "fma": "FMA",
    "f16c": "F16C",
    "avx_vnni": "AVX-VNNI",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512_bf16": "AVX-512 BF16",
    "avx512_fp16": "AVX-512 FP16",
    "amx_int8": "AMX INT8",
    "amx_bf16": "AMX BF16",
    "asimd": "NEON",
    "asimddp": "dot product",
    "i8mm": "INT8 matrices",
    "bf16": "BF16",
    "sve": "SVE",
}


def usable_cores(root: Path = Path("/")) -> int:
    """The number of physical cores that this process may use.

    Counted from the process's CPU affinity, two hyper-threads of a core once, and limited by the CPU quota of the
    control groups (the container). root: the folder that holds proc and sys, for tests.
    """
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1
    siblings = {_text(root / f"sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list") or str(n) for n in allowed}
    quota = _quota(root)
    return max(1, min(len(siblings), math.ceil(quota) if quota else len(siblings)))


def _quota(root: Path) -> float | None:
    """The smallest CPU quota of the control groups around this process, in CPUs; None without a limit."""
    found = []
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            base, read = root / "sys/fs/cgroup", _quota_2
        elif "cpu" in controllers.split(","):
            base, read = root / "sys/fs/cgroup/cpu", _quota_1
        else:
            continue
        group = base / path.lstrip("/")
        # In a container, the group may be mounted as the root, or the path may not exist.
        for folder in [group, *group.parents]:
            if not folder.is_relative_to(base):
                break
            if quota := read(folder):
                found.append(quota)
    return min(found, default=None)


def _quota_2(folder: Path) -> float | None:
    words = (_text(folder / "cpu.max") or "").split()
    return int(words[0]) / int(words[1]) if len(words) == 2 and words[0] != "max" else None


def _quota_1(folder: Path) -> float | None:
    quota, period = (_text(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    return int(quota) / int(period) if quota and period and int(quota) > 0 else None


@functools.cache
def cpu_name() -> str:
    """The CPU's model name."""
    for line in (_text(Path("/proc/cpuinfo")) or "").splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@functools.cache
def cpu_features() -> tuple[str, ...]:
    """Those of FEATURES that the CPU has; empty where the system does not list them."""
    for line in (_text(Path("/proc/cpuinfo")) or "").splitlines():
        if line.startswith(("flags", "Features")):
            has = set(line.partition(":")[2].split())
            return tuple(name for flag, name in FEATURES.items() if flag in has)
    return ()


@functools.cache
def gpu_names() -> tuple[str, ...]:
    """Names of the NVIDIA GPUs with the driver's version, read from the driver's files; empty without a driver."""
    version = (_text(Path("/proc/driver/nvidia/version")) or "").partition("Kernel Module")[2].split()
    driver = next((word for word in version if word[0].isdigit()), "")
    names = []
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        model = next((line for line in (_text(path) or "").splitlines() if line.startswith("Model:")), "Model: NVIDIA")
        names.append(f"{model.partition(':')[2].strip()}, driver {driver}")
    return tuple(names)


def installed(package: str) -> str | None:
    """The version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def is_importable(package: str) -> bool:
    """Whether a package can be imported, found out without importing it."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # ValueError: sys.modules[package] is None
        return False


class PeakMemory:
    """The growth of this process's peak memory since the object was made. Linux only."""

    def __init__(self) -> None:
        try:
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak, see man 5 proc
            self._before = self._read("VmRSS")
        except OSError:
            self._before = None

    def growth(self) -> int | None:
        """Bytes, or None where the system does not tell."""
        peak = self._read("VmHWM")
        return None if self._before is None or peak is None else max(0, peak - self._before)

    @staticmethod
    def _read(name: str) -> int | None:
        for line in (_text(Path("/proc/self/status")) or "").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
        return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
