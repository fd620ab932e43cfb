"""Training: the game of two networks, its loop, and the run directory it leaves."""

from fastgan.train.config import Config
from fastgan.train.presets import PRESETS
from fastgan.train.trainer import Trainer

__all__ = ["PRESETS", "Config", "Trainer"]
