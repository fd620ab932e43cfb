"""Data augmentation: generated images added to a labeled set, filtered, and the proof whether a classifier gains by
them."""

from fastgan.augmentation.classifiers import fit
from fastgan.augmentation.filter import Filter, Thresholds
from fastgan.augmentation.generate import Made, generate
from fastgan.augmentation.proof import Proof, prove

__all__ = ["Filter", "Made", "Proof", "Thresholds", "fit", "generate", "prove"]
