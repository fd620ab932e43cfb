"""fastgan: an engine for adversarial networks.

Names are loaded on first use: importing fastgan imports neither torch nor triton and touches no GPU.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Config": "fastgan.train.config",
    "Trainer": "fastgan.train.loop",
    "compile": "fastgan.engine",
    "data": "fastgan.data",
    "deploy": "fastgan.deploy",
    "dragan": "fastgan.objectives",
    "explain": "fastgan.engine",
    "fuse": "fastgan.nn.fusion.fuse",
    "fusion_report": "fastgan.nn.fusion.fuse",
    "gradient_penalty": "fastgan.objectives",
    "models": "fastgan.models",
    "nn": "fastgan.nn",
    "objectives": "fastgan.objectives",
    "ops": "fastgan.ops",
    "r1": "fastgan.objectives",
    "r2": "fastgan.objectives",
    "zero_centered_gp": "fastgan.objectives",
}

__all__ = [
    "Config",
    "Trainer",
    "__version__",
    "compile",
    "data",
    "deploy",
    "dragan",
    "explain",
    "fuse",
    "fusion_report",
    "gradient_penalty",
    "models",
    "nn",
    "objectives",
    "ops",
    "r1",
    "r2",
    "zero_centered_gp",
]

if TYPE_CHECKING:
    from fastgan import data, deploy, models, nn, objectives, ops
    from fastgan.engine import compile, explain
    from fastgan.nn.fusion.fuse import fuse, fusion_report
    from fastgan.objectives import dragan, gradient_penalty, r1, r2, zero_centered_gp
    from fastgan.train.config import Config
    from fastgan.train.loop import Trainer


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'fastgan' has no attribute {name!r}")
    module = importlib.import_module(home)
    return module if home == f"fastgan.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
