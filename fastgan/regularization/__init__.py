"""Regularization of adversarial training, one method a file; docs/losses.md lists them.

What a step needs of a method comes in its noise (fastgan.tasks.Noise): random numbers, and what is remembered, by name.
A step whose noise lacks it leaves the method out.
"""

from fastgan.regularization.config import RegularizationConfig
from fastgan.regularization.methods import Regularization

__all__ = ["Regularization", "RegularizationConfig"]
