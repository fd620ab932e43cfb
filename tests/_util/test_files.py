"""Atomic writes of several processes, links, and what killed processes leave."""

import errno
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from fastgan._util import files, locks
from fastgan._util.files import clean, is_unfinished, write_whole
from fastgan.errors import UsageError, WriteError

LEFT = ".fastgan-0123456789abcdef.part"


def child(code, *arguments):
    """A process that runs `code`; it prints a line when it is ready and waits for its input to end."""
    program = [sys.executable, "-c", code + "\nprint(flush=True)\nimport sys\nsys.stdin.read()", *map(str, arguments)]
    process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "\n"
    return process


def ended(process, kill=False):
    if kill:
        process.kill()
    process.communicate()


def test_several_writers_of_one_file_each_write_a_whole_one(tmp_path):
    path = tmp_path / "file"
    contents = [bytes([65 + i]) * 200_000 for i in range(4)]
    problems, found = [], set()

    def write(data):
        try:
            for _ in range(20):
                write_whole(path, data)
        except WriteError as error:
            problems.append(error)

    write_whole(path, contents[0])
    threads = [threading.Thread(target=write, args=(data,)) for data in contents]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        found.add(path.read_bytes())
    assert problems == []
    assert found <= set(contents)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_link_is_replaced_and_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "file").symlink_to(victim)
    for name in (".file.part", LEFT):
        (tmp_path / name).symlink_to(victim)
    write_whole(tmp_path / "file", b"data")
    clean(tmp_path)
    assert victim.read_text() == "precious"
    assert (tmp_path / "file").read_bytes() == b"data"
    assert not (tmp_path / "file").is_symlink()


def test_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "other").touch()
    write_whole(tmp_path / "file", b"data")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path):
    path = tmp_path / ("n" * 251 + ".png")
    write_whole(path, b"data")
    assert path.read_bytes() == b"data"


HOLD = """
import sys
from pathlib import Path
from fastgan._util import files
entered = getattr(files, sys.argv[1])(Path(sys.argv[2]) / "file")
path = entered.__enter__()
"""


@pytest.mark.parametrize("kind", ["aside", "aside_folder"])
def test_only_what_killed_processes_left_is_removed(tmp_path, kind):
    process = child(HOLD, kind, tmp_path)
    (working,) = tmp_path.iterdir()
    assert is_unfinished(working)
    clean(tmp_path)
    assert working.exists()
    ended(process, kill=True)
    assert working.exists()
    for name in (".notes.part", ".fastgan-notes.part", "fastgan-0123456789abcdef.part"):
        (tmp_path / name).touch()
    clean(tmp_path)
    assert not working.exists()
    assert len(list(tmp_path.iterdir())) == 3


def test_the_first_write_into_a_folder_removes_what_was_left(tmp_path):
    (tmp_path / LEFT).write_bytes(b"half")
    write_whole(tmp_path / "file", b"data")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_without_file_locks_nothing_is_removed_that_may_be_in_use(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    (tmp_path / LEFT).touch()
    write_whole(tmp_path / "file", b"data")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [LEFT, "file"]
    with locks.owned(tmp_path / "lock", tmp_path, "works"), locks.owned(tmp_path / "lock", tmp_path, "works"):
        assert locks.owner(tmp_path / "lock") is None


def test_an_error_in_the_block_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    half = {
        "writing_whole": lambda file: file.write(b"half"),
        "aside": lambda temporary: temporary.write_bytes(b"half"),
        "aside_folder": lambda temporary: (temporary / "inner").write_bytes(b"half"),
    }

    def fail(kind):
        with getattr(files, kind)(path) as opened:
            half[kind](opened)
            raise ValueError("mine")

    for kind in half:
        with pytest.raises(ValueError, match="mine"):
            fail(kind)
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("file", b"old")]


OWN = """
import sys
from pathlib import Path
from fastgan._util import locks
entered = locks.owned(Path(sys.argv[1]), Path("there"), "works there")
entered.__enter__()
"""


@pytest.mark.parametrize("kill", [True, False])
def test_a_lock_names_its_owner_and_ends_with_it(tmp_path, kill):
    path = tmp_path / "lock"
    process = child(OWN, path)
    host = os.uname().nodename
    assert locks.owner(path) == f"pid {process.pid} on {host}"
    words = rf"out: there: another process \(pid {process.pid} on {host}\) works there"
    with pytest.raises(UsageError, match=words), locks.owned(path, "there", "works there"):
        pass
    ended(process, kill)
    assert locks.owner(path) is None
    with locks.owned(path, "there", "works there"):
        assert locks.owner(path) == f"pid {os.getpid()} on {host}"
    assert not path.exists()


def test_a_forked_child_does_not_keep_the_lock(tmp_path):
    path = tmp_path / "lock"
    read, write = os.pipe()
    with locks.owned(path, tmp_path, "works there"):
        pid = os.fork()
        if not pid:
            os.close(write)
            os.read(read, 1)  # until the parent has ended its block
            os._exit(0)
        os.close(read)
    with locks.owned(path, tmp_path, "works there"):
        pass
    os.close(write)
    os.waitpid(pid, 0)


def test_a_forked_child_does_not_keep_a_lock_that_is_waited_for(tmp_path):
    read, write = os.pipe()
    with locks.locked(tmp_path / "lock"):
        pid = os.fork()
        if not pid:
            os.close(write)
            os.read(read, 1)
            os._exit(0)
        os.close(read)
        assert locks.busy(tmp_path / "lock")
    assert not locks.busy(tmp_path / "lock")
    os.close(write)
    os.waitpid(pid, 0)


def test_an_owner_is_found_where_locks_need_files_that_are_open_for_writing(tmp_path, monkeypatch):
    fcntl = locks.fcntl

    def as_on_nfs(descriptor, operation):
        reading = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        if operation & fcntl.LOCK_EX and reading:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return fcntl.flock(descriptor, operation)

    monkeypatch.setattr(
        locks,
        "fcntl",
        SimpleNamespace(
            flock=as_on_nfs, **{n: getattr(fcntl, n) for n in ("LOCK_EX", "LOCK_SH", "LOCK_NB", "LOCK_UN")}
        ),
    )
    path, refused = tmp_path / "lock", []

    def second():
        with pytest.raises(UsageError) as error, locks.owned(path, "there", "works there"):
            pass
        refused.append(str(error.value))

    with locks.owned(path, "there", "works there"):
        assert locks.busy(path)
        assert locks.owner(path).startswith(f"pid {os.getpid()} on ")
        thread = threading.Thread(target=second, daemon=True)
        thread.start()
        thread.join(20)
    assert refused == [f"out: there: another process (pid {os.getpid()} on {os.uname().nodename}) works there"]


def test_a_lock_file_that_is_another_ones_by_now_stays(tmp_path):
    path = tmp_path / "lock"
    with locks.owned(path, "there", "works there"):
        path.unlink()  # with the folder of the work, when it is done
        second = locks.owned(path, "there", "works there")
        second.__enter__()
    assert locks.busy(path)
    second.__exit__(None, None, None)
    assert not path.exists()


def test_a_link_in_the_place_of_a_lock_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "lock").symlink_to(victim)
    with pytest.raises(OSError, match="lock"), locks.owned(tmp_path / "lock", tmp_path, "works"):
        pass
    assert victim.read_text() == "precious"
