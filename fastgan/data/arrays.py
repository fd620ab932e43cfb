"""Array files (.npz and IDX) as ImageSets."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from fastgan.data.idx import read_idx
from fastgan.data.imageset import NOT_STATED, ImageSet
from fastgan.errors import DataError

_PICKLE = b"\x80"  # the first byte of every pickle since protocol 2


def read_npz(path: Path) -> ImageSet:
    """Read `images` (or the only uint8 array with 3 or 4 axes) and, if there, `labels` or `y`. Never unpickles.

    Accepts uint8 [N, H, W], [N, C, H, W] and [N, H, W, C] with C 1 or 3; where both could be meant, [N, C, H, W].
    """
    pickled = f"{path} holds pickled objects, which are never opened; save plain uint8 arrays by np.savez"
    try:
        if not zipfile.is_zipfile(path):
            with path.open("rb") as start:
                raise DataError(
                    pickled if start.read(1) == _PICKLE else f"{path} is not a whole .npz file; get it again"
                )
        with np.load(path, allow_pickle=False) as file:
            images = _find_images(file, path)
            labels = next((file[key] for key in ("labels", "y") if key in file.files), None)
    except ValueError as error:
        if "pickle" not in str(error):
            raise DataError(f"{path} is damaged ({error}); get it again") from error
        raise DataError(pickled) from error
    except (OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is not a readable .npz file ({error}); get it again") from error
    images = _to_nchw(images, path)
    return ImageSet(images, None if labels is None else _check_labels(labels, images, path), path.stem, NOT_STATED)


def read_idx_images(path: Path) -> ImageSet:
    """Read an IDX file of images and, if it lies beside it under its MNIST name, its file of labels."""
    images = read_idx(path)
    if images.ndim not in (3, 4):
        hint = "labels: give the file of images" if images.ndim == 1 else "not images"
        raise DataError(f"{path} has {images.ndim} axes, so it holds {hint}; expected [N, H, W]")
    images = _to_nchw(images, path)
    beside = _labels_beside(path)
    labels = None if beside is None else _check_labels(read_idx(beside), images, beside)
    return ImageSet(images, labels, path.name.removesuffix(".gz"), NOT_STATED)


def _find_images(file: np.lib.npyio.NpzFile, path: Path) -> np.ndarray:
    if "images" in file.files:
        return file["images"]
    fitting = []
    for key in file.files:
        array = file[key]
        if array.dtype == np.uint8 and array.ndim in (3, 4):
            fitting.append((key, array))
    if len(fitting) != 1:
        keys = ", ".join(key for key, _ in fitting) if fitting else ", ".join(file.files)
        came = f"several could be meant ({keys})" if fitting else f"none fits (it holds {keys or 'nothing'})"
        raise DataError(f"{path} has no key 'images', and {came}; name the uint8 array of pictures 'images'")
    return fitting[0][1]


def _to_nchw(images: np.ndarray, path: Path) -> np.ndarray:
    """uint8 [N, H, W], [N, C, H, W] or [N, H, W, C] to contiguous [N, C, H, W]."""
    if images.dtype != np.uint8:
        raise DataError(
            f"the images in {path} are {images.dtype}; expected uint8: scale them to 0..255 and round first"
        )
    if images.ndim not in (3, 4) or 0 in images.shape:
        raise DataError(f"the images in {path} have shape {list(images.shape)}; expected [N, H, W] or [N, C, H, W]")
    if images.ndim == 3:
        return np.ascontiguousarray(images)[:, None]
    if images.shape[1] in (1, 3):
        return np.ascontiguousarray(images)
    if images.shape[3] in (1, 3):
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    raise DataError(f"the images in {path} have shape {list(images.shape)}; expected 1 or 3 channels on axis 1 or 3")


def _check_labels(labels: np.ndarray, images: np.ndarray, path: Path) -> np.ndarray:
    """Integer [N] or [N, 1] to int64 [N]."""
    if labels.dtype.kind not in "iu" or labels.shape not in ((labels.size,), (labels.size, 1)):
        raise DataError(f"the labels in {path} are {labels.dtype} {list(labels.shape)}; expected one integer an image")
    if len(labels) != len(images):
        raise DataError(f"{path} has {len(labels):,} labels for {len(images):,} images; expected as many")
    if labels.min() < 0:
        raise DataError(f"the labels in {path} go down to {labels.min()}; expected numbers from 0")
    return labels.reshape(-1).astype(np.int64)


def _labels_beside(path: Path) -> Path | None:
    name = path.name.replace("images", "labels").replace("idx3", "idx1")
    if name == path.name:
        return None
    plain = name.removesuffix(".gz")
    return next((path.with_name(n) for n in (name, plain, f"{plain}.gz") if path.with_name(n).is_file()), None)
