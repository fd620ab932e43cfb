"""Array files (.npz and IDX) as ImageSets."""

from __future__ import annotations

import gzip
import struct
import zipfile
import zlib
from math import prod
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from fastgan.data.imageset import NOT_STATED, ImageSet
from fastgan.errors import DataError

_IDX_TYPES = {0x08: "uint8", 0x09: "int8", 0x0B: "int16", 0x0C: "int32", 0x0D: "float32", 0x0E: "float64"}
_CHUNK = 1 << 22
_GZIP_MAGIC = b"\x1f\x8b"
_PICKLE = b"\x80"  # the first byte of every pickle since protocol 2


def read_npz(path: Path) -> ImageSet:
    """Read the array `images` (or the only uint8 array with 3 or 4 axes) and, if present, `labels` or `y`.

    Accepts uint8 [N, H, W], [N, C, H, W] and [N, H, W, C] with C 1 or 3; an ambiguous shape is read as [N, C, H, W].
    Raises DataError for any other content. Pickled objects are never loaded.
    """
    pickled = f"{path} holds pickled objects, which are never opened; save plain uint8 arrays by np.savez"
    try:
        if not zipfile.is_zipfile(path):
            with path.open("rb") as start:
                raise DataError(
                    pickled if start.read(1) == _PICKLE else f"{path} is not a complete .npz file; download it again"
                )
        with np.load(path, allow_pickle=False) as file:
            images = _find_images(file, path)
            labels = next((file[key] for key in ("labels", "y") if key in file.files), None)
    except ValueError as error:
        if "pickle" not in str(error):
            raise DataError(f"{path} is damaged ({error}); download it again") from error
        raise DataError(pickled) from error
    except (OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is not a readable .npz file ({error}); download it again") from error
    images = _to_nchw(images, path)
    return ImageSet(images, None if labels is None else _check_labels(labels, images, path), path.stem, NOT_STATED)


def read_idx_images(path: Path) -> ImageSet:
    """Read an IDX file of images and, if the labels' file of MNIST's naming lies beside it, the labels.

    Raises DataError for a file that does not hold images.
    """
    images = read_idx(path)
    if images.ndim not in (3, 4):
        hint = "labels: pass the file of images" if images.ndim == 1 else "not images"
        raise DataError(f"{path} has {images.ndim} axes, so it holds {hint}; expected [N, H, W]")
    images = _to_nchw(images, path)
    labels_path = _labels_path(path)
    labels = None if labels_path is None else _check_labels(read_idx(labels_path), images, labels_path)
    return ImageSet(images, labels, path.name.removesuffix(".gz"), NOT_STATED)


def read_idx(path: Path) -> np.ndarray:
    """Read an IDX file of unsigned bytes, plain or compressed by gzip (recognized by content, not by name).

    IDX is the format of MNIST: two zero bytes, a type code, the number of axes, their lengths, then the values.
    Returns uint8 of the shape in the header: [N, H, W] for images, [N] for labels.
    Raises DataError for a wrong magic number, another type, and a file shorter or longer than its header says.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            packed = file.read(2) == _GZIP_MAGIC
        # GzipFile is not declared as a BinaryIO.
        with cast(BinaryIO, gzip.open(path, "rb")) if packed else path.open("rb") as file:
            return _read_idx(file, path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is a damaged or truncated gzip file ({error}); download it again") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _read_idx(file: BinaryIO, path: Path) -> np.ndarray:
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _IDX_TYPES:
        raise DataError(
            f"{path} is not an IDX file: expected it to start with 00 00 08, got {head.hex(' ') or 'nothing'}"
        )
    if head[2] != 0x08:
        kind = _IDX_TYPES[head[2]]
        raise DataError(f"{path} holds {kind} values; expected uint8 (type 08): convert it to 0..255 first")
    axes = head[3]
    lengths = file.read(4 * axes)
    if axes == 0 or len(lengths) < 4 * axes:
        raise DataError(
            f"{path} is truncated: its header states {axes} axes but ends before their lengths; download it again"
        )
    shape = struct.unpack(f">{axes}I", lengths)
    expected = prod(shape)
    # In chunks: a wrong header must not cause a huge allocation.
    values = bytearray()
    while len(values) <= expected and (chunk := file.read(min(_CHUNK, expected + 1 - len(values)))):
        values += chunk
    if len(values) < expected:
        raise DataError(f"{path} is truncated: expected {expected:,} values, got {len(values):,}; download it again")
    if len(values) > expected:
        raise DataError(f"{path} is longer than the {expected:,} values its header states; download it again")
    return np.frombuffer(values, np.uint8).reshape(shape)


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
        found = f"several arrays fit ({keys})" if fitting else f"no array fits (it holds {keys or 'nothing'})"
        raise DataError(f"{path} has no key 'images', and {found}; name the uint8 array of images 'images'")
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
    """Integers or whole floats, [N] or [N, 1], or one-hot rows [N, classes], to int64 [N]."""
    if labels.dtype.kind in "biuf" and labels.ndim == 2 and labels.shape[1] > 1:
        if not ((labels != 0).sum(1) == 1).all() or not (labels.max(1) == 1).all():
            raise DataError(
                f"the labels in {path} are {labels.dtype} {list(labels.shape)} and not one-hot (a single 1 in each"
                " row); expected one class an image"
            )
        labels = labels.argmax(1)
    if labels.dtype.kind == "f" and labels.size and (np.abs(labels) < 2**53).all() and (labels == labels.round()).all():
        labels = labels.astype(np.int64)
    if labels.dtype.kind not in "iu" or labels.shape not in ((labels.size,), (labels.size, 1)):
        raise DataError(f"the labels in {path} are {labels.dtype} {list(labels.shape)}; expected one integer an image")
    if len(labels) != len(images):
        raise DataError(f"{path} has {len(labels):,} labels for {len(images):,} images; expected as many")
    if labels.min() < 0:
        raise DataError(f"the labels in {path} go down to {labels.min()}; expected numbers from 0")
    return labels.reshape(-1).astype(np.int64)


def _labels_path(path: Path) -> Path | None:
    name = path.name.replace("images", "labels").replace("idx3", "idx1")
    if name == path.name:
        return None
    plain = name.removesuffix(".gz")
    return next((path.with_name(n) for n in (name, plain, f"{plain}.gz") if path.with_name(n).is_file()), None)
