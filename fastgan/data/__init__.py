"""Where pictures come from: the embedded set, fetched sets, folders, zips, shards and array files, all as one uint8
`ImageSet`.

numpy and Pillow only, but for the loader that turns an ImageSet into batches on a device: `fastgan.data.stream`.
"""

from fastgan.data.fetch import fetch, known
from fastgan.data.imageset import ImageSet
from fastgan.data.sources import open_source

__all__ = ["ImageSet", "fetch", "known", "open_source"]
