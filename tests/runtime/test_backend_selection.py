"""Selection of the fastest back-end: measured once, stored, and measured again where the result no longer holds."""

import json
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import torch

from fastgan.errors import BackendError
from fastgan.runtime import backend_selection, backends
from fastgan.runtime.backends.base import Backend, Port
from fastgan.runtime.session import Session

#: Of the run before the measurements, which compares sizes with the metadata.
TINY = (1, 3, 16, 16)


class FakeBackend(Backend):
    """Sleeps for a given time per 64×64 image, or fails."""

    provider, device, threads = "nothing", "cpu", 1

    def __init__(self, name, seconds, fails=None):
        self.name, self.title, self.notes = name, name.title(), []
        self.inputs, self.outputs = [Port("x", (None, 3, None, None), "float32")], [Port("y", (), "float32")]
        self.seconds, self.fails, self.shapes = seconds, fails, []

    def run(self, x, y=None, *, pixels=False):
        self.shapes.append(x.shape)
        if self.fails:
            raise self.fails
        time.sleep(self.seconds * x.size / (3 * 64 * 64))
        return np.repeat(np.repeat(x, 2, 2), 2, 3)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(backend_selection, "TOTAL", 0.05)


@pytest.fixture
def two(monkeypatch):
    """Replaces the back-ends of ONNX files: two(onnxruntime=..., openvino=...) → list of the opened ones."""

    def replace(**fakes):
        opened = []

        def open_backend(name, model, device, threads):
            opened.append(name)
            if isinstance(fakes[name], Exception):
                raise fakes[name]
            return fakes[name]

        monkeypatch.setattr(backends, "open_backend", open_backend)
        for backend in backends.that_run(".onnx").values():
            monkeypatch.setattr(backend, "why_not", classmethod(lambda cls, device: None))
        return opened

    return replace


def fast():
    return FakeBackend("onnxruntime", 0.0001)


def slow():
    return FakeBackend("openvino", 0.002)


def stored(tmp_path):
    (path,) = (tmp_path / "cache" / "autotune" / "back-ends").glob("*.json")
    return path, json.loads(path.read_text())


def test_the_fastest_is_measured_once_and_stored(two, upscaler, tmp_path):
    opened = two(onnxruntime=fast(), openvino=slow())
    session = Session(upscaler[1])
    assert session.backend == "onnxruntime"
    assert set(session.choice.milliseconds) == {"onnxruntime", "openvino"}
    assert opened == ["onnxruntime", "openvino"]
    assert "measured: onnxruntime" in session.describe()
    opened.clear()
    again = fast()
    two(onnxruntime=again, openvino=slow())
    assert Session(upscaler[1]).choice == session.choice
    assert not again.shapes  # nothing ran
    _, content = stored(tmp_path)
    assert len(content["measurements"]) == 1

    two(onnxruntime=FakeBackend("onnxruntime", 0.002), openvino=FakeBackend("openvino", 0.0001))
    assert Session(upscaler[1]).backend == "onnxruntime"  # from the store
    assert Session(upscaler[1], threads=7).backend == "openvino"  # another key
    assert Session(upscaler[1], device="cpu").backend == "openvino"


def test_another_file_of_that_name_is_measured_again(two, upscaler, make, tmp_path):
    two(onnxruntime=fast(), openvino=slow())
    assert Session(upscaler[1]).backend == "onnxruntime"
    make.upscaler(upscaler[1], make.Upscaler(gain=2.0))
    two(onnxruntime=FakeBackend("onnxruntime", 0.002), openvino=FakeBackend("openvino", 0.0001))
    assert Session(upscaler[1]).backend == "openvino"
    assert len(stored(tmp_path)[1]["measurements"]) == 2


def test_other_versions_are_measured_again(two, upscaler, monkeypatch):
    two(onnxruntime=fast(), openvino=slow())
    assert Session(upscaler[1]).backend == "onnxruntime"
    monkeypatch.setattr(backends, "installed", lambda package: "99.0" if package == "openvino" else None)
    two(onnxruntime=FakeBackend("onnxruntime", 0.002), openvino=FakeBackend("openvino", 0.0001))
    assert Session(upscaler[1]).backend == "openvino"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"hardware": {}, "measurements": {"q": 3}}'])
def test_a_damaged_store_costs_a_measurement(two, upscaler, tmp_path, content):
    two(onnxruntime=fast(), openvino=slow())
    Session(upscaler[1])
    path, before = stored(tmp_path)
    path.write_bytes(content)
    with pytest.warns(RuntimeWarning, match="cannot be read, so back-ends are measured again"):
        assert Session(upscaler[1]).backend == "onnxruntime"
    assert stored(tmp_path)[1]["measurements"].keys() == before["measurements"].keys()


def test_a_store_that_cannot_be_written_costs_a_warning(two, upscaler, tmp_path):
    (tmp_path / "cache").write_text("a file where the directory should be")
    two(onnxruntime=fast(), openvino=slow())
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert Session(upscaler[1]).backend == "onnxruntime"
    assert ["back-ends are measured again" in str(w.message) for w in warned] == [True]


