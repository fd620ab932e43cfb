import io

import pytest

from fastgan._util import progress
from fastgan._util.files import amount
from fastgan._util.progress import Counter


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_terminal_has_one_live_line(clock):
    stream = Terminal()
    counter = Counter("packing set", 4, stream)
    for _ in range(4):
        clock[0] += 0.5
        counter.add()
    counter.close()
    counter.close()
    text = stream.getvalue()
    assert text.startswith("\rpacking set: 1 of 4 images, 2 per second, 0:02 left\rpacking set: 2 of 4")
    assert text.endswith("\rpacking set: 4 of 4 images, 2 per second, 0:00 left\n")
    assert text.count("\n") == 1


def test_elsewhere_a_plain_line_every_ten_seconds(clock):
    stream = io.StringIO()
    counter = Counter("packing set", 1000, stream)
    for _ in range(25):
        clock[0] += 1
        counter.add()
    counter.close()
    assert stream.getvalue() == (
        "packing set: 10 of 1,000 images, 1 per second, 16:30 left\n"
        "packing set: 20 of 1,000 images, 1 per second, 16:20 left\n"
    )


def test_a_total_that_is_not_known_and_work_that_was_begun_before(clock):
    stream = io.StringIO()
    counter = Counter("upscaling clip", None, stream, unit="frames", before=500)
    clock[0] += 20
    counter.add(16)
    assert stream.getvalue() == "upscaling clip: 516 frames, 0.8 per second\n"
    stream = io.StringIO()
    counter = Counter("upscaling clip", 600, stream, unit="frames", before=500)
    clock[0] += 20
    counter.add(20)
    assert stream.getvalue() == "upscaling clip: 520 of 600 frames, 1 per second, 1:20 left\n"


def test_what_takes_a_moment_says_nothing(clock):
    for stream in (io.StringIO(), Terminal()):
        counter = Counter("packing set", 2, stream)
        counter.add()
        counter.close()
        assert stream.getvalue() == ""


def test_amounts():
    assert [amount(size) for size in (7_840_000, 999_000_000, 1_234_000_000)] == ["7.8 MB", "999.0 MB", "1.2 GB"]
