"""Choices by measurement, with a timer that is told the times."""

import json
import subprocess
import sys
import warnings

import pytest
import torch

from fastgan._util.autotune import table_path
from fastgan.ops._autotune import LIBRARY, Chooser, question, read, table

ASKED = question("op", (torch.zeros(2, 3, 4, 5), None), ([1, 2], "relu", 0.5, None))
TEXT = "op 2x3x4x5:float32 None 1x2 relu 0.5 None"
MACHINE = {"device": "A GPU", "driver": "1", "torch": "2", "cudnn": "3", "triton": "4", "kernels": "5"}


class Timer:
    """Runs once and says what it was told; an exception instead of a time is raised."""

    def __init__(self, **times):
        self.times = times
        self.asked = []

    def __call__(self, run):
        name = run()
        self.asked.append(name)
        if isinstance(self.times[name], Exception):
            raise self.times[name]
        return self.times[name]


RUNS = {LIBRARY: lambda: LIBRARY, "a": lambda: "a", "b": lambda: "b"}


def chooser(path, timer, capturing=lambda: False):
    return Chooser(table(path, MACHINE), timer, capturing)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "kernels" / "gpu.json"


def test_the_fastest_runs_and_is_measured_once(path):
    timer = Timer(library=2.0, a=3.0, b=1.0)
    own = chooser(path, timer)
    assert [own.fastest(ASKED, RUNS) for _ in range(3)] == ["b"] * 3
    assert timer.asked == [LIBRARY, "a", "b"]
    assert own.fastest(question("op", (torch.zeros(1),), ()), RUNS) == "b"
    assert len(timer.asked) == 6


def test_the_file_tells_the_next_process(path):
    chooser(path, Timer(library=2.0, a=1.0, b=3.0)).fastest(ASKED, RUNS)
    machine, choices = read(path)
    assert machine == MACHINE
    assert choices[TEXT].name == "a"
    assert choices[TEXT].milliseconds == {LIBRARY: 2.0, "a": 1.0, "b": 3.0}
    timer = Timer()
    assert chooser(path, timer).fastest(ASKED, RUNS) == "a"
    assert not timer.asked


@pytest.mark.parametrize("changed", MACHINE)
def test_nothing_is_reused_on_another_machine(tmp_path, changed):
    assert table_path(tmp_path, MACHINE) == table_path(tmp_path, dict(MACHINE))
    assert table_path(tmp_path, MACHINE) != table_path(tmp_path, {**MACHINE, changed: "other"})


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"choices": {}}',
        '{"machine": {}, "choices": {"q": {"name": "a"}}}',
        '{"machine": {}, "choices": {"q": {"name": "a", "milliseconds": {}, "unavailable": {}}}}',
        '{"machine": {}, "choices": {"q": {"name": "a", "milliseconds": {"a": "x"}, "unavailable": {}}}}',
        "\x80\x04",
    ],
)
def test_a_corrupt_file_is_ignored_with_one_warning_and_rewritten(path, content):
    path.parent.mkdir()
    path.write_text(content)
    with pytest.warns(RuntimeWarning, match="cannot be read, so kernels are measured again") as warned:
        assert chooser(path, Timer(library=1.0, a=2.0, b=2.0)).fastest(ASKED, RUNS) == LIBRARY
    assert len(warned) == 1
    assert read(path)[1][TEXT].name == LIBRARY


def test_bytes_that_are_no_text_are_a_corrupt_file(path):
    path.parent.mkdir()
    path.write_bytes(b"\xff\xfe\xfa")
    with pytest.warns(RuntimeWarning, match="cannot be read"):
        chooser(path, Timer())


