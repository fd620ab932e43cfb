"""fastgan: an engine for adversarial training.

Names are loaded on first use: importing fastgan imports neither torch nor triton and touches no GPU.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fastgan._util import log

__version__ = "0.1.0"

_HOMES = {
    "Config": "fastgan.train.config",
    "Loss": "fastgan.tasks",
    "Session": "fastgan.runtime.session",
    "Task": "fastgan.tasks",
    "Trainer": "fastgan.train.trainer",
    "benchmark": "fastgan.engine",
    "compile": "fastgan.engine",
    "data": "fastgan.data",
    "dragan": "fastgan.losses",
    "explain": "fastgan.engine",
    "export": "fastgan.export",
    "fuse": "fastgan.nn.fusion.fuse",
    "fusion_report": "fastgan.nn.fusion.fuse",
    "gradient_penalty": "fastgan.losses",
    "losses": "fastgan.losses",
    "models": "fastgan.models",
    "nn": "fastgan.nn",
    "ops": "fastgan.ops",
    "profile": "fastgan.engine",
    "r1": "fastgan.losses",
    "r2": "fastgan.losses",
    "runtime": "fastgan.runtime",
    "upscale": "fastgan.upscale",
    "zero_centered_gp": "fastgan.losses",
}

__all__ = [
    "Config",
    "Loss",
    "Session",
    "Task",
    "Trainer",
    "__version__",
    "benchmark",
    "compile",
    "data",
    "dragan",
    "explain",
    "export",
    "fuse",
    "fusion_report",
    "gradient_penalty",
    "losses",
    "models",
    "nn",
    "ops",
    "profile",
    "r1",
    "r2",
    "runtime",
    "upscale",
    "zero_centered_gp",
]

if TYPE_CHECKING:
    from fastgan import data, export, losses, models, nn, ops, runtime, upscale
    from fastgan.engine import benchmark, compile, explain, profile
    from fastgan.losses import dragan, gradient_penalty, r1, r2, zero_centered_gp
    from fastgan.nn.fusion.fuse import fuse, fusion_report
    from fastgan.runtime.session import Session
    from fastgan.tasks import Loss, Task
    from fastgan.train.config import Config
    from fastgan.train.trainer import Trainer


log.install()


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'fastgan' has no attribute {name!r}")
    module = importlib.import_module(home)
    return module if home == f"fastgan.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
