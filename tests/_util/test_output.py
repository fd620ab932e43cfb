"""What is printed, where it cannot be, and what names out of files may do to a terminal."""

import errno
import io
import json
import os
import subprocess
import sys

import pytest

from fastgan._util import log, output
from fastgan._util.output import BestEffort, printable
from fastgan._util.progress import Progress

QUICK = ["--width", 4, "--latent", 8, "--batch", 8, "--steps", 3, "--log-every", 1, "--sample-every", 3,
         "--checkpoint-every", 2, "--compile", "off"]  # fmt: skip


def test_control_characters_are_escaped():
    assert printable("Bär ✓ 100 % 猫") == "Bär ✓ 100 % 猫"
    assert printable("a\x1b[2Jb\rc\x07\x9b\x7f") == r"a\x1b[2Jb\rc\x07\x9b\x7f"
    assert printable("a\nb\tc") == r"a\nb\tc"
    assert printable("a\nb", lines=True) == "a\nb"
    assert printable("exe\u202egpj") == r"exe\u202egpj"  # shown as exejpg
    assert printable("\udcff") == r"\udcff"  # a byte of a file name that is no UTF-8


class Broken(io.StringIO):
    def __init__(self, error, tty=False):
        super().__init__()
        self.problem, self.tty, self.calls = error, tty, 0

    def write(self, text):
        self.calls += 1
        raise self.problem

    flush = write
    isatty = lambda self: self.tty  # noqa: E731


@pytest.mark.parametrize(
    "error", [BrokenPipeError(errno.EPIPE, "Broken pipe"), OSError(errno.EIO, "EIO"), ValueError("I/O on closed file")]
)
def test_a_stream_that_fails_is_written_no_more(error):
    stream = Broken(error, tty=True)
    shown = BestEffort(stream)
    for _ in range(3):
        shown.write("text")
        shown.flush()
    assert stream.calls == 1
    assert isinstance(shown.error, OSError)
    progress = Progress("training", 3, stream)
    for _ in range(3):
        progress.add(note="fine")
    progress.close()


def test_there_may_be_no_stderr(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with log.printing():
        log.ROOT.warning("nobody reads this")
    progress = Progress("training", 3)
    progress.add()
    progress.close()
    BestEffort(None).write("text")


def test_a_character_that_the_encoding_lacks():
    raw = io.BytesIO()
    shown = BestEffort(io.TextIOWrapper(raw, encoding="ascii"))
    shown.write("128×128 ✓")
    shown.flush()
    assert raw.getvalue() == rb"128\xd7128 \u2713"
    assert shown.error is None


def test_messages_and_bars_share_one_stream():
    assert output.stderr() is output.stderr()


def run(words, tmp_path, shell):
    """`fastgan WORDS` with a redirection, in a process of its own."""
    line = f'"$0" -m fastgan "$@" {shell}'
    return subprocess.run(
        ["sh", "-c", line, sys.executable, *map(str, words)], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "FASTGAN_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}, timeout=300, check=False,
    )  # fmt: skip


REDIRECTIONS = {
    "both closed": (">&- 2>&-", 0),
    "both full": (">/dev/full 2>/dev/full", 1),
    "a pipe without a reader": ("2>&1 | true", 0),
    "stdin too": ("<&- >&- 2>&-", 0),
    "ascii": ("| cat", 0),
}


@pytest.mark.parametrize(
    "where",
    [
        pytest.param(name, marks=[pytest.mark.full] * (name not in ("both closed", "both full")))
        for name in REDIRECTIONS
    ],
)
def test_training_does_not_need_to_be_read(where, tmp_path, images_npz):
    shell, code = REDIRECTIONS[where]
    done = run(["train", "demo", "--data", images_npz, "--out", "run", *QUICK], tmp_path, shell)
    assert done.returncode == code, done.stderr
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "finished"
    assert (tmp_path / "run" / "checkpoints" / "00000003").is_dir()
    # No file got a closed descriptor's number, and what is printed.
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 3
    assert "Traceback" not in done.stderr


def test_what_only_prints_fails_where_nothing_can_be_written(tmp_path):
    done = run(["presets"], tmp_path, ">/dev/full")
    assert done.returncode == 1
    assert done.stderr == "fastgan: not all of the output could be written: No space left on device\n"
    done = run(["presets"], tmp_path, "| head -1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("name, time for all steps")


def test_a_terminal_of_another_encoding(command):
    done = command("data", "list", env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert r"images 1\xd728\xd728" in done.stdout


def test_names_out_of_files_reach_the_terminal_escaped(command, tmp_path):
    from PIL import Image

    for name in ("cat\x1b]0;owned\x07", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(2):
            Image.new("L", (8, 8), 40 * i).save(tmp_path / "data" / name / f"{i}\x1b[2J.png")
    done = command("data", "info", "data")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert "\x07" not in done.stdout + done.stderr
    assert r"cat\x1b]0;owned\x07" in done.stdout
    done = command("sample", "no\x1b[31mrun\udcff")
    assert "\x1b" not in done.stderr
    assert r"no\x1b[31mrun\udcff" in done.stderr
