"""The operations. Only this floor knows that devices exist; see CONTRIBUTING.md for how to add one."""

from fastgan.ops.bias_act import ACTIVATIONS, bias_act
from fastgan.ops.conv import conv2d, conv_transpose2d

__all__ = ["ACTIVATIONS", "bias_act", "conv2d", "conv_transpose2d"]
