"""Free memory of the host, and the check before memory is taken for what a file claims. Does not import torch."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from fastgan._util.files import amount
from fastgan.errors import DataError

#: Bytes that a byte compressed by deflate can become: RFC 1951, 258 for 2 bits.
DEFLATE = 1032
#: Bytes that are there anyway: asking takes as long as decoding a small image.
_LITTLE = 1 << 20
#: Pixels that a byte of an image file can hold, by its format. PNG: of 1 bit. JPEG: a block of 64 takes at least a bit.
_PIXELS = {"PNG": 8 * DEFLATE, "JPEG": 8 * 64}


def free_host_memory() -> int:
    """Bytes available to this process; at most the limits of its container (cgroup) and of itself (ulimit -v)."""
    return int(min(_available(Path("/proc/meminfo")), _limit(Path("/sys/fs/cgroup/memory.max")), _own_limit()))


def peak_host_memory() -> int:
    """Most bytes of the host's memory that this process has taken so far; 0 on systems that do not say."""
    with contextlib.suppress(ImportError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak
    return 0


def require_memory(needed: int, what: str) -> None:
    """Raise DataError if `what` takes more than the free memory: before it is allocated. needed: bytes."""
    if needed > _LITTLE and needed > (free := free_host_memory()):
        raise DataError(f"{what} takes {amount(needed)} of memory, and {amount(free)} are free")


def can_hold(size: int, kind: str | None, pixels: int) -> bool:
    """Whether an image file of `size` bytes may have so many pixels, or its header cannot be true. kind: of Pillow."""
    return pixels <= size * _PIXELS.get(kind or "", pixels)


def _available(meminfo: Path) -> int:
    try:
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return 1024 * int(fields["MemAvailable"].split()[0])
    except (OSError, LookupError, ValueError):  # no Linux, or one from before 2014
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _limit(cgroup: Path) -> float:
    """The memory limit of the container, which may be below the available memory of the host."""
    try:
        return int(cgroup.read_text())
    except (OSError, ValueError):  # none, or "max"
        return float("inf")


def _own_limit() -> float:
    """What the limit on this process's address space leaves."""
    with contextlib.suppress(ImportError, OSError, ValueError, LookupError):  # systems without one
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            return max(0, limit - resource.getpagesize() * int(Path("/proc/self/statm").read_text().split()[0]))
    return float("inf")
