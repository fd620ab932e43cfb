"""Machine code loaded and launched through the CUDA driver (libcuda), for kernels that NVRTC compiled."""

from __future__ import annotations

import ctypes
import functools

_MAX_DYNAMIC_SHARED = 8  # CUfunction_attribute


@functools.cache
def library() -> ctypes.CDLL:
    """libcuda, initialized. Raises RuntimeError with the reason if there is no driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise RuntimeError(f"there is no CUDA driver: {error}") from None
    _check(driver, driver.cuInit(0), "cuInit")
    return driver


class Module:
    """The kernels of a cubin on one device. Loading it creates the device's primary context, which PyTorch uses too."""

    def __init__(self, code: bytes, device: int) -> None:
        """device: its index among the visible ones. Raises RuntimeError with the driver's reason."""
        self._driver = library()
        self._context, self._module = ctypes.c_void_p(), ctypes.c_void_p()
        self._functions: dict[str, ctypes.c_void_p] = {}
        handle = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(handle), device)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), handle)
        with self:
            self._call("cuModuleLoadData", ctypes.byref(self._module), code)

    def prepare(self, name: str, shared: int) -> None:
        """Allow a kernel that many bytes of dynamic shared memory. Raises RuntimeError, also if there is no kernel."""
        function = ctypes.c_void_p()
        with self:
            self._call("cuModuleGetFunction", ctypes.byref(function), self._module, name.encode())
            self._call("cuFuncSetAttribute", function, _MAX_DYNAMIC_SHARED, shared)
        self._functions[name] = function

    def launch(
        self, name: str, grid: int, block: int, shared: int, cooperative: bool, stream: int, argument: bytes
    ) -> None:
        """Launch a prepared kernel with the bytes of its structure. Raises RuntimeError."""
        structure = ctypes.c_char_p(argument)  # points into the bytes, which live during the call
        sizes = grid, 1, 1, block, 1, 1, shared
        where = self._functions[name], *sizes, ctypes.c_void_p(stream), ctypes.byref(structure)
        with self:
            if cooperative:
                self._call("cuLaunchCooperativeKernel", *where)
            else:
                self._call("cuLaunchKernel", *where, None)

    def __enter__(self) -> None:
        self._call("cuCtxPushCurrent_v2", self._context)

    def __exit__(self, *_: object) -> None:
        self._call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))

    def _call(self, name: str, *arguments: object) -> None:
        _check(self._driver, getattr(self._driver, name)(*arguments), name)


def _check(driver: ctypes.CDLL, status: int, name: str) -> None:
    if status:
        text = ctypes.c_char_p()
        driver.cuGetErrorString(status, ctypes.byref(text))
        raise RuntimeError(f"{name}: {(text.value or b'unknown error').decode()}")
