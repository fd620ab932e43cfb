import pytest

from fastgan._util import memory
from fastgan.errors import DataError


def test_free_host_memory(tmp_path):
    assert 1 << 20 < memory.free_host_memory() < 1 << 50
    (tmp_path / "meminfo").write_text("MemTotal:       200 kB\nMemAvailable:    100 kB\nHugePages_Total:   0\n")
    assert memory._available(tmp_path / "meminfo") == 102_400
    assert memory._available(tmp_path / "nothing") > 1 << 20
    (tmp_path / "max").write_text("4096\n")
    assert memory._limit(tmp_path / "max") == 4096
    (tmp_path / "max").write_text("max\n")
    assert memory._limit(tmp_path / "max") == memory._limit(tmp_path / "nothing") == float("inf")


def test_asking_costs_nothing_for_what_is_small(monkeypatch):
    asked = []
    monkeypatch.setattr(memory, "free_host_memory", lambda: asked.append(1) or 1 << 21)
    for _ in range(3):
        memory.require_memory(12 * 28 * 28, "a small image")
    assert not asked
    with pytest.raises(DataError, match=r"an array takes 4\.2 MB of memory, and 2\.1 MB are free"):
        memory.require_memory(1 << 22, "an array")
