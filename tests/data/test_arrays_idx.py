import gzip

import numpy as np
import pytest

from fastgan.data.arrays import read_idx
from fastgan.errors import DataError

ARRAY = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_reads_plain_and_gzip(tmp_path, idx_bytes, pack):
    path = tmp_path / "any-name"
    path.write_bytes(pack(idx_bytes(ARRAY)))
    read = read_idx(path)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, ARRAY)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: b"\1" + b[1:], "not an IDX file: .* got 01 00 08 03"),
        (lambda b: b"\0\0\x07" + b[3:], "not an IDX file"),
        (lambda b: b"", "not an IDX file: .* got nothing"),
        (lambda b: b"\0\0\x0d" + b[3:], "holds float32 values; expected uint8"),
        (lambda b: b[:3] + b"\0" + b[4:], "states 0 axes"),
        (lambda b: b[:10], "states 3 axes but ends before"),
        (lambda b: b[:-1], "truncated: expected 24 values, got 23 at most"),
        (lambda b: b + b"x", "longer than the 24 values"),
        (
            lambda b: b[:4] + b"\xff" * 12 + b[16:],
            "truncated: expected 79,228,162,458,924,105,385,300,197,375 values, got 24 at most",
        ),
        (lambda b: gzip.compress(b)[:-12], "damaged or truncated gzip"),
        (lambda b: gzip.compress(b)[:-8] + b"12345678", "damaged or truncated gzip"),
        (lambda b: gzip.compress(b)[:10] + b"\xff" * 30, "damaged or truncated gzip"),
    ],
)
def test_damage_is_one_sentence(tmp_path, idx_bytes, damage, message):
    path = tmp_path / "file"
    path.write_bytes(damage(idx_bytes(ARRAY)))
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_idx(tmp_path / "none")
