"""One step of Adam for all weights of a network, with the check of the gradients, clipping and the moving average."""

from fastgan.ops.adam_ema.functional import adam_ema
from fastgan.ops.adam_ema.reference import Checked, check_gradients

__all__ = ["Checked", "adam_ema", "check_gradients"]
