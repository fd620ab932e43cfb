"""Training images: the embedded set, public sets, folders, zips, WebDataset shards and array files, each read into one
uint8 `ImageSet`.

Importing this package does not import torch. `fastgan.data.stream`, which turns an ImageSet into batches on a device,
does.
"""

from fastgan.data.fetch import fetch, known
from fastgan.data.imageset import ImageSet
from fastgan.data.sources import open_source

__all__ = ["ImageSet", "fetch", "known", "open_source"]
