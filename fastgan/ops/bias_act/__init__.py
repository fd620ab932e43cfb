"""bias + activation + gain + clamp in one pass: the pattern for all other ops."""

from fastgan.ops.bias_act.activations import ACTIVATIONS
from fastgan.ops.bias_act.register import bias_act

__all__ = ["ACTIVATIONS", "bias_act"]
