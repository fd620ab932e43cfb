"""Free memory of the host. Does not import torch."""

from __future__ import annotations

import os
from pathlib import Path


def free_host_memory() -> int:
    """Bytes available to this process; in a container, at most its cgroup limit."""
    return int(min(_available(Path("/proc/meminfo")), _limit(Path("/sys/fs/cgroup/memory.max"))))


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
