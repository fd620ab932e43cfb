"""`fastgan.profile`: where the time of a step goes, by operation, on the host and on the GPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from fastgan._util.files import overwritable, writing_whole
from fastgan.engine.step_state import StepState
from fastgan.errors import UsageError
from fastgan.ops._library import Op

_SHOWN = 20  # rows of the text
_WARM_UPS = 3
_PREFIX = "fastgan::"


@dataclass(frozen=True)
class ProfileRow:
    """One operation or kernel. calls: in one step. host_ms: milliseconds of a step that the host spends in it, without
    the operations that it calls. device_ms: milliseconds of a step that the GPU spends in it; None on a CPU.
    """

    name: str
    calls: float
    host_ms: float
    device_ms: float | None


@dataclass(frozen=True)
class Profile:
    """The measurements of a step; `print` shows them. wall_ms: of a step without the profiler. device_ms: that the GPU
    is busy in it; None on a CPU. steps: that were recorded. rows: longest first.
    """

    step: str
    device: str
    wall_ms: float
    device_ms: float | None
    steps: int
    rows: tuple[ProfileRow, ...]

    def as_dict(self) -> dict[str, Any]:
        """All figures, as JSON can hold them."""
        return asdict(self)

    def __str__(self) -> str:
        on_gpu = self.device_ms is not None
        lines = [f"{self.step} on {self.device}: {self.wall_ms:.2f} ms a step"]
        if self.device_ms is not None:
            share = min(1.0, self.device_ms / self.wall_ms)
            lines[0] += f", the GPU is busy {self.device_ms:.2f} ms ({share:.0%})"
            if share < 0.7:
                lines.append("the GPU waits for the host: fastgan.compile, or its mode graph, removes launches")
        total = sum(_time(row) for row in self.rows) or 1.0
        width = max([4, *(len(row.name) for row in self.rows[:_SHOWN])])
        lines.append(f"{'name':{width}}  calls   host ms" + ("  device ms" if on_gpu else "") + "  share")
        for row in self.rows[:_SHOWN]:
            device = f"  {row.device_ms:9.3f}" if row.device_ms is not None else ""
            lines.append(f"{row.name:{width}}  {row.calls:5.0f}  {row.host_ms:8.3f}{device}  {_time(row) / total:5.0%}")
        if len(self.rows) > _SHOWN:
            rest = sum(_time(row) for row in self.rows[_SHOWN:])
            lines.append(f"and {len(self.rows) - _SHOWN} others, {rest:.3f} ms")
        lines.append("(times of operations are taken with the profiler, which adds to those of short ones)")
        return "\n".join(lines)


def profile(
    step: Callable[..., Any], *args: Any, steps: int = 5, trace: str | Path | None = None, overwrite: bool = False
) -> Profile:
    """Run a step under torch.profiler and sum the times by operation; fastgan's ops are among them by name.

    step: a function that may fill `.grad` and call optimizers, also one of `fastgan.compile`. args: as it is called.
    steps: recorded, after three others. trace: a JSON file to write with every event, for chrome://tracing or Perfetto.
    overwrite: replace an existing one.

    The state of modules and optimizers is as before afterwards. Raises UsageError for wrong arguments, WriteError where
    the trace cannot be written, and what the step raises.
    """
    if not callable(step):
        raise UsageError(f"step: expected a function of tensors, got {type(step).__name__}")
    if not isinstance(steps, int) or steps < 1:
        raise UsageError(f"steps: expected a number >= 1, got {steps!r}")
    if trace is not None:
        overwritable(Path(trace), overwrite, argument="trace")
    state = StepState(step, args)
    with state.held():
        cuda = any(tensor.is_cuda for tensor in state.tensors)
        state.begin()
        for _ in range(_WARM_UPS):
            step(*args)
        wall = _wall(step, args, steps, cuda)
        activities = [torch.profiler.ProfilerActivity.CPU]
        if cuda:
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        with _named_ops(), torch.profiler.profile(activities=activities) as seen:
            for _ in range(steps):
                step(*args)
            if cuda:
                torch.cuda.synchronize()
    if trace is not None:
        with writing_whole(Path(trace)) as file:
            seen.export_chrome_trace(file.name)
    rows = _rows(seen.key_averages(), steps, cuda)
    return Profile(
        step=getattr(step, "__name__", type(step).__name__),
        device=torch.cuda.get_device_name() if cuda else "CPU",
        wall_ms=wall,
        device_ms=sum(row.device_ms or 0.0 for row in rows) if cuda else None,
        steps=steps,
        rows=rows,
    )


def _time(row: ProfileRow) -> float:
    return row.host_ms if row.device_ms is None else row.device_ms


def _wall(step: Callable[..., Any], args: Any, steps: int, cuda: bool) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        step(*args)
    if cuda:
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - start) / steps


def _rows(events: Any, steps: int, cuda: bool) -> tuple[ProfileRow, ...]:
    rows = []
    for event in events:
        host, device = event.self_cpu_time_total / 1000 / steps, event.self_device_time_total / 1000 / steps
        if host > 0 or device > 0:
            rows.append(ProfileRow(event.key, event.count / steps, host, device if cuda else None))
    return tuple(sorted(rows, key=_time, reverse=True))


@contextmanager
def _named_ops() -> Iterator[None]:
    """A context in which the profiler sees fastgan's ops, which in eager mode do not pass PyTorch's dispatcher."""
    call = Op.__call__

    def named(op: Op, *args: Any) -> Any:
        with torch.profiler.record_function(f"{_PREFIX}{op.name}"):
            return call(op, *args)

    Op.__call__ = named  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Op.__call__ = call  # type: ignore[method-assign]
