"""Mutated files of every kind that fastgan reads, each opened in a process with limits on time and memory.

Whatever is in a file, it is handled or refused with a sentence (FastganError): no other exception, no hang, no crash,
no memory beyond the limit. child.py opens them, kinds.py lists the kinds, mutations.py changes the bytes. The seeds are
fixed: input 117 of a kind is the same in every run, and `python tests/hostile/child.py KIND FOLDER 117 1` opens it
alone (with tests/hostile and tests in PYTHONPATH).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
#: Names of kinds.KINDS, which is not imported here: its libraries belong into the child.
KINDS = [
    "pth", "safetensors", "nvidia-pickle", "ncnn", "npz", "npy", "idx", "zip", "tar", "png", "jpeg", "tiff", "webp",
    "video", "onnx", "onnx-openvino", "onnx-metadata", "pt2", "run", "toml", "yaml", "json",
]  # fmt: skip
NEEDS = {"video": "av", "onnx-openvino": "openvino"}
#: Kinds that are quick to open; the others are left to the full run.
QUICK = ["pth", "nvidia-pickle", "npz", "zip", "tar", "png", "onnx-metadata"]


def check(kind, first, count, tmp_path):
    if kind in NEEDS:
        pytest.importorskip(NEEDS[kind])
    paths = [FOLDER, FOLDER.parent, FOLDER.parents[1]]
    done = subprocess.run(
        [sys.executable, FOLDER / "child.py", kind, tmp_path, str(first), str(count)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == count
    wrong = [one for one in found if one["outcome"] not in ("handled", "refused")]
    assert not wrong, "\n".join(f"{one['number']}: {one['outcome']}: {one['text']}" for one in wrong[:5])
    if kind not in ("npy", "pt2"):  # the one has no kind of source, the other no code
        assert all(one["outcome"] == "handled" for one in found if one["valid"]), found


def test_kinds_are_listed():
    done = subprocess.run(
        [sys.executable, "-c", "import kinds; print(*kinds.KINDS)"],
        env={**os.environ, "PYTHONPATH": str(FOLDER)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == KINDS


FAULTS = """
import ctypes, time
from pathlib import Path
import child
from fastgan.errors import DataError
child.SECONDS, child.CLOCK = 4, 10  # to fill 800 MB takes a second, and longer beside other work
child.BASE = child.resident()
def spin():
    while True:
        pass
def refuse(text):
    raise DataError(text)
for fault in (lambda: 1, lambda: refuse("a"), lambda: refuse("a\\nb"), lambda: {}["x"], spin, lambda: time.sleep(600),
              lambda: ctypes.string_at(0), lambda: bytearray(5 << 30), lambda: b"x" * (800 << 20)):
    print(child.attempt(lambda path: fault(), Path.cwd() / "x")[0], flush=True)
"""


def test_what_is_wrong_is_found(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FAULTS],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [FOLDER, FOLDER.parents[1]]))},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    found = ["handled", "refused", "raw", "raw", "hang", "hang", "crash", "memory", "memory"]
    assert done.stdout.split() == found, done.stderr


@pytest.mark.parametrize("kind", QUICK)
def test_a_few_mutated_files(kind, tmp_path):
    check(kind, 0, 12, tmp_path)


@pytest.mark.full
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("kind", KINDS)
def test_mutated_files(kind, tmp_path):
    check(kind, 0, 300, tmp_path)
