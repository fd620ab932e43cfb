"""The back-end that is forced on every op, or ""."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from fastgan._util import env

#: Read once, since ops must not read the environment in each call.
forced = env.read("FASTGAN_BACKEND")


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Force a back-end ("reference", "cpp", "triton", ...) on every op, in all threads; "" lets each op select.

    An op that cannot run on it raises RuntimeError with the reason. For tests and benchmarks.
    """
    global forced
    before, forced = forced, name
    try:
        yield
    finally:
        forced = before
