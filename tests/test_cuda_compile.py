"""The CUDA C++ sources compile for every supported GPU, without a GPU: by default for sm_90, in the full run for all.

The machine code is inspected: no kernel spills registers, and wide loads and stores are where they are meant.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fastgan._util import nvrtc
from fastgan.ops import _cuda
from fastgan.ops.spectral_norm import cuda as spectral_norm

ROOT = Path(__file__).parents[1]
ARCHITECTURES = [pytest.param(arch, marks=[] if arch == "90a" else pytest.mark.full) for arch in ("80", "90a", "100")]
REGISTERS = 65536  # of a multiprocessor
RESERVED = 1024  # bytes of shared memory that CUDA reserves from sm_90 on
WIDE = {
    "check_gradients_float": ["LDG.E.128"],
    "check_gradients_double": ["LDG.E.128"],
    "adam_ema_float": ["LDG.E.128", "STG.E.128"],
    "adam_ema_double": ["LDG.E.128", "STG.E.128"],
    "power_iteration_float": ["LDGSTS.E.BYPASS.128"],
    "power_iteration_double": ["LDGSTS.E.BYPASS.128"],
    "spectral_scale_float": ["LDG.E.128", "STG.E.128"],
    "spectral_scale_double": ["LDG.E.128", "STG.E.128"],
    "spectral_scale_grad_float": ["LDGSTS.E.BYPASS.128", "LDG.E.128", "STG.E.128"],
    "spectral_scale_grad_double": ["LDGSTS.E.BYPASS.128", "LDG.E.128", "STG.E.128"],
}


def nvcc():
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    return shutil.which("nvcc") or shutil.which("nvcc", path=f"{home}/bin")


def cuobjdump():
    found = shutil.which("cuobjdump")
    if found is None:
        triton = pytest.importorskip("triton", reason="no cuobjdump: neither CUDA's nor Triton's")
        found = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return str(found)


def dump(option, path):
    return subprocess.check_output([cuobjdump(), option, str(path)], text=True)


def inspect(cubin, family):
    usage = dump("--dump-resource-usage", cubin)
    code = {part.split("\n", 1)[0].strip(): part for part in dump("-sass", cubin).split("Function :")[1:]}
    for name in _cuda.KERNELS[family]:
        line = re.search(rf"Function {name}:\s*(.*)", usage)[1]
        numbers = {key: int(number) for key, number in re.findall(r"(\w+):(\d+)", line)}
        assert numbers["STACK"] == numbers["LOCAL"] == 0, (name, line)
        assert numbers["SHARED"] <= RESERVED, (name, line)
        alone = name.startswith("spectral_scale_") and "grad" not in name
        threads = spectral_norm.SCALE_THREADS if alone else spectral_norm.THREADS
        assert numbers["REG"] * threads <= REGISTERS, (name, line)
        for instruction in WIDE[name]:
            assert instruction in code[name], (name, instruction)


@pytest.mark.skipif(nvcc() is None, reason="nvcc is not installed")
@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("source", sorted((ROOT / "csrc" / "cuda").glob("*.cu")), ids=lambda path: path.stem)
def test_nvcc_compiles_the_kernels_without_spills(source, arch, tmp_path):
    path = tmp_path / "kernels.cubin"
    options = ["-O3", "-std=c++17", f"-I{ROOT / 'csrc' / 'include'}", f"-gencode=arch=compute_{arch},code=sm_{arch}"]
    done = subprocess.run(
        [nvcc(), *options, "-cubin", str(source), "-o", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    if source.stem in _cuda.KERNELS:
        inspect(path, source.stem)


def test_every_family_of_kernels_is_known():
    stems = {path.stem for path in (ROOT / "csrc" / "cuda").glob("*.cu")}
    assert set(_cuda.KERNELS) == {name.removesuffix(".cuh") for name in nvrtc.device_sources()} & stems


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("family", _cuda.KERNELS)
def test_nvrtc_compiles_the_kernels_without_spills(family, arch, tmp_path):
    try:
        nvrtc.library()
    except RuntimeError as error:
        pytest.skip(str(error))
    path = tmp_path / "kernels.cubin"
    path.write_bytes(nvrtc.compiled(f"{family}.cuh", nvrtc.device_sources(), int(arch.strip("a"))))
    inspect(path, family)
