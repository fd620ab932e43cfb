"""If a compiler works, the C++ kernels must have been built: otherwise their tests would be skipped silently."""

import os
import shlex
import subprocess

import pytest

from fastgan._util import native


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
