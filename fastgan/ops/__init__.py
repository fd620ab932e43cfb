"""The operations. Only this floor knows that devices exist; see CONTRIBUTING.md for how to add one."""

from fastgan.ops.bias_act import ACTIVATIONS, bias_act
from fastgan.ops.conv import (
    Layer,
    conv1d,
    conv2d,
    conv2d_bias_act,
    conv2d_tower,
    conv_transpose1d,
    conv_transpose2d,
)

__all__ = [
    "ACTIVATIONS",
    "Layer",
    "bias_act",
    "conv1d",
    "conv2d",
    "conv2d_bias_act",
    "conv2d_tower",
    "conv_transpose1d",
    "conv_transpose2d",
]
