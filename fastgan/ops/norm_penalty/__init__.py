"""The penalty on the norm of each sample's gradient, as one reduction."""

from fastgan.ops.norm_penalty.register import norm_penalty

__all__ = ["norm_penalty"]
