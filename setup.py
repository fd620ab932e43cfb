"""Builds the native parts. Nothing here imports torch: one binary serves every PyTorch.

fastgan._cpu   always built; without a working compiler the package installs without it and runs on plain PyTorch
fastgan._cuda  built if nvcc is found; FASTGAN_CUDA=0 skips it, FASTGAN_CUDA=1 makes a failure an error
               FASTGAN_CUDA_ARCHS sets the architectures, by default "80;90a;100"
FASTGAN_BUILD_JOBS: how many files are compiled at once, by default one for each core
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import CompileError

CUDA_WANTED = os.environ.get("FASTGAN_CUDA", "auto")
CUDA_ARCHS = os.environ.get("FASTGAN_CUDA_ARCHS", "80;90a;100").split(";")


def find_nvcc() -> Path | None:
    """The path of nvcc: under CUDA_HOME, in PATH, or in its default location; None if it is not found."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    candidates = [Path(home) / "bin" / "nvcc" for home in homes if home]
    if found := shutil.which("nvcc"):
        candidates.append(Path(found))
    candidates.append(Path("/usr/local/cuda/bin/nvcc"))
    return next((path for path in candidates if path.is_file()), None)


def sources(*patterns: str) -> list[str]:
    """Sorted paths relative to this file, as setuptools requires."""
    return sorted(path.as_posix() for pattern in patterns for path in Path("csrc").glob(pattern))


class BuildPython(build_py):
    """Adds the device code as fastgan/cuda_sources: NVRTC compiles it where fastgan._cuda was not built."""

    def run(self):
        super().run()
        if not self.editable_mode:  # fastgan/_util/nvrtc.py then finds csrc/cuda
            target = Path(self.build_lib) / "fastgan" / "cuda_sources"
            target.mkdir(parents=True, exist_ok=True)
            for source in sources("cuda/*.cuh"):
                shutil.copy(source, target)


class BuildNative(build_ext):
    """Compiles .cu files by nvcc. Extensions are optional: if one does not compile, the package installs without it."""

    def build_extension(self, ext):
        if ext.name == "fastgan._cuda":
            try:
                self.compile_cuda(ext)
            except (OSError, subprocess.SubprocessError) as error:
                raise CompileError(str(error)) from error
        super().build_extension(ext)

    def compile_cuda(self, ext):
        nvcc = find_nvcc()
        if nvcc is None:
            raise CompileError("nvcc was not found (set CUDA_HOME)")
        objects = Path(self.build_temp) / "cuda"
        objects.mkdir(parents=True, exist_ok=True)
        flags = ["-O3", "-std=c++17", "-Icsrc/include", "-Xcompiler", "-fPIC,-fvisibility=hidden", "--cudart=static"]
        for arch in CUDA_ARCHS:
            flags.append(f"-gencode=arch=compute_{arch},code=sm_{arch}")
        # The driver compiles the PTX of the newest listed architecture for later GPUs.
        newest = CUDA_ARCHS[-1]
        flags.append(f"-gencode=arch=compute_{newest},code=compute_{newest}")
        for source in sources("cuda/*.cu"):
            target = objects / (Path(source).stem + ".o")
            subprocess.run([str(nvcc), *flags, "-c", source, "-o", str(target)], check=True)
            ext.extra_objects.append(str(target))
        # Links are resolved: the static runtime is next to the compiler that it belongs to.
        home = nvcc.resolve().parent.parent
        roots = [home, Path("/usr/local/cuda")]
        static = next((p for root in roots for p in root.glob("**/libcudart_static.a")), None)
        if static is None:
            raise CompileError(f"libcudart_static.a was not found below {home}")
        ext.extra_objects.append(str(static))
        headers = next((p.parent for root in roots for p in root.glob("**/cuda_runtime_api.h")), None)
        if headers is not None:
            ext.include_dirs.append(str(headers))


# A change of these causes a rebuild, and source distributions contain them.
HEADERS = sources("include/fastgan/*.h", "cuda/*.cuh")
# Without -fno-trapping-math GCC 12 does not vectorize the AVX2 clones, since a select might hide a trap: 10 to 20 times
# slower.
VECTOR = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]
OPTIMIZE = VECTOR if sys.platform != "win32" else ["/O2"]
OPENMP = ["-fopenmp"] if sys.platform.startswith("linux") else []

extensions = [
    Pybind11Extension(
        "fastgan._cpu",
        ["csrc/bind_cpu.cpp", *sources("cpu/*.cpp")],
        include_dirs=["csrc/include"],
        depends=HEADERS,
        extra_compile_args=OPTIMIZE + OPENMP,
        extra_link_args=OPENMP,
        cxx_std=17,
        optional=True,
    )
]
if CUDA_WANTED != "0" and sys.platform.startswith("linux") and (find_nvcc() or CUDA_WANTED == "1"):
    extensions.append(
        Pybind11Extension(
            "fastgan._cuda",
            ["csrc/bind_cuda.cpp"],
            include_dirs=["csrc/include"],
            depends=[*HEADERS, *sources("cuda/*.cu")],
            libraries=["dl", "rt", "pthread"],
            cxx_std=17,
            optional=CUDA_WANTED != "1",
        )
    )

# One compiler for each core, or as many as FASTGAN_BUILD_JOBS says.
ParallelCompile("FASTGAN_BUILD_JOBS").install()
setup(ext_modules=extensions, cmdclass={"build_ext": BuildNative, "build_py": BuildPython})
