"""Array files (.npz and IDX) as ImageSets."""

from __future__ import annotations

import gzip
import lzma
import struct
import zipfile
import zlib
from math import prod
from pathlib import Path
from tokenize import TokenError
from typing import BinaryIO, cast

import numpy as np

from fastgan._util.memory import DEFLATE, require_memory
from fastgan._util.schema import shown_name
from fastgan.data.imageset import MAX_CLASSES, NOT_STATED, ImageSet
from fastgan.errors import DataError, first_line

_IDX_TYPES = {0x08: "uint8", 0x09: "int8", 0x0B: "int16", 0x0C: "int32", 0x0D: "float32", 0x0E: "float64"}
_CHUNK = 1 << 22
_GZIP_MAGIC = b"\x1f\x8b"
_AXES = 8  # of an array in an .npz file; images have 3 or 4
_IDX_AXES = 4
_HEADER = 10_000  # bytes of the header of such an array; numpy's own limit
_PICKLE = b"\x80"  # the first byte of every pickle since protocol 2


def read_npz(path: Path) -> ImageSet:
    """Read the array `images` (or the only uint8 array with 3 or 4 axes) and, if present, `labels` or `y`.

    Accepts uint8 [N, H, W], [N, C, H, W] and [N, H, W, C] with C 1 or 3; an ambiguous shape is read as [N, C, H, W].
    Raises DataError for any other content and for arrays larger than the free memory. Pickled objects are never loaded.
    """
    try:
        if not zipfile.is_zipfile(path):
            with path.open("rb") as start:
                raise DataError(
                    _pickled(path)
                    if start.read(1) == _PICKLE
                    else f"{path} is not a complete .npz file; download it again"
                )
        with zipfile.ZipFile(path) as archive:
            arrays = {name.removesuffix(".npy"): name for name in archive.namelist() if name.endswith(".npy")}
            images = _find_images(archive, arrays, path)
            key = next((key for key in ("labels", "y") if key in arrays), None)
            labels = None if key is None else _read_npy(archive, arrays[key], path)
    except DataError:
        raise
    # Of zipfile for damaged, encrypted and unknown members, and of numpy for headers that it cannot parse.
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, ValueError, RuntimeError) as error:
        raise DataError(f"{path} is not a readable .npz file ({first_line(error)}); download it again") from error
    images = _to_nchw(images, path)
    return ImageSet(images, None if labels is None else _check_labels(labels, images, path), path.stem, NOT_STATED)


def _read_npy(archive: zipfile.ZipFile, name: str, path: Path, header_only: bool = False) -> np.ndarray:
    """An array of an .npz file, of the size that its header states. header_only: an array without memory of that shape.

    numpy allocates what a header claims, whatever is behind it.
    """
    member = archive.getinfo(name)
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        try:
            shape, fortran, dtype = read(file, max_header_size=_HEADER)
        except (
            SyntaxError,
            TokenError,
            MemoryError,
            RecursionError,
            TypeError,
        ) as error:  # of Python's parser, nested too deeply
            raise ValueError(f"the header of {name} cannot be parsed") from error
        if dtype.hasobject:
            raise DataError(_pickled(path))
        size = prod(shape) * dtype.itemsize
        if len(shape) > _AXES or min(shape, default=0) < 0 or size != member.file_size - file.tell():
            raise ValueError(f"{name} states {list(shape)[:_AXES]} {dtype}, and has {member.file_size:,} bytes")
        if header_only:
            return np.broadcast_to(np.empty((), dtype), shape)
        require_memory(2 * size, f"{name} in {path}")
        values = np.frombuffer(file.read(size), dtype)
    return values.reshape(shape[::-1]).T if fortran else values.reshape(shape)


def _pickled(path: Path) -> str:
    return f"{path} holds pickled objects, which are never opened; save plain uint8 arrays by np.savez"


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
    if axes > _IDX_AXES:
        raise DataError(f"{path} has {axes} axes; expected 1 (labels), 3 or 4 (images)")
    shape = struct.unpack(f">{axes}I", lengths)
    expected = prod(shape)
    size = path.stat().st_size
    if expected > (most := size * DEFLATE if isinstance(file, gzip.GzipFile) else size - file.tell()):
        raise DataError(f"{path} is truncated: expected {expected:,} values, got {most:,} at most; download it again")
    require_memory(2 * expected, f"the array in {path}")
    values = bytearray()
    while len(values) <= expected and (chunk := file.read(min(_CHUNK, expected + 1 - len(values)))):
        values += chunk
    if len(values) < expected:
        raise DataError(f"{path} is truncated: expected {expected:,} values, got {len(values):,}; download it again")
    if len(values) > expected:
        raise DataError(f"{path} is longer than the {expected:,} values its header states; download it again")
    return np.frombuffer(values, np.uint8).reshape(shape)


def _find_images(archive: zipfile.ZipFile, arrays: dict[str, str], path: Path) -> np.ndarray:
    """arrays: the name of its file for each array."""
    if "images" in arrays:
        return _read_npy(archive, arrays["images"], path)
    heads = {key: _read_npy(archive, name, path, header_only=True) for key, name in arrays.items()}
    fitting = [key for key, head in heads.items() if head.dtype == np.uint8 and head.ndim in (3, 4)]
    if len(fitting) != 1:
        keys = ", ".join(map(shown_name, fitting or arrays))
        found = f"several arrays fit ({keys})" if fitting else f"no array fits (it holds {keys or 'nothing'})"
        raise DataError(f"{path} has no key 'images', and {found}; name the uint8 array of images 'images'")
    return _read_npy(archive, arrays[fitting[0]], path)


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
    if labels.max() >= MAX_CLASSES:
        raise DataError(f"the labels in {path} go up to {labels.max()}; expected numbers below {MAX_CLASSES:,}")
    return labels.reshape(-1).astype(np.int64)


def _labels_path(path: Path) -> Path | None:
    name = path.name.replace("images", "labels").replace("idx3", "idx1")
    if name == path.name:
        return None
    plain = name.removesuffix(".gz")
    return next((path.with_name(n) for n in (name, plain, f"{plain}.gz") if path.with_name(n).is_file()), None)
