"""Bias, activation, gain and clamp in one pass over memory. The other ops are written after its pattern."""

from fastgan.ops.bias_act.activations import ACTIVATIONS
from fastgan.ops.bias_act.register import bias_act

__all__ = ["ACTIVATIONS", "bias_act"]
