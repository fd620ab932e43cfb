"""Calls of the CUDA driver, received by a stand-in for libcuda (tests/emulation/driver.cpp)."""

import ctypes

import emulated
import pytest

from fastgan._util import cuda_driver


@pytest.fixture
def driver(monkeypatch):
    if not emulated.compiler():
        pytest.skip("no C++ compiler here")
    library = emulated.library("driver")
    library.last_launch.restype = ctypes.c_char_p
    library.last_structure.restype = ctypes.POINTER(ctypes.c_ubyte * 16)
    monkeypatch.setattr(cuda_driver.ctypes, "CDLL", lambda name: library)
    cuda_driver.library.cache_clear()
    yield library
    cuda_driver.library.cache_clear()


@pytest.mark.parametrize("cooperative", [False, True])
def test_a_launch_gets_its_sizes_stream_and_structure(driver, cooperative):
    module = cuda_driver.Module(b"code", 1)
    module.prepare("kernel", 1000)
    structure = bytes(range(16))
    stream = 0x123456789AB
    module.launch("kernel", 7, 64, 96, cooperative, stream, structure)
    kind = b"cooperative" if cooperative else b"usual"
    assert driver.last_launch() == kind + b" 1 7,1,1 64,1,1 96 0x123456789ab"
    assert bytes(driver.last_structure().contents) == structure
    assert driver.contexts() == 0


def test_errors_have_the_drivers_reason_and_restore_the_context(driver):
    module = cuda_driver.Module(b"code", 1)
    with pytest.raises(RuntimeError, match="cuModuleGetFunction: not found"):
        module.prepare("another", 10)
    module.prepare("kernel", 10)
    with pytest.raises(RuntimeError, match="cuLaunchCooperativeKernel: too many blocks"):
        module.launch("kernel", 1, 2048, 0, True, 0, bytes(16))
    with pytest.raises(RuntimeError, match="cuModuleLoadData"):
        cuda_driver.Module(b"other", 1)
    with pytest.raises(RuntimeError, match="cuDeviceGet"):
        cuda_driver.Module(b"code", 5)
    assert driver.contexts() == 0


def test_a_missing_driver_has_a_reason(monkeypatch):
    def not_found(name):
        raise OSError("not found")

    monkeypatch.setattr(cuda_driver.ctypes, "CDLL", not_found)
    cuda_driver.library.cache_clear()
    with pytest.raises(RuntimeError, match="there is no CUDA driver: not found"):
        cuda_driver.library()
