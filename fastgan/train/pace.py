"""What this machine knows of earlier runs: what compiling their steps took and saved."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastgan._util import env


@dataclass(frozen=True)
class Pace:
    """What was measured. saving: of the time of an iteration, as a part of 1; seconds: to compile."""

    saving: float
    seconds: float


def recall(key: str) -> Pace | None:
    """What was remembered under a key, or None."""
    try:
        return Pace(**_known()[key])
    except (LookupError, TypeError):
        return None


def remember(key: str, pace: Pace) -> None:
    """Keep it for later runs on this machine."""
    path, known = _file(), _known()
    # A cache that cannot be written costs time and not results.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{os.getpid()}")
        aside.write_text(json.dumps(known | {key: asdict(pace)}, indent=1))
        os.replace(aside, path)


def _known() -> dict[str, Any]:
    """What the file holds; nothing, where it cannot be read or holds something else."""
    try:
        stored = json.loads(_file().read_text())
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}


def _file() -> Path:
    return env.cache_dir() / "compile.json"
