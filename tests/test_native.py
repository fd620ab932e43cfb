"""If a compiler works, the C++ kernels must have been built: otherwise their tests would be skipped silently."""

import os
import shlex
import subprocess

import pytest

from fastgan._util import native
from fastgan.ops import _cuda
from fastgan.ops.spectral_norm import cuda


def compiler_works():
    command = shlex.split(os.environ.get("CXX") or os.environ.get("CC") or "c++")
    source = "#include <Python.h>\nint main() { return 0; }\n"
    include = subprocess.run(
        ["python3-config", "--includes"], capture_output=True, text=True, check=False
    ).stdout.split()
    try:
        options = [*include, "-x", "c++", "-fsyntax-only", "-"]
        return subprocess.run([*command, *options], input=source, text=True, capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.mark.skipif(not compiler_works(), reason="no working C++ compiler here")
def test_the_cpp_kernels_were_built():
    assert native.why_not("_cpu") is None
    assert native.cpu().threaded()
    assert native.cpu().instruction_set()


def test_a_missing_module_has_a_reason(monkeypatch):
    native._load.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "fastgan._cpu", None)
    try:
        assert "was not built: no working compiler was found" in native.why_not("_cpu")
        with pytest.raises(RuntimeError, match=r"fastgan\._cpu was not built"):
            native.cpu()
    finally:
        native._load.cache_clear()


@pytest.mark.skipif(native.why_not("_cuda") is not None, reason="fastgan._cuda was not built")
def test_the_cuda_module_has_all_kernels_and_checks_their_structures():
    """Needs no GPU: the arguments are checked first."""
    launch = native.cuda().launch
    with pytest.raises(RuntimeError, match="no CUDA kernel is named nothing"):
        launch("nothing", 0, 1, 32, 0, False, 0, b"")
    size = 3 * 8 * cuda.MAX_LAYERS + cuda.MAX_LAYERS * cuda._LAYER.size + cuda._REST.size
    for name in _cuda.KERNELS[cuda.FAMILY]:
        with pytest.raises(RuntimeError, match=f"{name} takes a structure of {size} bytes, got 1"):
            launch(name, 0, 1, 32, 0, False, 0, b"x")
