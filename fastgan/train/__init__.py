"""Training: the game of two networks, its loop, and the run directory it leaves."""

from fastgan.train.config import Config
from fastgan.train.loop import Trainer
from fastgan.train.presets import PRESETS

__all__ = ["PRESETS", "Config", "Trainer"]
