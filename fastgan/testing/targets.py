"""The pairs of a device and a back-end that can run in this process."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from fastgan._util import env, native
from fastgan.ops import _cuda
from fastgan.testing.case import OpCase
from fastgan.testing.cases import CASES


@dataclass(frozen=True)
class Target:
    """A device and the name of the back-end that is forced on it."""

    device: str
    backend: str

    def __str__(self) -> str:
        return f"{self.device}-{self.backend}"


def devices() -> list[str]:
    """ "cpu", and "cuda" if there is a GPU."""
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def targets() -> list[Target]:
    """All targets of this process. The environment variable FASTGAN_BACKEND restricts them to one back-end.

    Triton on the CPU means its interpreter, which is slow and must be chosen before triton is imported.
    """
    found = [Target("cpu", "reference")]
    if native.why_not("_cpu") is None:  # tests/test_native.py fails if it is missing although a compiler works
        found.append(Target("cpu", "cpp"))
    if env.flag("TRITON_INTERPRET"):
        found.append(Target("cpu", "triton"))
    elif torch.cuda.is_available():
        found.append(Target("cuda", "reference"))
        if importlib.util.find_spec("triton"):
            found.append(Target("cuda", "triton"))
        if _cuda.why_not("spectral_norm", torch.zeros(1, device="cuda"), (torch.float32,)) is None:
            found.append(Target("cuda", "cuda"))
    forced = env.read("FASTGAN_BACKEND")
    return [target for target in found if forced in ("", target.backend)]


def grid(
    dtypes: Iterable[torch.dtype] | None = None, cases: Iterable[OpCase] = CASES
) -> list[tuple[OpCase, Target, torch.dtype]]:
    """Every case on every target in every dtype that the back-end supports, restricted to `dtypes` if given.

    Triton gets the core cases only: it compiles a kernel for each, and its interpreter is slow.
    """
    wanted = None if dtypes is None else tuple(dtypes)
    return [
        (case, target, dtype)
        for case in cases
        for target in targets()
        for dtype in case.dtypes.get(target.backend, ())
        if (wanted is None or dtype in wanted) and (case.core or target.backend != "triton")
    ]