@pytest.mark.parametrize("when", ["opening", "running"])
def test_a_failing_back_end_is_left_out_with_its_reason(two, upscaler, when):
    bad = FakeBackend("openvino", 0, RuntimeError("no such instruction\nat 0x0")) if when == "running" else None
    two(onnxruntime=FakeBackend("onnxruntime", 0.002), openvino=bad or BackendError("model: it cannot be opened"))
    for _ in range(2):  # measured, then from the store
        session = Session(upscaler[1])
        assert session.backend == "onnxruntime"
        reason = "it fails on an input [1, 3, 64, 64]: no such instruction" if bad else "model: it cannot be opened"
        assert f"not openvino: {reason}" in session.describe()
    two(onnxruntime=FakeBackend("onnxruntime", 0, RuntimeError("full")), openvino=bad or BackendError("not opened"))
    with pytest.raises(BackendError, match=r"no back-end runs it: .*onnxruntime: it fails on an input .*: full"):
        Session(upscaler[1], threads=7)


def test_a_stored_back_end_that_fails_now_is_measured_again(two, upscaler):
    two(onnxruntime=fast(), openvino=slow())
    Session(upscaler[1])
    two(onnxruntime=BackendError("model: gone"), openvino=slow())
    session = Session(upscaler[1])
    assert session.backend == "openvino"
    assert "not onnxruntime: model: gone" in session.describe()


def test_a_slow_model_is_measured_small_and_once(two, upscaler, monkeypatch):
    monkeypatch.setattr(backend_selection, "SINGLE_CALL", 0.02)
    a, b = FakeBackend("onnxruntime", 0.03), FakeBackend("openvino", 0.05)
    two(onnxruntime=a, openvino=b)
    assert Session(upscaler[1]).backend == "onnxruntime"
    assert a.shapes == [TINY, (1, 3, 64, 64)]  # the first one to compare its size with the metadata
    assert b.shapes == [(1, 3, 64, 64)]
    a, b = FakeBackend("onnxruntime", 0.005), FakeBackend("openvino", 0.0001)
    two(onnxruntime=a, openvino=b)
    assert Session(upscaler[1], threads=7).backend == "openvino"
    assert set(a.shapes) == {TINY, (1, 3, 64, 64)}  # a frame is expected to take longer than SINGLE_CALL
    assert len(a.shapes) > 2


def test_a_quick_model_is_measured_on_a_frame(two, upscaler):
    a, b = FakeBackend("onnxruntime", 0.0005), FakeBackend("openvino", 0.0001)
    two(onnxruntime=a, openvino=b)
    Session(upscaler[1])
    assert a.shapes[:3] == [TINY, (1, 3, 64, 64), (1, 3, 180, 320)]
    # One trial at each size, then at most 50 rounds.
    assert 6 <= len(a.shapes) <= 53


def test_warm_up_calls_are_not_timed(two, upscaler, monkeypatch):
    monkeypatch.setattr(backend_selection, "SINGLE_CALL", 0.25)

    class Compiling(FakeBackend):
        warm_ups = 1

        def run(self, x, y=None, *, pixels=False):
            if x.shape not in self.shapes:
                time.sleep(0.3)
            return super().run(x)

    two(onnxruntime=FakeBackend("onnxruntime", 0.002), openvino=Compiling("openvino", 0.0001))
    session = Session(upscaler[1])
    assert session.backend == "openvino"
    assert session.choice.milliseconds["openvino"] < 100


def test_modules_on_a_cpu_are_compiled_only_on_request(upscaler, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    session = Session(upscaler[0], threads=1)
    assert session.backend == "torch"
    assert "not compile: compiling for a CPU takes" in session.describe()


def test_the_digest_of_a_module_is_of_its_structure(make):
    one, other = make.Upscaler(), make.Upscaler()
    torch.nn.init.zeros_(other.first.weight)
    assert backend_selection.module_digest(one) == backend_selection.module_digest(other)
    assert backend_selection.module_digest(one) != backend_selection.module_digest(make.Upscaler(scale=3))
    assert backend_selection.module_digest(one) != backend_selection.module_digest(make.Upscaler().half())


WRITER = """
import sys
from fastgan.runtime import backend_selection
for i in range(10):
    store, key = backend_selection.store(f"{sys.argv[1]} {i}", "cpu", 1)
    store.put(key, {"name": "a", "milliseconds": {"a": 1.0}, "unavailable": {}})
"""


def test_processes_that_write_at_once_lose_nothing(tmp_path):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, name]) for name in ("one", "two")]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert len(stored(tmp_path)[1]["measurements"]) == 20


def test_real_back_ends_are_compared(upscaler):
    pytest.importorskip("openvino")
    session = Session(upscaler[1], threads=1)
    assert set(session.choice.milliseconds) == {"onnxruntime", "openvino"}
    assert session.backend == min(session.choice.milliseconds, key=session.choice.milliseconds.get)
