"""Features of reference images, kept: they are the same at every evaluation, and take as long as the samples'."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from fastgan._util.env import cache_dir
from fastgan._util.files import write_whole
from fastgan.errors import DataError
from fastgan.metrics.features import Extractor, Features, checked


def reference_features(
    extractor: Extractor, images: np.ndarray, say: Callable[[str], object] | None = None
) -> Features:
    """Features of uint8 images [N, C, H, W], from the cache directory where these very images were seen before.

    The key is of every pixel and of everything on which the extractor's features depend: the order of the images, how
    many they are, the weights, the resize. say: called where a file in the cache is damaged; it is then made anew.
    """
    path = features_path(extractor, images)
    if path.exists():
        try:
            return _read(path, extractor, len(images))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, DataError) as error:
            if say is not None:
                say(f"the features in {path} are damaged ({error}): computing them again")
    found = extractor(images)
    content = io.BytesIO()
    np.savez(content, features=found.features.numpy(), logits=found.logits.numpy())
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content.getvalue())
    return found


def features_path(extractor: Extractor, images: np.ndarray) -> Path:
    """Where the features of these images lie once they are computed. The file may be deleted at any time."""
    digest = hashlib.sha256(extractor.key.encode())
    digest.update(repr(images.shape).encode())
    for start in range(0, len(images), 1024):
        digest.update(np.ascontiguousarray(images[start : start + 1024]).data)
    return cache_dir() / "metrics" / f"features-{digest.hexdigest()[:32]}.npz"


def _read(path: Path, extractor: Extractor, count: int) -> Features:
    # Opened here: of a damaged one numpy leaves the file open.
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        features, logits = (torch.from_numpy(file[name]) for name in ("features", "logits"))
    if features.shape != (count, extractor.dim) or len(logits) != count:
        raise ValueError(f"expected [{count}, {extractor.dim}], got {list(features.shape)}")
    checked(features)
    return Features(features, logits)
