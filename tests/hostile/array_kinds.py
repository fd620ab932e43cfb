"""Mutated arrays, archives and data sets."""

import gzip
import io
import json
import struct
import tarfile
import zipfile
from pathlib import Path
from random import Random

import mutations
import numpy as np
from image_kinds import _picture


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (6, 8, 8), dtype=np.uint8)


def npz_seeds(_):
    found = []
    for save in (np.savez, np.savez_compressed):
        out = io.BytesIO()
        save(out, images=images(), labels=np.arange(6))
        found.append(out.getvalue())
    return found


def npy_header(random: Random, data: bytes) -> bytes:
    """Another shape, dtype or order in the header of a .npy file."""
    if not data.startswith(b"\x93NUMPY"):
        return mutations.of_bytes(random, data)
    shape = random.choice(((10**9, 10**3), (2**62,), (6, 8, 8), (-1,), (0, 8, 8), (2**40, 0), (10**10,)))
    kind = random.choice(("|u1", "|u1", "<i8", "|O", "<f4", "|V9", "<U99", "[('a', '<i4')]", "nonsense"))
    header = repr({"descr": kind, "fortran_order": random.random() < 0.5, "shape": shape}).encode()
    if random.random() < 0.1:
        header = b"(" * 20_000
    header = header.ljust(len(header) + 10) + b"\n"
    return data[:8] + struct.pack("<H", len(header) & 0xFFFF) + header + data[128:]


def open_classes(path: Path) -> object:
    """A source with labels, as conditional networks count them."""
    from fastgan.data import open_source

    return open_source(path, resolution=8, channels=1).num_classes


def idx_seeds(_):
    plain = b"\0\0\x08\x03" + struct.pack(">3I", 6, 8, 8) + images().tobytes()
    return [plain, gzip.compress(plain)]


def idx_fields(random: Random, data: bytes) -> bytes:
    packed = data[:2] == b"\x1f\x8b"
    plain = gzip.decompress(data) if packed else data
    axes = random.choice((0, 1, 2, 3, 4, 65, 255))
    lengths = [random.choice((0, 1, 2, 6, 8, 2**16, 2**31, 2**32 - 1)) for _ in range(axes)]
    changed = b"\0\0\x08" + bytes((axes,)) + struct.pack(f">{axes}I", *lengths) + plain[16:]
    if packed and random.random() < 0.3:
        changed = b"\0\0\x08\x03" + struct.pack(">3I", 2**16, 2**10, 2**10) + bytes(1 << 28)
    return gzip.compress(changed, 1) if packed else changed


def _zip_of(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def zip_seeds(_):
    labels = json.dumps({"labels": [[f"{i}.png", i % 2] for i in range(4)]}).encode()
    pictures = {f"{i}.png": _picture("RGB", "PNG") for i in range(4)}
    classes = {f"cat/{i}.png": _picture("RGB", "PNG") for i in range(2)} | {"dog/0.jpg": _picture("RGB", "JPEG")}
    return [_zip_of({"dataset.json": labels, **pictures}), _zip_of(classes)]


def zip_json(random: Random, data: bytes) -> bytes:
    def inner(random, content):
        return mutations.of_json(random, content) if content[:1] == b"{" else mutations.of_bytes(random, content)

    return mutations.of_zip(random, data, inner)


def tar_seeds(_):
    found = []
    for form in (tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form) as tar:
            for i in range(4):
                for suffix, content in (("png", _picture("RGB", "PNG")), ("cls", b"1"), ("json", b'{"label": 2}')):
                    name = f"{i:04d}.{suffix}" if i else f"{'é' * 60}/{i:04d}.{suffix}"
                    info = tarfile.TarInfo(name)
                    info.size, info.pax_headers = len(content), {"comment": "x"} if form == tarfile.PAX_FORMAT else {}
                    tar.addfile(info, io.BytesIO(content))
        found.append(out.getvalue())
    return found


def tar_fields(random: Random, data: bytes) -> bytes:
    """A header with another size, type or name, whose checksum is right; or other pax records."""
    headers = [i for i in range(0, len(data), 512) if data[i + 257 : i + 262] == b"ustar"]
    changed = bytearray(data)
    for _ in range(random.randint(1, 2)):
        at = random.choice(headers)
        way = random.randrange(5)
        if way == 0:  # sizes in base 256, negative and huge
            changed[at + 124 : at + 136] = random.choice(
                (b"\xff" * 12, b"\xff" * 11 + b"\0", b"\x80" + bytes(3) + b"\xff" * 8, b"\x80" + b"\x7f" * 11)
            )
        elif way == 1:
            changed[at + 124 : at + 136] = random.choice(
                (b"77777777777\0", b"-0000000001\0", b"           \0", b"0000000000x\0", b"00000001000\0")
            )
        elif way == 2:
            changed[at + 156] = random.choice(b"0123456789gxLKSVAD\0\xff")
        elif way == 3:
            changed[at + random.randrange(512)] = random.randrange(256)
        else:
            record = random.choice(
                (
                    b"30 size=-999999999999999999999\n",
                    b"9" * 400 + b" a=b\n",
                    b"0 a=b\n",
                    b"12 size=abc\n",
                    b"25 GNU.sparse.map=1,2,3,\n",
                    b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n",
                    b"-5 x=y\n",
                    b"1" + b"0" * 300,
                )
            )
            changed[at + 512 : at + 512 + len(record)] = record
            changed[at + 156] = random.choice(b"xg")
        changed[at + 148 : at + 156] = b" " * 8
        changed[at + 148 : at + 156] = f"{sum(changed[at : at + 512]):06o}\0 ".encode()
    return bytes(changed)
