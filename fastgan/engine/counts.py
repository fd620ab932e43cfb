"""Counts of a run of a step: operations, convolutions, and launches on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Counts(TorchDispatchMode):
    """Counts the operations that reach the dispatcher, and the convolutions in them (`fastgan.engine.passes`)."""

    def __init__(self) -> None:
        # Inductor imports triton, which `import fastgan` must not.
        from fastgan.engine.passes import passes_of

        super().__init__()
        self._passes_of = passes_of
        self.operations = self.passes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        self.passes += self._passes_of(func, args)
        return func(*args, **(kwargs or {}))


def launches(run: Callable[[], object]) -> int:
    """How often the host launches a kernel or a graph on the GPU in one call of `run`."""
    run()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        run()
        torch.cuda.synchronize()
    return sum(event.count for event in seen.key_averages() if "Launch" in event.key)
