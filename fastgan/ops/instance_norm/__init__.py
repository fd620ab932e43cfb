"""Instance norm and the activation after it in one op."""

from fastgan.ops.instance_norm.register import instance_norm_act

__all__ = ["instance_norm_act"]
