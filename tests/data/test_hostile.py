"""Array files and archives whose headers lie: one sentence, no memory, no endless loop."""

import gzip
import io
import json
import struct
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from fastgan._util import memory
from fastgan.data import open_source
from fastgan.data.tar import tar_files
from fastgan.errors import DataError

IMAGES = np.arange(6 * 8 * 8, dtype=np.uint8).reshape(6, 8, 8)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTGAN_CACHE", str(tmp_path / "cache"))


def picture():
    out = io.BytesIO()
    Image.fromarray(IMAGES[0]).save(out, "PNG")
    return out.getvalue()


def npy(shape, descr="|u1", values=b""):
    header = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header + values


def write_zip(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("_", "."), content)
    return path


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (npy((10**6, 10**3, 10**3)), r"images.npy states \[1000000, 1000, 1000\] uint8, and has \d+ bytes"),
        (npy((2**62, 8, 8)), "states"),
        (npy((-1, 8, 8)), "states"),
        (npy((1,) * 60), "states"),
        (npy((6, 8, 8), "|O"), "holds pickled objects"),
        (b"\x93NUMPY\x01\0\x10\x27" + b"(" * 10_000, "cannot be parsed"),
        (b"images", "is not a readable .npz file"),
    ],
)
def test_npz_headers_are_checked_before_memory_is_taken(tmp_path, content, text):
    with pytest.raises(DataError, match=text):
        open_source(write_zip(tmp_path / "d.npz", images_npy=content))


def test_compressed_arrays_are_measured_first(tmp_path, monkeypatch):
    bombs = {
        "d.npz": write_zip(tmp_path / "d.npz", images_npy=npy((1000, 256, 256), values=bytes(1000 << 16))),
        "d-idx3-ubyte": tmp_path / "d-idx3-ubyte",
        "d.zip": write_zip(tmp_path / "d.zip", dataset_json=b'{"labels": null}' + b" " * (1 << 24), a_png=picture()),
    }
    head = b"\0\0\x08\x03" + struct.pack(">3I", 1000, 256, 256)
    bombs["d-idx3-ubyte"].write_bytes(gzip.compress(head + bytes(1000 << 16), 1))
    assert all(path.stat().st_size < 1 << 20 for path in bombs.values())
    monkeypatch.setattr(memory, "free_host_memory", lambda: 1 << 26)
    for path in bombs.values():
        with pytest.raises(DataError, match=r"takes 1\d\d\.\d MB of memory, and 67\.1 MB are free|takes 268\.4 MB"):
            open_source(path)


