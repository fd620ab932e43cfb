"""The CUDA C++ kernels on the CPU, for tests: tests/emulation/cuda_emulation.h runs their threads as coroutines."""

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

from fastgan.ops import _cuda
from fastgan.ops.spectral_norm import cuda as spectral_norm

TESTS = Path(__file__).parent
DEVICE_CODE = TESTS.parent / "csrc" / "cuda"


def compiler():
    """The path of a C++ compiler, or None."""
    return shutil.which(os.environ.get("CXX", "c++"))


@functools.cache
def library(name="kernels"):
    """tests/emulation/NAME.cpp as a shared library. It is kept between runs, by a hash of its sources."""
    sources = [*sorted((TESTS / "emulation").iterdir()), *sorted(DEVICE_CODE.glob("*.cuh"))]
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"fastgan-emulated-{os.getuid()}-{name}-{digest}.so"
    if not path.exists():
        part = path.with_suffix(f".{os.getpid()}")
        options = ["-std=c++17", "-O1", "-shared", "-fPIC", f"-I{DEVICE_CODE}"]
        source = TESTS / "emulation" / f"{name}.cpp"
        subprocess.run([compiler(), *options, str(source), "-o", str(part)], check=True)
        part.rename(path)
    return ctypes.CDLL(str(path))


@functools.cache
def kernels(name="kernels"):
    """The library of that name, with its function `emulate`."""
    loaded = library(name)
    loaded.emulate.restype = ctypes.c_char_p
    loaded.emulate.argtypes = [ctypes.c_char_p, ctypes.c_char_p, *[ctypes.c_int] * 2, ctypes.c_size_t, ctypes.c_uint]
    return loaded


class EmulatedKernels:
    """In the place of _cuda.Kernels. order: of the threads, an Order of cuda_emulation.h."""

    def __init__(self, multiprocessors=3, shared=64 << 10, order=0):
        self.multiprocessors, self.shared, self.order = multiprocessors, shared, order
        self.launches = []

    def launch(self, name, grid, block, shared, cooperative, argument):
        self.launches.append((name, grid, shared))
        assert shared <= self.shared
        assert not cooperative or grid <= self.multiprocessors
        problem = kernels().emulate(name.encode(), argument, grid, block, shared, self.order)
        if problem:
            raise RuntimeError(f"{name}: {problem.decode()}")


class OneCounter:
    """In the place of _cuda.counters: all launches share one, as those of a stream do."""

    def __init__(self):
        self.memory = torch.zeros(1, dtype=torch.int32)

    def get(self, device):
        return self.memory.data_ptr()


def install(monkeypatch, kernels):
    """Replace the GPU by emulated kernels, with two warps in a block. Returns them."""
    monkeypatch.setattr(_cuda, "kernels", lambda family, device: kernels)
    monkeypatch.setattr(_cuda, "why_not", lambda family, x, dtypes: None)
    monkeypatch.setattr(_cuda, "counters", OneCounter())
    monkeypatch.setattr(spectral_norm, "THREADS", 64)
    return kernels