def test_a_place_that_cannot_be_written_costs_one_warning(tmp_path):
    (tmp_path / "kernels").write_text("a file where the directory should be")
    timer = Timer(library=2.0, a=1.0, b=3.0)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        own = chooser(tmp_path / "kernels" / "gpu.json", timer)
        found = [own.fastest(asked, RUNS) for asked in (ASKED, question("other", (), ()), ASKED)]
    assert found == ["a"] * 3
    assert [str(w.message).count("so kernels are measured again") for w in warned] == [1]
    assert len(timer.asked) == 6


def test_what_another_process_stored_in_the_meantime_stays(path):
    mine, other = (chooser(path, Timer(library=2.0, a=1.0, b=3.0)) for _ in range(2))
    other.fastest(question("other", (), ()), RUNS)
    mine.fastest(ASKED, RUNS)
    assert set(read(path)[1]) == {"other", TEXT}
    assert {file.name for file in path.parent.iterdir()} == {"gpu.json", "gpu.lock"}


WRITER = """
import sys
from pathlib import Path
from fastgan._util.autotune import Choice, Table
table = Table(Path(sys.argv[1]), {}, "kernels")
for i in range(20):
    table.put(f"{sys.argv[2]} {i}", Choice("library", {"library": 1.0}, {}))
"""


def test_two_processes_that_write_at_once_lose_nothing(path):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name]) for name in ("one", "two")]
    assert [writer.wait(120) for writer in writers] == [0, 0]
    assert len(read(path)[1]) == 40


def test_what_does_not_compile_is_not_chosen_and_remembered_with_its_reason(path):
    timer = Timer(library=2.0, a=RuntimeError("out of resource: shared memory\nmore"), b=ValueError())
    assert chooser(path, timer).fastest(ASKED, RUNS) == LIBRARY
    choice = read(path)[1][TEXT]
    assert choice.unavailable == {"a": "out of resource: shared memory", "b": "ValueError"}
    timer = Timer()
    assert chooser(path, timer).fastest(ASKED, RUNS) == LIBRARY
    assert not timer.asked


def test_without_memory_to_measure_the_library_runs_and_nothing_is_remembered(path):
    timer = Timer(library=2.0, a=torch.OutOfMemoryError("full"), b=1.0)
    own = chooser(path, timer)
    assert [own.fastest(ASKED, RUNS) for _ in range(2)] == [LIBRARY] * 2
    assert timer.asked == [LIBRARY, "a"]
    assert not path.exists()


def test_an_error_of_the_library_is_the_callers(path):
    with pytest.raises(ValueError, match="wrong"):
        chooser(path, Timer(library=ValueError("wrong"))).fastest(ASKED, RUNS)


def test_nothing_is_measured_while_a_graph_is_captured(path):
    timer = Timer(library=2.0, a=1.0, b=3.0)
    capturing = True
    own = chooser(path, timer, lambda: capturing)
    assert own.fastest(ASKED, RUNS) == LIBRARY
    assert not timer.asked
    capturing = False
    assert own.fastest(ASKED, RUNS) == "a"
    capturing = True
    assert own.fastest(ASKED, RUNS) == "a"
    assert chooser(path, Timer(), lambda: True).fastest(ASKED, RUNS) == "a"


def test_questions_differ_where_the_answer_may():
    x, w = torch.zeros(2, 3, 4, 4), torch.zeros(5, 3, 3, 3)
    asked = {
        question("op", (x, w), ([1, 1], "relu")),
        question("other", (x, w), ([1, 1], "relu")),
        question("op", (x[:1], w), ([1, 1], "relu")),
        question("op", (x, None), ([1, 1], "relu")),
        question("op", (x.half(), w), ([1, 1], "relu")),
        question("op", (x, w), ([1, 2], "relu")),
    }
    assert len(asked) == 6


def test_a_missing_file_is_no_reason_to_warn(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert table(path, MACHINE).get(TEXT) is None


def test_the_file_is_plain_json(path):
    chooser(path, Timer(library=2.0, a=1.0, b=3.0)).fastest(ASKED, RUNS)
    assert set(json.loads(path.read_text())) == {"machine", "choices"}
