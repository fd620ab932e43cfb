"""Usable cores, from folders like /proc and /sys; memory; and the metadata of ONNX files."""

import os

import numpy as np
import onnx
import pytest

from fastgan.errors import ExportError, UsageError
from fastgan.runtime import hardware
from fastgan.runtime.onnx_metadata import read_metadata


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """tree(cores, files): a root folder with these files, in a process that may use these cores."""

    def make(cores, **files):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(cores), raising=False)
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


def threads_of(*cores):
    return {f"sys__devices__system__cpu__cpu{n}__topology__thread_siblings_list": text for n, text in cores}


def test_hyper_threads_count_once_and_affinity_counts(tree):
    pairs = threads_of((0, "0,4"), (4, "0,4"), (1, "1,5"), (5, "1,5"), (2, "2,6"), (6, "2,6"))
    assert hardware.usable_cores(tree([0, 1, 2, 4, 5, 6], **pairs)) == 3
    assert hardware.usable_cores(tree([0, 4])) == 1
    assert hardware.usable_cores(tree([10, 11, 12])) == 3  # no topology files


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 2), ("1000 100000", 1)]
)
def test_the_quota_of_the_container_counts(tree, quota, cores):
    root = tree(range(8), proc__self__cgroup="0::/", sys__fs__cgroup__cpu_dot_max=quota)
    assert hardware.usable_cores(root) == cores


def test_the_tightest_group_around_counts(tree):
    root = tree(range(8), proc__self__cgroup="0::/a/b", sys__fs__cgroup__a__cpu_dot_max="300000 100000",
                sys__fs__cgroup__a__b__cpu_dot_max="max 100000")  # fmt: skip
    assert hardware.usable_cores(root) == 3


def test_groups_of_version_1(tree):
    root = tree(range(8), proc__self__cgroup="3:memory:/x\n2:cpu,cpuacct:/y\n",
                sys__fs__cgroup__cpu__cpu_dot_cfs_quota_us="250000",
                sys__fs__cgroup__cpu__cpu_dot_cfs_period_us="100000")  # fmt: skip
    assert hardware.usable_cores(root) == 3
    tree(range(8), sys__fs__cgroup__cpu__cpu_dot_cfs_quota_us="-1")
    assert hardware.usable_cores(root) == 8


def test_this_computer():
    assert 1 <= hardware.usable_cores() <= (os.cpu_count() or 1)
    assert hardware.cpu_name()
    assert set(hardware.cpu_features()) <= set(hardware.FEATURES.values())
    assert hardware.installed("numpy")
    assert hardware.installed("no such package") is None


def test_peak_memory():
    memory = hardware.PeakMemory()
    np.ones(8_000_000)  # 64 MB, freed at once
    growth = memory.growth()
    if growth is None:
        pytest.skip("only Linux has this")
    assert 60e6 < growth < 100e6
    assert hardware.PeakMemory().growth() < 20e6


def test_metadata_of_a_file(upscaler):
    metadata, model = read_metadata(upscaler[1]), onnx.load(upscaler[1])
    assert metadata.opset == 18
    assert metadata.metadata == {entry.key: entry.value for entry in model.metadata_props}


def test_incomplete_files(upscaler, tmp_path):
    path, whole = tmp_path / "cut.onnx", upscaler[1].read_bytes()
    for end in (0, 1, 5, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(ExportError, match=r"cut.onnx is no ONNX file, or an incomplete one"):
            read_metadata(path)
    for content in (b"\x7fELF" * 50, b"PK\x03\x04" * 50, b"\x08" + b"\xff" * 40, bytes(100)):
        path.write_bytes(content)
        with pytest.raises(ExportError, match="is no ONNX file"):
            read_metadata(path)
    with pytest.raises(UsageError, match="is a directory"):
        read_metadata(tmp_path)
