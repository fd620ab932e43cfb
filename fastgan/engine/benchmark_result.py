"""What `fastgan.benchmark` returns: a table, and what limits the step."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from fastgan._util.timing import Timing

#: The GPU waits for the host where its work takes less than this share of the wall time.
_WAITS = 0.7
#: An operation on a CPU that takes less on average is mostly overhead of the dispatcher and of autograd.
_SMALL_MICROSECONDS = 20.0


@dataclass(frozen=True)
class Contestant:
    """One way to run the step.

    wall, host, graph: milliseconds (docs/performance.md); on a CPU wall alone. graph: of one replay with a cleared L2
    cache; for the eager step that of its CUDA graph. launches: of kernels and graphs on a GPU. operations: that reach
    the dispatcher, on a CPU. passes: convolutions. memory: peak bytes beyond what was allocated before, on a GPU. None:
    not measured. reason: why there are no times, or "".
    """

    name: str
    wall: Timing | None = None
    host: Timing | None = None
    graph: Timing | None = None
    launches: int | None = None
    operations: int | None = None
    passes: int | None = None
    memory: int | None = None
    note: str = ""
    reason: str = ""

    def with_times(self, wall: Timing, host: Timing | None, graph: Timing | None) -> Contestant:
        return replace(self, wall=wall, host=host, graph=graph)

    def with_memory(self, memory: int) -> Contestant:
        return replace(self, memory=memory)

    def with_launches(self, launches: int) -> Contestant:
        return replace(self, launches=launches)


@dataclass(frozen=True)
class Benchmark:
    """The measurements of a step; `print` shows them as a table. contestants: eager first."""

    step: str
    device: str
    contestants: tuple[Contestant, ...]

    def __getitem__(self, name: str) -> Contestant:
        """The contestant of that name. KeyError if there is none."""
        for contestant in self.contestants:
            if contestant.name == name:
                return contestant
        raise KeyError(name)

    @property
    def limits(self) -> tuple[str, ...]:
        """What the measurements say about what limits the step, a sentence each."""
        eager = self["eager"]
        assert eager.wall is not None
        found = []
        if eager.host is not None and eager.graph is not None:
            calls, gpu = f"the calls take {_ms(eager.host)} ms", f"the GPU {_ms(eager.graph)} ms"
            waits = eager.graph.median < _WAITS * eager.wall.median
            found.append(f"{'host-bound' if waits else 'GPU-bound'} in eager mode: {calls}, {gpu}")
        elif eager.host is not None:
            share = eager.host.median / eager.wall.median
            found.append(f"in eager mode the calls take {_ms(eager.host)} of {_ms(eager.wall)} ms ({share:.0%})")
        elif eager.operations:
            each = 1e3 * eager.wall.median / eager.operations
            small = ": mostly overhead of single operations" if each < _SMALL_MICROSECONDS else ""
            found.append(f"{eager.operations} operations in eager mode, {each:.0f} µs each on average{small}")
        fewer = [one for one in self.contestants if one.passes is not None and one.passes < (eager.passes or 0)]
        if fewer:
            least = min(fewer, key=lambda one: one.passes or 0)
            hint = "; fastgan.fuse avoids such passes in eager mode"
            found.append(f"convolutions: {eager.passes} passes in eager mode, {least.passes} with {least.name}{hint}")
        return tuple(found)

    def __str__(self) -> str:
        cuda = self["eager"].host is not None
        head = ["", "wall ms", "host ms", "graph ms", "launches" if cuda else "operations", "convolutions", "peak MB"]
        lines = [[*head, "times eager"]]
        base = self["eager"].wall
        for one in self.contestants:
            if one.wall is None or base is None:
                lines.append([one.name, f"not timed: {one.reason}"])
                continue
            count = one.launches if cuda else one.operations
            memory = "n/a" if one.memory is None else f"{one.memory / 1e6:.0f}"
            # On a CPU a call has finished when it returns.
            host = _ms(one.host if cuda else one.wall)
            cells = [one.name, _ms(one.wall), host, _ms(one.graph), _count(count), _count(one.passes), memory]
            lines.append([*cells, f"{base.median / one.wall.median:.2f}"])
        widths = [max(len(line[i]) for line in lines if i < len(line) and len(line) > 2) for i in range(len(lines[0]))]
        widths[0] = max(len(line[0]) for line in lines)
        text = [f"{self.step} on {self.device}"]
        for name, *cells in lines:
            if len(cells) == 1:
                text.append(f"{name:<{widths[0]}}  {cells[0]}")
                continue
            shown = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
            text.append("  ".join([f"{name:<{widths[0]}}", *shown]))
        text += [f"{one.name}: {one.note}" for one in self.contestants if one.note and one.wall is not None]
        return "\n".join([*text, *self.limits])

    def as_dict(self) -> dict[str, Any]:
        """All measurements, for JSON. Times are milliseconds: median, q20, q80."""
        return asdict(self) | {"limits": list(self.limits)}


def _ms(timing: Timing | None) -> str:
    if timing is None:
        return "-"
    return f"{timing.median:.3f}" if timing.median < 10 else f"{timing.median:.1f}"


def _count(value: int | None) -> str:
    return "-" if value is None else str(value)
