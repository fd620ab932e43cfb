"""Tasks: what the losses of discriminator and generator are computed from. One file each.

A task of one's own is a subclass of `Task`; docs/tasks.md shows one.
"""

from fastgan.tasks.autoencoder import Autoencoder
from fastgan.tasks.base import Batch, Loss, Noise, Task
from fastgan.tasks.compression import Compression
from fastgan.tasks.contrastive import Contrastive
from fastgan.tasks.generation import Generation
from fastgan.tasks.paired import Paired
from fastgan.tasks.super_resolution import SuperResolution
from fastgan.tasks.unpaired import Unpaired
from fastgan.tasks.variation import Variation

__all__ = [
    "Autoencoder",
    "Batch",
    "Compression",
    "Contrastive",
    "Generation",
    "Loss",
    "Noise",
    "Paired",
    "SuperResolution",
    "Task",
    "Unpaired",
    "Variation",
]
