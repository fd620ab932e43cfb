"""The store of measurements and the selection of the fastest candidate, without torch."""

import json
import subprocess
import sys
import warnings

import pytest

from fastgan._util.autotune import (
    NoCandidate,
    Selection,
    Store,
    one_by_one,
    open_store,
    read,
    select,
    store_path,
    stored_selection,
)

HARDWARE = {"device": "A GPU", "driver": "1", "torch": "2"}
MEASURED = '{"hardware": {}, "measurements": {"key": %s}}'


@pytest.fixture
def path(tmp_path):
    return tmp_path / "kernels" / "gpu.json"


def store(path):
    return Store(path, HARDWARE, "kernels")


class Times:
    """Candidates that return their own name, and a timer that returns the given times or raises the given errors."""

    def __init__(self, **times):
        self.times = times
        self.measured = []
        self.candidates = {name: lambda name=name: name for name in times}

    def __call__(self, run):
        name = run()
        self.measured.append(name)
        if isinstance(self.times[name], Exception):
            raise self.times[name]
        return self.times[name]

    def select(self, path, **options):
        return select("key", self.candidates, one_by_one(self), store(path), **options)


# --- the store ---


def test_values_are_kept_for_the_next_process(path):
    assert store(path).get("key") is None
    store(path).put("key", {"saving": 0.25, "seconds": 31.5})
    store(path).put("other", {"saving": 0.5, "seconds": 12.0})
    assert store(path).get("key") == {"saving": 0.25, "seconds": 31.5}
    assert read(path) == (HARDWARE, {"key": store(path).get("key"), "other": store(path).get("other")})
    assert set(json.loads(path.read_text())) == {"hardware", "measurements"}
    assert {file.name for file in path.parent.iterdir()} == {"gpu.json", "gpu.lock"}


@pytest.mark.parametrize("changed", HARDWARE)
def test_each_hardware_has_a_file_of_its_own(tmp_path, changed):
    assert store_path(tmp_path, HARDWARE) == store_path(tmp_path, dict(HARDWARE))
    assert store_path(tmp_path, HARDWARE) != store_path(tmp_path, {**HARDWARE, changed: "other"})


def test_a_missing_file_causes_no_warning(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store(path).get("key") is None


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'{"measurements": {}}', (MEASURED % "3").encode(), b"\xff\xfe\xfa"]
)
def test_a_damaged_file_causes_one_warning_and_is_rewritten(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.warns(RuntimeWarning, match="cannot be read, so kernels are measured again") as warned:
        store(path).put("key", {"a": 1})
    assert len(warned) == 1
    assert read(path) == (HARDWARE, {"key": {"a": 1}})


def test_a_file_that_cannot_be_written_causes_one_warning(tmp_path):
    (tmp_path / "kernels").write_text("a file where the directory should be")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        unwritable = store(tmp_path / "kernels" / "gpu.json")
        unwritable.put("key", {"a": 1})
        unwritable.put("other", {"a": 2})
    assert (unwritable.get("key"), unwritable.get("other")) == ({"a": 1}, {"a": 2})
    assert [str(w.message).count("so kernels are measured again") for w in warned] == [1]


def test_values_that_another_process_has_put_stay(path):
    mine, other = store(path), store(path)
    mine.put("key", {"a": 1})
    other.put("other", {"a": 2})
    mine.put("key", {"a": 3})
    assert read(path)[1] == {"key": {"a": 3}, "other": {"a": 2}}
    other.put("key", {"a": 4})
    mine.put("third", {"a": 5})  # an older value of its own does not replace the newer one of the file
    assert read(path)[1] == {"key": {"a": 4}, "other": {"a": 2}, "third": {"a": 5}}


# Every user of the store: what it puts, under a key that the loop makes. They share Store.put and nothing else.
WRITER = """
import sys
from dataclasses import asdict
from fastgan._util.autotune import Selection, open_store
subject, writer = sys.argv[1:]
values = {
    "kernels": asdict(Selection("library", {"library": 1.0}, {})),
    "back-ends": asdict(Selection("onnxruntime", {"onnxruntime": 1.0}, {"openvino": "it is not installed"})),
    "compile times": {"saving": 0.25, "seconds": 31.5},
}
store = open_store(subject, {"device": "A GPU"})
for i in range(20):
    store.put(f"{writer} {i}", values[subject])
"""


@pytest.mark.parametrize("subject", ["kernels", "back-ends", "compile times"])
def test_two_processes_that_write_at_once_lose_nothing(tmp_path, monkeypatch, subject):
    monkeypatch.setenv("FASTGAN_CACHE", str(tmp_path))
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, subject, name]) for name in ("one", "two")]
    assert [writer.wait(120) for writer in writers] == [0, 0]
    (path,) = tmp_path.glob("autotune/*/*.json")
    assert path == open_store(subject, {"device": "A GPU"}).path
    assert len(read(path)[1]) == 40


