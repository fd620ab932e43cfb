"""The options of `fastgan train`: the configuration, and where the run goes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fastgan.train.config import Config


@dataclass(frozen=True)
class TrainOptions:
    """Train a generator. PRESET (see `fastgan presets`) comes first; flags override its fields."""

    config: Annotated[Config, tyro.conf.OmitArgPrefixes]
    out: Path | None = None
    """run directory (runs/PRESET when left out)"""
    resume: tyro.conf.FlagCreatePairsOff[bool] = False
    """continue the run in --out from its newest whole checkpoint"""
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """replace the run in --out"""
