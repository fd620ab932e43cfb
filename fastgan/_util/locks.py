"""Locks between processes, by flock: they end with the process that holds them, however it ends.

On a system or a disk without file locks nothing is locked, and nothing is refused.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from fastgan.errors import UsageError

try:
    import fcntl
except ImportError:  # a system without file locks
    fcntl = None  # type: ignore[assignment]

#: Open no link: what it points to is somebody else's file.
NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
#: Flags to open any file for a look at it; a FIFO does not block.
READ = os.O_RDONLY | NOFOLLOW | getattr(os, "O_NONBLOCK", 0)
#: Descriptors of held locks. A forked child closes them: otherwise it would keep a lock that its parent has released.
_held: set[int] = set()


def try_lock(descriptor: int, *, shared: bool = False) -> bool | None:
    """Lock a file without waiting: whether it is locked now; None where there are no file locks.

    shared: only against exclusive locks. NFS has the other kind for files that are open for writing alone.
    """
    try:
        if fcntl is None:
            return None
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def is_file_of(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except OSError:
        return False


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock against other processes and threads; waits for it.

    path: a folder, which is locked itself, or a lock file, which is created.
    """
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT | NOFOLLOW
    descriptor = os.open(path, flags, 0o666)
    _held.add(descriptor)
    try:
        with contextlib.suppress(OSError):
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        _release(descriptor)


def busy(path: Path) -> bool:
    """Whether another process or thread holds that lock file at the moment. Changes nothing."""
    try:
        descriptor = os.open(path, READ)
    except OSError:
        return False
    try:
        return try_lock(descriptor, shared=True) is False
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def owned(path: Path, where: Path, doing: str) -> Iterator[None]:
    """Be the one process that holds the lock file `path`, which has its pid and host in it, until the block ends.

    where, doing: for the UsageError where another process holds it, such as RUN, "trains there". Raises OSError where
    the file cannot be written.
    """
    descriptor = _taken(path, where, doing)
    _held.add(descriptor)
    try:
        with contextlib.suppress(OSError):  # a full disk: the lock holds nevertheless
            os.truncate(descriptor, 0)
            os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        yield
    finally:
        # Not in a forked child, nor where its folder was removed: the file of that name is another process's then.
        if descriptor in _held and is_file_of(descriptor, path):
            with contextlib.suppress(OSError):
                path.unlink()
        _release(descriptor)


def _release(descriptor: int) -> None:
    if descriptor in _held:  # closed already in a forked child
        _held.discard(descriptor)
        with contextlib.suppress(OSError):
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_UN)  # a child that was forked just now has it open still
        os.close(descriptor)


def _taken(path: Path, where: Path, doing: str) -> int:
    """The descriptor of a lock file that this process holds now."""
    attempts = 0
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | NOFOLLOW, 0o666)
        got = try_lock(descriptor)
        # Its last owner may have removed it in between.
        if got is not False and is_file_of(descriptor, path):
            return descriptor
        attempts += got is False
        found = _stated(descriptor)
        os.close(descriptor)
        if attempts > 5:
            raise UsageError(f"out: {where}: another process ({found}) {doing}")
        if got is False:
            time.sleep(0.02)  # `owner` holds it for an instant


def owner(path: Path) -> str | None:
    """ "pid N on HOST" of the process that holds the lock file `path` (see `owned`), or None. Changes nothing."""
    try:
        descriptor = os.open(path, READ)
    except OSError:
        return None
    try:
        return _stated(descriptor) if try_lock(descriptor, shared=True) is False else None
    finally:
        os.close(descriptor)


def _stated(descriptor: int) -> str:
    """What a lock file says of its owner."""
    try:
        facts = json.loads(os.read(descriptor, 1000))
        return f"pid {int(facts['pid'])} on {facts['host']}"
    except (ValueError, LookupError, TypeError, OSError):  # it is being written
        return "unknown"


def _close_held() -> None:
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_held)