def test_the_module_imports_no_torch():
    code = "import sys; import fastgan._util.autotune; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


# --- the selection ---


def test_the_fastest_is_measured_once_and_stored(path):
    times = Times(library=2.0, a=3.0, b=1.0)
    assert times.select(path) == Selection("b", {"library": 2.0, "a": 3.0, "b": 1.0}, {})
    assert times.measured == ["library", "a", "b"]
    assert times.select(path).name == "b"
    assert times.measured == ["library", "a", "b"]
    assert stored_selection("key", store(path)) == times.select(path)


def test_a_candidate_that_fails_is_left_out_with_its_reason(path):
    times = Times(library=2.0, a=RuntimeError("out of resource: shared memory\nmore"), b=ValueError())
    selection = times.select(path, reference="library", unavailable={"c": "it is not installed"})
    reasons = {"c": "it is not installed", "a": "out of resource: shared memory", "b": "ValueError"}
    assert selection == Selection("library", {"library": 2.0}, reasons)
    assert stored_selection("key", store(path)) == selection


def test_a_wrong_result_is_left_out_before_its_time_counts(path):
    times = Times(wrong=0.1, library=2.0, right=1.0)
    compared = []

    def compare(result, expected):
        compared.append((result, expected))
        return "it is wrong" if result == "wrong" else None

    selection = times.select(path, reference="library", compare=compare)
    assert selection == Selection("right", {"library": 2.0, "right": 1.0}, {"wrong": "it is wrong"})
    assert compared == [("wrong", "library"), ("right", "library")]
    assert "wrong" not in times.measured


@pytest.mark.parametrize("when", ["running", "measuring"])
def test_an_error_of_the_reference_is_raised(path, when):
    times = Times(library=ValueError("broken") if when == "measuring" else 1.0, a=1.0)
    if when == "running":
        times.candidates["library"] = lambda: 1 / 0
    with pytest.raises((ValueError, ZeroDivisionError), match=r"broken|division"):
        times.select(path, reference="library")
    assert not path.exists()


def test_a_postponed_measurement_selects_the_reference_and_stores_nothing(path):
    def may_pass(error):
        return isinstance(error, MemoryError)

    for times in (Times(library=2.0, a=MemoryError("full"), b=1.0), Times(library=MemoryError("full"), a=1.0)):
        selection = times.select(path, reference="library", postpone=may_pass)
        assert selection == Selection("library", {}, {})
        assert not path.exists()
    broken = Times(library=1.0, a=1.0)
    broken.candidates["library"] = lambda: (_ for _ in ()).throw(MemoryError("full"))
    with pytest.raises(MemoryError):
        broken.select(path, reference="library", postpone=may_pass)


def test_no_candidate_that_runs_is_an_error_with_the_reasons(path):
    with pytest.raises(NoCandidate, match="a: full; b: ValueError") as caught:
        Times(a=RuntimeError("full"), b=ValueError()).select(path)
    assert caught.value.reasons == {"a": "full", "b": "ValueError"}
    assert not path.exists()


def test_a_comparison_needs_a_reference(path):
    with pytest.raises(ValueError, match="reference: expected"):
        Times(a=1.0).select(path, compare=lambda result, expected: None)


def test_a_stored_name_that_is_no_candidate_any_more_is_measured_again(path):
    Times(library=2.0, a=1.0).select(path)
    assert Times(library=2.0, b=1.0).select(path).name == "b"


@pytest.mark.parametrize(
    "damaged",
    [
        '{"name": "a"}',
        '{"name": "a", "milliseconds": {}, "unavailable": {}}',
        '{"name": "a", "milliseconds": {"a": "x"}, "unavailable": {}}',
        '{"name": "a", "milliseconds": {"a": 1.0}, "unavailable": {}}',  # no time of the reference
        '{"name": "library", "milliseconds": {"library": 1.0}, "unavailable": 3}',
    ],
)
def test_a_damaged_entry_causes_a_warning_and_is_measured_again(path, damaged):
    path.parent.mkdir()
    path.write_text(MEASURED % damaged)
    with pytest.warns(RuntimeWarning, match="damaged entry, so kernels are measured again") as warned:
        assert Times(library=2.0, a=1.0).select(path, reference="library").name == "a"
    assert len(warned) == 1
    assert stored_selection("key", store(path), "library").name == "a"
