"""A factor for each sample and channel, its gradients, and noise, bias and activation after it in one pass."""

from fastgan.ops.channel_scale.epilogue import scale_noise_bias_act
from fastgan.ops.channel_scale.register import channel_dot, channel_scale

__all__ = ["channel_dot", "channel_scale", "scale_noise_bias_act"]
