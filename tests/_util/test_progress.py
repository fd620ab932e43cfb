import io
import logging
import subprocess
import sys

import pytest

from fastgan._util import log, progress
from fastgan._util.files import amount
from fastgan._util.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_bar_in_a_terminal():
    stream = Terminal()
    shown = Progress("packing set", 4, stream)
    for _ in range(4):
        shown.add(note="healthy")
    shown.close()
    text = stream.getvalue()
    assert "packing set: 100%" in text
    assert "4/4" in text
    assert "healthy" in text
    assert "images/s" in text
    assert text.count("\n") == 1


def test_without_a_terminal_a_message_is_logged_every_ten_seconds(clock, caplog):
    caplog.set_level(logging.INFO)
    stream = io.StringIO()
    shown = Progress("packing set", 1000, stream)
    for _ in range(25):
        clock[0] += 1
        shown.add()
    shown.close()
    assert stream.getvalue() == ""
    assert caplog.messages == [
        "packing set: 10 of 1,000 images, 1 per second, 16:30 left",
        "packing set: 20 of 1,000 images, 1 per second, 16:20 left",
    ]


def test_an_unknown_total_and_resumed_work(clock, caplog):
    caplog.set_level(logging.INFO)
    shown = Progress("upscaling clip", None, io.StringIO(), unit="frames", before=500)
    clock[0] += 20
    shown.add(16)
    shown = Progress("upscaling clip", 600, io.StringIO(), unit="frames", before=500)
    clock[0] += 20
    shown.add(20)
    assert caplog.messages == [
        "upscaling clip: 516 frames, 0.8 per second",
        "upscaling clip: 520 of 600 frames, 1 per second, 1:20 left",
    ]


def test_short_work_and_quiet_ranks_show_nothing(clock, caplog):
    caplog.set_level(logging.INFO)
    Progress("packing set", 2, io.StringIO()).add()
    stream = Terminal()
    quiet = Progress("packing set", 2, stream, quiet=True)
    clock[0] += 100
    quiet.add()
    quiet.close()
    assert caplog.messages == []
    assert stream.getvalue() == ""


def test_messages_of_a_program_without_logging_go_to_stderr():
    code = "import logging, fastgan; logging.getLogger('fastgan.x').info('a message'); {more}"
    run = subprocess.run([sys.executable, "-c", code.format(more="pass")], capture_output=True, text=True)
    assert (run.stdout, run.stderr) == ("", "a message\n")
    # One that configures logging has its own handlers; each message is printed once.
    code = f"import logging; logging.basicConfig(format='own %(message)s', level=20); {code.format(more='pass')}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stderr == "own a message\n"


def test_the_command_line_always_prints_messages(capsys):
    with log.printing():
        logging.getLogger("fastgan.x").info("a message")
    logging.getLogger("fastgan.x").info("handled by pytest's own handler")
    assert capsys.readouterr().err == "a message\n"


def test_formatted_sizes():
    assert [amount(size) for size in (7_840_000, 999_000_000, 1_234_000_000)] == ["7.8 MB", "999.0 MB", "1.2 GB"]


KILLED_WHILE_PRINTING = """
import logging, os, signal
from fastgan._util.log import bars

logging.getLogger("fastgan").info("before")
ready, write = os.pipe()
child = os.fork()
if not child:
    bars().get_lock().acquire()
    os.write(write, b"1")
    signal.pause()
os.read(ready, 1)
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
logging.getLogger("fastgan").info("after")
"""


def test_a_forked_process_that_is_killed_while_it_prints_does_not_stop_the_others():
    done = subprocess.run([sys.executable, "-c", KILLED_WHILE_PRINTING], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "before\nafter\n")
