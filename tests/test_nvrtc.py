"""Device code compiled at run time. NVRTC needs no GPU; it comes with PyTorch's CUDA wheels (nvidia-cuda-nvrtc)."""

import subprocess
import sys
from pathlib import Path

import pytest

from fastgan._util import nvrtc
from fastgan.ops import _cuda

ARCHITECTURES = [80, 90, 100]


def missing():
    try:
        nvrtc.library()
    except RuntimeError as error:
        return str(error)
    return ""


needs_nvrtc = pytest.mark.skipif(bool(missing()), reason=missing() or "NVRTC is here")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTGAN_CACHE", str(tmp_path))
    return tmp_path / "cuda"


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("family", _cuda.KERNELS)
def test_all_device_code_compiles_and_is_kept(cache, monkeypatch, family, arch):
    code = nvrtc.cubin(family, arch)
    assert code.startswith(b"\x7fELF")
    for name in _cuda.KERNELS[family]:
        assert f".text.{name}\0".encode() in code
    (file,) = cache.glob("*.cubin")
    with monkeypatch.context() as patch:
        patch.setattr(nvrtc, "compiled", None)
        assert nvrtc.cubin(family, arch) == code
    file.write_bytes(file.read_bytes()[:-9])  # damaged: compiled again
    monkeypatch.setattr(nvrtc, "compiled", lambda *given: code)
    assert nvrtc.cubin(family, arch) == code
    assert file.read_bytes().endswith(code)


@needs_nvrtc
def test_changed_sources_are_compiled_anew(cache, monkeypatch):
    sources = {"a.cuh": '#include "b.cuh"\nextern "C" __global__ void f(int* x) { *x = N; }', "b.cuh": "#define N 1"}
    monkeypatch.setattr(nvrtc, "device_sources", lambda: sources)
    first = nvrtc.cubin("a", 90)
    sources["b.cuh"] = "#define N 2"
    assert nvrtc.cubin("a", 90) != first
    assert len(list(cache.glob("*.cubin"))) == 2


@needs_nvrtc
def test_errors_name_the_line(cache):
    with pytest.raises(RuntimeError, match=r"NVRTC does not compile a\.cuh for sm_90: a\.cuh\(2\): error"):
        nvrtc.compiled("a.cuh", {"a.cuh": "\n__device__ int f() { return unknown; }"}, 90)
    assert not list(cache.glob("*.cubin"))


@needs_nvrtc
def test_an_older_architecture_of_the_same_generation_serves_a_newer_gpu(monkeypatch):
    assert nvrtc.architecture(9, 0) == 90
    assert nvrtc.architecture(8, 5) == 80
    with pytest.raises(RuntimeError, match=r"compiles nothing for compute capability 3\.5"):
        nvrtc.architecture(3, 5)


@needs_nvrtc
def test_two_processes_compile_once(cache, tmp_path):
    code = (
        "from fastgan._util import nvrtc\n"
        "original = nvrtc.compiled\n"
        "nvrtc.compiled = lambda *args: print('compiled') or original(*args)\n"
        "nvrtc.cubin('spectral_norm', 90)"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
        for _ in range(2)
    ]
    assert sorted(process.communicate(timeout=120)[0] for process in processes) == ["", "compiled\n"]


@needs_nvrtc
def test_a_cache_that_cannot_be_written_costs_a_warning(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FASTGAN_CACHE", str(tmp_path / "file"))
    with pytest.warns(RuntimeWarning, match="spectral_norm is compiled again in the next process"):
        assert nvrtc.cubin("spectral_norm", 90)


def test_a_missing_library_has_a_reason(monkeypatch):
    monkeypatch.setattr(nvrtc, "_candidates", lambda: iter(["libnvrtc-of-nobody.so"]))
    nvrtc.library.cache_clear()
    try:
        with pytest.raises(RuntimeError, match=r"libnvrtc was not found .*nvidia-cuda-nvrtc"):
            nvrtc.library()
    finally:
        nvrtc.library.cache_clear()
