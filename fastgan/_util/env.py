"""Every environment variable that fastgan reads at run time. Nothing else in the package reads the environment.

(`setup.py` reads FASTGAN_CUDA, FASTGAN_CUDA_ARCHS and CUDA_HOME while building; it cannot import the package.)
"""

from __future__ import annotations

import os
from pathlib import Path

from fastgan.errors import UsageError

VARIABLES = {
    "FASTGAN_BACKEND": (
        "",
        "force one back-end for every op: reference, cpp, cuda, triton (debugging; raises if it cannot run)",
    ),
    "FASTGAN_CACHE": (
        "",
        "data sets, networks, compiled kernels and autotune measurements"
        " (default: $XDG_CACHE_HOME/fastgan or ~/.cache/fastgan)",
    ),
    "FASTGAN_DEBUG": ("", "1 shows tracebacks, like --debug"),
    "LOCAL_RANK": ("0", "rank of the process within its host, and so its GPU (set by torchrun)"),
    "MASTER_ADDR": ("", "host of the rendezvous (set by torchrun, read by torch.distributed)"),
    "MASTER_PORT": ("", "port of the rendezvous (set by torchrun, read by torch.distributed)"),
    "RANK": ("0", "rank of the process (set by torchrun)"),
    "TRITON_INTERPRET": ("", "1 runs Triton kernels through its interpreter, on any device (read by Triton itself)"),
    "WORLD_SIZE": ("1", "number of processes (set by torchrun)"),
    "XDG_CACHE_HOME": ("", "the user's cache directory"),
}


def read(name: str) -> str:
    """The value of one of VARIABLES, or its default. A name that is not listed is a programming error."""
    default, _ = VARIABLES[name]
    return os.environ.get(name, default)


def flag(name: str) -> bool:
    """Whether a variable is set to something other than 0 or the empty string."""
    return read(name) not in ("", "0")


def cache_dir() -> Path:
    """The directory for fetched data and networks, compiled kernels and measurements. It need not exist yet.

    Raises UsageError where nothing says where it is.
    """
    if own := read("FASTGAN_CACHE"):
        return Path(own)
    base = read("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "fastgan"
    except RuntimeError as error:  # no HOME, and no entry in the list of users
        raise UsageError(
            "there is no home directory for the cache: set FASTGAN_CACHE to a directory that may be written"
        ) from error


def user_path(text: str | Path) -> Path:
    """A path that a user gave, with ~ as the home directory, where there is one."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)
