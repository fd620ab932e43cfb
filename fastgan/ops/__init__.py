"""The operations. Only this package distinguishes devices. CONTRIBUTING.md says how to add an operation."""

from fastgan.ops.bias_act import ACTIVATIONS, bias_act
from fastgan.ops.channel_scale import channel_dot, channel_scale, scale_noise_bias_act
from fastgan.ops.conv import (
    ConvLayer,
    conv1d,
    conv2d,
    conv2d_bias_act,
    conv2d_stack,
    conv_transpose1d,
    conv_transpose2d,
)
from fastgan.ops.filtered_lrelu import filtered_lrelu
from fastgan.ops.instance_norm import instance_norm_act
from fastgan.ops.modulated_conv import modulated_conv2d, modulated_layer
from fastgan.ops.norm_penalty import norm_penalty
from fastgan.ops.spectral_norm import power_iteration, spectral_normalize, spectral_scale
from fastgan.ops.upfirdn2d import upfirdn2d

__all__ = [
    "ACTIVATIONS",
    "ConvLayer",
    "bias_act",
    "channel_dot",
    "channel_scale",
    "conv1d",
    "conv2d",
    "conv2d_bias_act",
    "conv2d_stack",
    "conv_transpose1d",
    "conv_transpose2d",
    "filtered_lrelu",
    "instance_norm_act",
    "modulated_conv2d",
    "modulated_layer",
    "norm_penalty",
    "power_iteration",
    "scale_noise_bias_act",
    "spectral_normalize",
    "spectral_scale",
    "upfirdn2d",
]