def test_a_gzip_file_holds_at_most_1032_times_its_size(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(gzip.compress(b"\0\0\x08\x03" + struct.pack(">3I", 10**4, 10**3, 10**3)))
    with pytest.raises(DataError, match="expected 10,000,000,000 values, got"):
        open_source(path)


def test_axes_of_an_idx_file(tmp_path):
    (tmp_path / "a").write_bytes(b"\0\0\x08\x41" + struct.pack(">65I", *[1] * 65) + b"x")
    with pytest.raises(DataError, match="has 65 axes; expected 1"):
        open_source(tmp_path / "a")


@pytest.mark.parametrize("label", [10**6, 2**63 - 1, 2**63, 10**400])
def test_labels_are_below_a_million(tmp_path, label):
    stated = json.dumps({"labels": [["a.png", label]]}) if label < 10**300 else '{"labels": [["a.png", 1e400]]}'
    with pytest.raises(DataError, match=r"the label of a\.png"):
        open_source(write_zip(tmp_path / "d.zip", dataset_json=stated, a_png=picture()))
    if label < 2**63:
        np.savez(tmp_path / "d.npz", images=IMAGES, labels=np.full(6, label))
        with pytest.raises(DataError, match=r"the labels in .* go up to"):
            open_source(tmp_path / "d.npz")


def test_the_content_tells_the_format_and_not_the_name(tmp_path):
    with (tmp_path / "arrays.zip").open("wb") as file:
        np.savez(file, images=IMAGES)
    assert np.array_equal(open_source(tmp_path / "arrays.zip").images[:, 0], IMAGES)
    write_zip(tmp_path / "pictures.npz", a_png=picture())
    assert np.array_equal(open_source(tmp_path / "pictures.npz").images[0, 0], IMAGES[0])
    np.save(tmp_path / "one.npy", IMAGES)
    with pytest.raises(DataError, match=r"is a single array; save it as .npz"):
        open_source(tmp_path / "one.npy")


def test_json_that_is_nested_too_deeply(tmp_path):
    with pytest.raises(DataError, match="nested too deeply"):
        open_source(write_zip(tmp_path / "d.zip", dataset_json="[" * 100_000, a_png=picture()))


def test_a_name_that_is_not_utf8(tmp_path):
    data = bytearray(write_zip(tmp_path / "d.zip", a_png=picture()).read_bytes())
    at = data.rindex(b"PK\x01\x02")
    data[at + 9] |= 8  # its flag says UTF-8
    data[at + 46] = 0xE9
    (tmp_path / "d.zip").write_bytes(data)
    with pytest.raises(DataError, match="is not a readable zip file"):
        open_source(tmp_path / "d.zip")


# --- tar --------------------------------------------------------------------------------------------------------------


def write_tar(path, form=tarfile.PAX_FORMAT, name="a.png", **fields):
    with tarfile.open(path, "w", format=form) as tar:
        info = tarfile.TarInfo(name)
        info.size = len(picture())
        info.pax_headers = fields
        tar.addfile(info, io.BytesIO(picture()))
    return path


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["a.png", "ä" * 40 + "/" + "b" * 40 + ".png", "c" * 300 + ".png"])
def test_tar_files_are_those_of_tarfile(tmp_path, form, name):
    if form == tarfile.USTAR_FORMAT and len(name) > 200:
        pytest.skip("the format has no such names")
    path = write_tar(tmp_path / "a.tar", form, name)
    label = tmp_path / "label"
    label.write_bytes(b"1")
    with tarfile.open(path, "a", format=form) as tar:
        tar.add(tmp_path, "folder", recursive=False)
        tar.add(label, name[:-4] + ".cls")
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "a.png" if form == tarfile.USTAR_FORMAT else name
        tar.addfile(link)
    with tarfile.open(path) as tar:
        expected = [(m.name, m.offset_data, m.size) for m in tar if m.isreg()]
    assert [tuple(member) for member in tar_files(path)] == expected
    assert len(expected) == 2


@pytest.mark.parametrize(
    "size", [b"\xff" * 12, b"\xff" * 11 + b"\0", b"\x80" + b"\x7f" * 11, b"77777777777\0", b"-0000000512\0"]
)
def test_sizes_of_a_tar_are_within_it(tmp_path, size):
    path = write_tar(tmp_path / "a.tar", tarfile.USTAR_FORMAT)
    data = bytearray(path.read_bytes())
    data[124:136] = size
    data[148:156] = b" " * 8
    data[148:156] = f"{sum(data[:512]):06o}\0 ".encode()
    path.write_bytes(data)
    with pytest.raises(DataError, match="is not a complete, uncompressed tar file"):
        open_source(path)


@pytest.mark.parametrize(
    "records", [b"9" * 200_000 + b" x", b"22 size=-999999999999\n", b"0 a=b\n", b"-5 a=b\n", b"99 a=b\n"]
)
def test_pax_records_are_read_in_linear_time(tmp_path, records):
    path = write_tar(tmp_path / "a.tar", tarfile.USTAR_FORMAT)
    head = tarfile.TarInfo("x")
    head.type, head.size = tarfile.XHDTYPE, len(records)
    block = head.tobuf(tarfile.USTAR_FORMAT) + records.ljust(-(-len(records) // 512) * 512, b"\0")
    path.write_bytes(block + path.read_bytes())
    with pytest.raises(DataError, match="is not a complete, uncompressed tar file"):
        open_source(path)
