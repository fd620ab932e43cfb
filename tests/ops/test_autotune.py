"""The selection of GPU kernels, with a timer that returns given times."""

import contextlib

import pytest
import torch

from fastgan._util import env
from fastgan._util.autotune import Store
from fastgan.ops import _autotune
from fastgan.ops._autotune import (
    LIBRARY,
    WARMED,
    KernelSelector,
    may_pass,
    read,
    selection_key,
    shipped_table,
    write_table,
    wrong_result,
)
from fastgan.ops._replay import Uncapturable, copies_beyond, rotated

KEY = selection_key("op", (torch.zeros(2, 3, 4, 5), None), ([1, 2], "relu", 0.5, None))
TEXT = "op 2x3x4x5:float32 None 1x2 relu 0.5 None"
HARDWARE = {"device": "A GPU", "torch": "2", "kernels": "5"}
RESULTS = {name: torch.ones(4) for name in (LIBRARY, "a", "b")}
TENSORS = (torch.zeros(3), None)


def a_run(name):
    def run(*tensors):
        assert tensors == TENSORS
        return RESULTS[name]

    return run


RUNS = {name: a_run(name) for name in RESULTS}


class Timer:
    """Runs once and returns what it was given; an exception instead of a time is raised."""

    def __init__(self, **times):
        self.times = times
        self.measured = []

    def __call__(self, run, tensors):
        result = run(*tensors)
        (name,) = [name for name in RESULTS if RESULTS[name] is result]
        self.measured.append(name)
        if isinstance(self.times[name], Exception):
            raise self.times[name]
        return self.times[name]


class Selector:
    """A KernelSelector of these candidates and tensors."""

    def __init__(self, path, timer, capturing=lambda: False, table=None):
        self.own = KernelSelector(Store(path, HARDWARE, "kernels"), timer, capturing, table)

    def fastest(self, key, runs):
        return self.own.fastest(key, lambda: runs, TENSORS)


selector = Selector


@pytest.fixture
def path(tmp_path):
    return tmp_path / "kernels" / "gpu.json"


def test_the_fastest_runs_and_is_measured_once(path):
    timer = Timer(library=2.0, a=3.0, b=1.0)
    own = selector(path, timer)
    assert all(own.fastest(KEY, RUNS) is RESULTS["b"] for _ in range(3))
    assert timer.measured == [LIBRARY, "a", "b"]
    assert own.fastest(selection_key("op", (torch.zeros(1),), ()), RUNS) is RESULTS["b"]
    assert len(timer.measured) == 6


def test_the_file_holds_the_selection_for_the_next_process(path):
    selector(path, Timer(library=2.0, a=1.0, b=3.0)).fastest(KEY, RUNS)
    hardware, selections = read(path)
    assert hardware == HARDWARE
    assert selections[TEXT].name == "a"
    assert selections[TEXT].milliseconds == {LIBRARY: 2.0, "a": 1.0, "b": 3.0}
    timer = Timer()
    assert selector(path, timer).fastest(KEY, RUNS) is RESULTS["a"]
    assert not timer.measured


def test_a_selection_without_a_time_of_the_library_is_damaged(path):
    Store(path, HARDWARE, "kernels").put(TEXT, {"name": "a", "milliseconds": {"a": 1.0}, "unavailable": {}})
    with pytest.raises(ValueError, match="'library' without a time"):
        read(path)
    with pytest.warns(RuntimeWarning, match="damaged entry, so kernels are measured again"):
        assert selector(path, Timer(library=1.0, a=2.0, b=2.0)).fastest(KEY, RUNS) is RESULTS[LIBRARY]


def test_a_kernel_that_does_not_compile_is_not_selected_and_not_tried_again(path):
    timer = Timer(library=2.0, a=RuntimeError("out of resource: shared memory\nmore"), b=ValueError())
    assert selector(path, timer).fastest(KEY, RUNS) is RESULTS[LIBRARY]
    assert read(path)[1][TEXT].unavailable == {"a": "out of resource: shared memory", "b": "ValueError"}
    timer = Timer()
    assert selector(path, timer).fastest(KEY, RUNS) is RESULTS[LIBRARY]
    assert not timer.measured


