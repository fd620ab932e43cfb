"""Public checkpoints: opens the networks of a file by its content, says what is in a file, and saves in public layouts.

No file is executed: of pickles only tensors, names and plain arguments are read. See docs/networks.md.
"""

from fastgan.models.checkpoints.loading import Networks, describe, load, load_generator
from fastgan.models.checkpoints.saving import save

__all__ = ["Networks", "describe", "load", "load_generator", "save"]
