"""Training: the trainer, its configuration, and what a run writes."""

from fastgan.train.config import Config
from fastgan.train.trainer import Trainer

__all__ = ["Config", "Trainer"]
