from fastgan._util import memory


def test_free_host_memory(tmp_path):
    assert 1 << 20 < memory.free_host_memory() < 1 << 50
    (tmp_path / "meminfo").write_text("MemTotal:       200 kB\nMemAvailable:    100 kB\nHugePages_Total:   0\n")
    assert memory._available(tmp_path / "meminfo") == 102_400
    assert memory._available(tmp_path / "nothing") > 1 << 20
    (tmp_path / "max").write_text("4096\n")
    assert memory._limit(tmp_path / "max") == 4096
    (tmp_path / "max").write_text("max\n")
    assert memory._limit(tmp_path / "max") == memory._limit(tmp_path / "nothing") == float("inf")
