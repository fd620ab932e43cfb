"""What this machine knows of earlier runs: what compiling their steps took and saved."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from fastgan import _env


@dataclass(frozen=True)
class Pace:
    """What was measured. saving: of the time of an iteration, as a part of 1; seconds: to compile."""

    saving: float
    seconds: float


def recall(key: str) -> Pace | None:
    """What was remembered under a key, or None."""
    try:
        return Pace(**json.loads(_file().read_text())[key])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def remember(key: str, pace: Pace) -> None:
    """Keep it for later runs on this machine."""
    path = _file()
    # A cache that cannot be written, or read, costs time and not results.
    with contextlib.suppress(OSError, ValueError):
        path.parent.mkdir(parents=True, exist_ok=True)
        known = json.loads(path.read_text()) if path.exists() else {}
        aside = path.with_suffix(f".{os.getpid()}")
        aside.write_text(json.dumps(known | {key: asdict(pace)}, indent=1))
        os.replace(aside, path)


def _file() -> Path:
    return _env.cache_dir() / "compile.json"