def test_a_kernel_with_a_wrong_result_is_not_selected(path, monkeypatch):
    monkeypatch.setitem(RESULTS, "a", torch.full((4,), 1.5))
    timer = Timer(library=2.0, a=0.5, b=1.0)
    assert selector(path, timer).fastest(KEY, RUNS) is RESULTS["b"]
    selection = read(path)[1][TEXT]
    assert selection.name == "b"
    assert selection.unavailable == {"a": "its result differs from the library's: relative error 5.0e-01"}


def test_a_result_is_compared_up_to_rounding():
    x, sums = torch.randn(64, 8), torch.zeros(8)
    assert wrong_result((x, sums), (x, sums)) is None
    # The error of a sum that cancels is measured against the terms.
    assert wrong_result((x, sums + 1e-3), (x, sums)) is None
    assert "relative error" in wrong_result((x, sums + 1), (x, sums))
    assert wrong_result(x.half() * 1.001, x.half()) is None
    assert "relative error" in wrong_result(x * 1.1, x)
    assert "relative error inf" in wrong_result(sums + 1, sums)
    assert "relative error" in wrong_result(torch.full((8,), torch.nan), torch.ones(8))
    overflow = torch.tensor([torch.inf, 1.0])
    assert wrong_result(overflow, overflow) is None
    assert "relative error" in wrong_result(torch.ones(2), overflow)
    for other in (x[:1], x.double(), (x, sums)):
        assert wrong_result(other, x) == "its result differs from the library's in shape or dtype"


def test_without_memory_to_measure_the_library_runs_and_nothing_is_stored(path):
    timer = Timer(library=2.0, a=torch.OutOfMemoryError("full"), b=1.0)
    own = selector(path, timer)
    assert all(own.fastest(KEY, RUNS) is RESULTS[LIBRARY] for _ in range(2))
    assert timer.measured.count("a") == 1
    assert not path.exists()


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (torch.OutOfMemoryError("full"), True),
        (RuntimeError("CUDA error: operation not permitted when stream is capturing"), True),
        (RuntimeError("Triton Error [CUDA]: out of memory"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True),
        (RuntimeError("out of resource: shared memory, Required: 300000, Hardware limit: 232448"), False),
        (ValueError("at 3:4: incompatible shapes"), False),
        (Uncapturable("it cannot be captured in a graph: CUDA error"), False),
    ],
)
def test_only_what_no_later_process_can_change_is_stored(path, error, passes):
    assert may_pass(error) is passes
    timer = Timer(library=2.0, a=error, b=1.0)
    assert selector(path, timer).fastest(KEY, RUNS) is RESULTS[LIBRARY if passes else "b"]
    assert path.exists() is not passes


def test_where_no_graph_can_be_captured_nothing_is_concluded(path):
    timer = Timer(library=Uncapturable("busy"), a=1.0, b=3.0)
    assert selector(path, timer).fastest(KEY, RUNS) is RESULTS[LIBRARY]
    assert not path.exists()


def test_candidates_are_listed_once_and_hold_no_tensors(path):
    listed = []
    own = KernelSelector(Store(path, HARDWARE, "kernels"), Timer(library=2.0, a=1.0, b=3.0), lambda: False)
    for _ in range(3):
        assert own.fastest(KEY, lambda: listed.append(1) or RUNS, TENSORS) is RESULTS["a"]
    assert len(listed) == 1


def test_the_users_measurement_goes_before_the_table_and_the_table_before_measuring(path):
    table = {TEXT: _autotune.Selection("b", {LIBRARY: 2.0, "b": 1.0}, {})}
    timer = Timer(library=2.0, a=1.0, b=3.0)
    assert selector(path, timer, table=table).fastest(KEY, RUNS) is RESULTS["b"]
    assert not timer.measured
    assert not path.exists()
    assert selector(path, timer, lambda: True, table).fastest(KEY, RUNS) is RESULTS["b"]
    other = {name: RUNS[name] for name in (LIBRARY, "a")}  # the table names what is no candidate any more
    assert selector(path, timer, table=table).fastest(KEY, other) is RESULTS["a"]
    assert timer.measured == [LIBRARY, "a"]
    assert selector(path, Timer(), table=table).fastest(KEY, RUNS) is RESULTS["a"]


