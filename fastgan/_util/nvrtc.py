"""CUDA C++ compiled at run time, by the NVRTC that comes with PyTorch's CUDA wheels. Compiled code is kept in files.

NVRTC and the driver are called through ctypes: a dozen C functions that have not changed for years, while a Python
binding would be one more dependency whose version has to fit the CUDA version of the installed PyTorch.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from fastgan._util import cache, env
from fastgan._util.locks import locked
from fastgan.errors import UsageError

_PACKAGE = Path(__file__).parents[1]
_OPTIONS = ("-std=c++17",)


def device_sources() -> dict[str, str]:
    """The device code of all kernels: the text of each .cuh file by its name."""
    packaged, checkout = _PACKAGE / "cuda_sources", _PACKAGE.parent / "csrc" / "cuda"
    folder = packaged if packaged.is_dir() else checkout
    return {path.name: path.read_text() for path in sorted(folder.glob("*.cuh"))}


@functools.cache
def library() -> ctypes.CDLL:
    """libnvrtc. Raises RuntimeError with the reason if it is not found."""
    reasons = []
    for name in _candidates():
        try:
            return ctypes.CDLL(str(name))
        except OSError as error:
            reasons.append(str(error))
    found = f" ({reasons[0]})" if reasons else ""
    raise RuntimeError(f"libnvrtc was not found{found}; PyTorch's CUDA wheels bring it (nvidia-cuda-nvrtc)")


def _candidates() -> Iterator[Path | str]:
    """Files of libnvrtc, those of Python packages first, which fit the installed PyTorch."""
    for package, pattern in (("nvidia", "*/lib"), ("torch", "lib")):
        spec = importlib.util.find_spec(package)
        for root in (spec.submodule_search_locations or []) if spec else []:
            for folder in sorted(Path(root).glob(pattern), reverse=True):
                yield from (path for path in sorted(folder.glob("libnvrtc*.so*")) if "builtins" not in path.name)
    yield from ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so")


def version() -> tuple[int, int]:
    """The version of NVRTC. Raises RuntimeError."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    return major.value, minor.value


def architecture(major: int, minor: int) -> int:
    """The architecture (90 for sm_90) for a GPU of that compute capability: the newest that NVRTC knows and it runs.

    Raises RuntimeError if NVRTC knows none.
    """
    count = ctypes.c_int()
    _check(library().nvrtcGetNumSupportedArchs(ctypes.byref(count)))
    known = (ctypes.c_int * count.value)()
    _check(library().nvrtcGetSupportedArchs(known))
    fitting = [arch for arch in known if arch // 10 == major and arch % 10 <= minor]
    if not fitting:
        release = ".".join(map(str, version()))
        raise RuntimeError(f"NVRTC {release} compiles nothing for compute capability {major}.{minor}")
    return max(fitting)


def cubin(name: str, arch: int) -> bytes:
    """Machine code of csrc/cuda/NAME.cuh for an architecture: read from the cache, or compiled and stored there.

    The entry is bound to all that the code depends on, so that nothing stale or damaged is read. Of several processes
    one compiles. Raises RuntimeError with NVRTC's messages.
    """
    sources = device_sources()
    text = [*_OPTIONS, str(version()), *(part for item in sources.items() for part in item)]
    digest = hashlib.sha256("\0".join(text).encode()).hexdigest()
    code = None
    try:
        path = env.cache_dir() / "cuda" / f"{name}-sm_{arch}-{digest[:16]}.cubin"
        with contextlib.suppress(OSError, ValueError):
            return cache.load(path, digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_suffix(".lock")):
            with contextlib.suppress(OSError, ValueError):
                return cache.load(path, digest)
            code = compiled(f"{name}.cuh", sources, arch)
            cache.store(path, digest, code)
    except (UsageError, OSError) as error:
        warnings.warn(f"{name} is compiled again in the next process: {error}", RuntimeWarning, stacklevel=2)
    return code or compiled(f"{name}.cuh", sources, arch)


def compiled(name: str, sources: Mapping[str, str], arch: int) -> bytes:
    """Machine code of one of the sources, which may include the others. Raises RuntimeError with NVRTC's messages."""
    nvrtc = library()
    headers = [key for key in sources if key != name]
    program = ctypes.c_void_p()
    included = len(headers), _strings(sources[key] for key in headers), _strings(headers)
    _check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), sources[name].encode(), name.encode(), *included))
    try:
        options = [f"--gpu-architecture=sm_{arch}", *_OPTIONS]
        status = nvrtc.nvrtcCompileProgram(program, len(options), _strings(options))
        if status:
            messages = _output(program, "ProgramLog").rstrip(b"\0").decode(errors="replace").strip()
            raise RuntimeError(f"NVRTC does not compile {name} for sm_{arch}: {messages or _reason(status)}")
        return _output(program, "CUBIN")
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _output(program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _check(getattr(library(), f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check(getattr(library(), f"nvrtcGet{what}")(program, buffer))
    return buffer.raw


def _strings(texts: Iterable[str]) -> ctypes.Array[ctypes.c_char_p]:
    encoded = [text.encode() for text in texts]
    return (ctypes.c_char_p * len(encoded))(*encoded)


def _check(status: int) -> None:
    if status:
        raise RuntimeError(f"NVRTC: {_reason(status)}")


def _reason(status: int) -> str:
    function = library().nvrtcGetErrorString
    function.restype = ctypes.c_char_p
    return function(status).decode()
