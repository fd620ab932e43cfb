import io

from fastgan.train.progress import Progress, clock


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_clock():
    assert [clock(s) for s in (0, 61.4, 3599.7, 7322)] == ["0:00", "1:01", "1:00:00", "2:02:02"]


def test_a_terminal_gets_one_live_line():
    stream = Terminal()
    progress = Progress(100, stream)
    progress.show(1, 812.4, 75, {"D": 1.25, "G": -0.5}, [])
    progress.show(2, 9, 5, {"D": 1.0}, [])
    progress.close()
    first, second = stream.getvalue().split("\r")[1:]
    assert first == "step 1/100  812 img/s  1:15 left  nothing wrong  D +1.250  G -0.500"
    # Nothing of the old is left.
    assert second == "step 2/100  9 img/s  0:05 left  nothing wrong  D +1.000".ljust(len(first)) + "\n"


def test_a_file_gets_a_line_now_and_then_and_always_the_last():
    stream = io.StringIO()
    progress = Progress(100, stream)
    for step in (*range(1, 50), 100):
        progress.show(step, 1, 1, {}, [])
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == ["1/100", "100/100"]


def test_the_live_line_says_what_is_wrong_and_never_wraps(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    stream = Terminal()
    progress = Progress(100, stream)
    progress.show(1, 812.4, 75, {"D": 1.25}, [])
    progress.show(2, 812.4, 75, {"D": 1.25}, ["mode collapse", "vanishing generator gradient"])
    first, second = stream.getvalue().split("\r")[1:]
    assert first == "step 1/100  812 img/s  1:15 left  nothing wrong  D +1.250"
    assert second == "step 2/100  812 img/s  1:15 left  mode collapse, vanishing"[:59].ljust(len(first))