def test_what_was_measured_becomes_a_table(path, tmp_path):
    selector(path, Timer(library=2.0, a=1.0, b=3.0)).fastest(KEY, RUNS)
    folder = tmp_path / "tables"
    assert write_table(path, folder) == folder / "a-gpu.json"
    assert [file.name for file in folder.iterdir()] == ["a-gpu.json"]
    assert shipped_table("A GPU", folder) == read(path)[1]
    assert shipped_table("Another GPU", folder) == {}
    Store(path, HARDWARE, "kernels").put("key", {"name": "a"})
    with pytest.raises(ValueError, match="not a selection"):
        write_table(path, folder)


def test_the_shipped_tables_can_be_read():
    assert (_autotune.TABLES / "README.md").exists()
    for file in _autotune.TABLES.glob("*.json"):
        hardware, selections = read(file)
        assert file.stem == _autotune.autotune.device_name(hardware)
        assert selections


def test_a_library_that_measures_itself_is_not_captured_before_it_has(path, monkeypatch):
    runs = {**RUNS, WARMED: RUNS["a"]}
    Store(path, HARDWARE, "kernels").put(
        TEXT, {"name": WARMED, "milliseconds": {LIBRARY: 2.0, WARMED: 1.0}, "unavailable": {}}
    )
    capturing = True
    own = selector(path, Timer(), lambda: capturing)
    assert own.fastest(KEY, runs) is RESULTS[LIBRARY]
    capturing = False
    assert own.fastest(KEY, runs) is RESULTS["a"]
    capturing = True
    assert own.fastest(KEY, runs) is RESULTS["a"]


def test_copies_exceed_the_cache_and_are_equal():
    tensors = (torch.randn(64, 16).t(), None)
    size = 64 * 16 * 4
    assert copies_beyond(tensors, 3 * size) == 4
    assert copies_beyond(tensors, 1000 * size) == 32
    assert copies_beyond(tensors, size - 1) == 1
    assert copies_beyond((torch.zeros(0), None), 10) == 11
    sets = rotated(tensors, 3)
    assert sets[0] is tensors
    assert len({one.data_ptr() for one, _ in sets}) == 3
    assert all(torch.equal(one, tensors[0]) and one.stride() == tensors[0].stride() for one, _ in sets)
    assert all(nothing is None for _, nothing in sets)


def test_an_error_of_the_library_is_raised(path):
    with pytest.raises(ValueError, match="wrong"):
        selector(path, Timer(library=ValueError("wrong"), a=1.0, b=1.0)).fastest(KEY, RUNS)


def test_nothing_is_measured_while_a_graph_is_captured(path):
    timer = Timer(library=2.0, a=1.0, b=3.0)
    capturing = True
    own = selector(path, timer, lambda: capturing)
    assert own.fastest(KEY, RUNS) is RESULTS[LIBRARY]
    assert not timer.measured
    capturing = False
    assert own.fastest(KEY, RUNS) is RESULTS["a"]
    capturing = True
    assert own.fastest(KEY, RUNS) is RESULTS["a"]
    assert selector(path, Timer(), lambda: True).fastest(KEY, RUNS) is RESULTS["a"]


def test_keys_differ_where_the_selection_may():
    x, w = torch.zeros(2, 3, 4, 4), torch.zeros(5, 3, 3, 3)
    keys = {
        selection_key("op", (x, w), ([1, 1], "relu")),
        selection_key("other", (x, w), ([1, 1], "relu")),
        selection_key("op", (x[:1], w), ([1, 1], "relu")),
        selection_key("op", (x, None), ([1, 1], "relu")),
        selection_key("op", (x.half(), w), ([1, 1], "relu")),
        selection_key("op", (x, w), ([1, 2], "relu")),
    }
    assert len(keys) == 6


def test_a_selection_that_was_made_reads_no_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("FASTGAN_CACHE", str(tmp_path))
    monkeypatch.setattr(_autotune, "hardware", lambda index: {"device": "stand-in"})
    monkeypatch.setattr(_autotune, "milliseconds", lambda run, tensors: 1.0)
    monkeypatch.setattr(torch.cuda, "device", lambda index: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    _autotune._selector.cache_clear()

    def fastest():
        return _autotune.fastest(torch.device("cuda", 0), ("op",), lambda: {LIBRARY: lambda x: x + 1}, (torch.ones(2),))

    try:
        first = fastest()
        monkeypatch.setattr(env, "read", lambda name: pytest.fail(f"{name} was read"))
        assert torch.equal(fastest(), first)
    finally:
        _autotune._selector.cache_clear()
