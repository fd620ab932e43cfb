"""How much of the machine's memory is free. No torch: the runtime asks too."""

from __future__ import annotations

import os
from pathlib import Path


def free_host_memory() -> int:
    """Bytes that this process may still take, in a container no more than that may have in all."""
    return int(min(_available(Path("/proc/meminfo")), _limit(Path("/sys/fs/cgroup/memory.max"))))


def _available(meminfo: Path) -> int:
    try:
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return 1024 * int(fields["MemAvailable"].split()[0])
    except (OSError, LookupError, ValueError):  # no Linux, or one from before 2014
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _limit(cgroup: Path) -> float:
    """What a container may use in all: a share of the machine's memory could be more than that."""
    try:
        return int(cgroup.read_text())
    except (OSError, ValueError):  # none, or "max"
        return float("inf")
