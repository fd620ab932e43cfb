"""Times models in several back-ends, in alternating rounds: latency, throughput and memory."""

from __future__ import annotations

import csv
import functools
import importlib.util
import io
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastgan._util.timing import Clock, alternate, quantile, rounds_in, watch
from fastgan.errors import FastganError, UsageError
from fastgan.runtime.hardware import PeakMemory, cpu_features, cpu_name, gpu_names, usable_cores
from fastgan.runtime.session import FRAME, Session

COLUMNS = (
    "model", "backend", "task", "batch", "size", "p50_ms", "p95_ms", "p99_ms", "images_per_second", "runs", "memory_MB",
    "psnr_dB", "precision", "provider", "library", "threads", "cpu", "cpu_features", "gpu", "note",
)  # fmt: skip
#: dB. A back-end whose images differ more than that from the first one's is not timed.
PSNR_FLOOR = 30.0
#: Default batch sizes of models from latents, and of models from images.
LATENTS, IMAGES = (1, 4, 16, 64), (1, 4)
#: What is timed: the network on float32 inputs, and uint8 frames to uint8 frames with both conversions.
MODEL, PIXELS = "model", "pixels"

_logger = logging.getLogger(__name__)

Row = dict[str, Any]
Opens = Callable[[], Session]


@dataclass
class BenchmarkOptions:
    """batches: batch sizes; empty for LATENTS or IMAGES. size: width and height of input images. seconds: of timing,
    for each back-end, task and batch size."""

    batches: Sequence[int] = ()
    size: tuple[int, int] = FRAME
    seconds: float = 1.0


@dataclass
class _Opened:
    model: str
    backend: str
    session: Session
    facts: Row
    times: dict[tuple[str, int], list[float]] = field(default_factory=dict)


def bench(models: Mapping[str, Mapping[str, Opens]], options: BenchmarkOptions) -> list[Row]:
    """Times models and returns one row (see COLUMNS) for each back-end, task and batch size.

    models: functions that open a session, by the names of model and back-end. A back-end that cannot run a model has
    one row, with the reason in `note`. Raises UsageError where nothing runs.
    """
    rows: list[Row] = []
    opened_any = False
    for model, opens in models.items():
        opened, failed = _open_all(model, opens, options)
        rows += failed
        opened_any = opened_any or bool(opened)
        for task, batch in _tasks(opened, options):
            _logger.info("%s: %s at batch %d", model, task, batch)
            _measure(opened, task, batch, options)
        rows += [row for one in opened for row in _rows(one, options)]
    if not opened_any:
        raise UsageError("; ".join(f"{row['backend']}: {row['note']}" for row in rows))
    return rows


def _open_all(model: str, opens: Mapping[str, Opens], options: BenchmarkOptions) -> tuple[list[_Opened], list[Row]]:
    """The sessions that run and agree with the first one, and rows for the others."""
    ready: list[_Opened] = []
    failed = []
    first: np.ndarray | None = None
    for backend, opener in opens.items():
        _logger.info("%s: opening in %s", model, backend)
        memory, gpu = PeakMemory(), _gpu_memory()
        try:
            session = opener()
            example = session.example(1, options.size)
            result = session(example)
        except FastganError as error:
            failed.append({"model": model, "backend": backend, "note": f"not available: {error}"})
            continue
        facts = {
            "psnr_dB": "",
            "precision": session.about.get("precision", ""),
            "provider": session.provider,
            "library": session.title,
            "threads": session.threads or "",
            "cpu": cpu_name(),
            "cpu_features": " ".join(name.replace(" ", "-") for name in cpu_features()),
            "gpu": "; ".join(gpu_names()) if session.device != "cpu" else "",
        }
        if first is None:
            first = result
        else:
            psnr = decibels(first, result, session.spec.range)
            facts["psnr_dB"] = f"{psnr:.1f}"
            if not psnr >= PSNR_FLOOR:
                note = f"not timed: its images are {psnr:.1f} dB from those of {ready[0].backend}"
                failed.append({"model": model, "backend": backend, **facts, "note": note})
                continue
        growth = _gpu_memory() - gpu if session.device != "cpu" else memory.growth()
        facts["memory_MB"] = "" if growth is None else f"{growth / 1e6:.0f}"
        ready.append(_Opened(model, backend, session, facts))
    return ready, failed


def _tasks(opened: list[_Opened], options: BenchmarkOptions) -> Iterator[tuple[str, int]]:
    if not opened:
        return
    spec, fixed = opened[0].session.spec, opened[0].session.fixed_batch
    wanted = options.batches or (IMAGES if spec.sizes else LATENTS)
    batches = sorted({batch for batch in wanted if not fixed or batch % fixed == 0} or {fixed or 1})
    yield from ((MODEL, batch) for batch in batches)
    if spec.kind == "image":
        yield from ((PIXELS, batch) for batch in batches)


def _measure(opened: list[_Opened], task: str, batch: int, options: BenchmarkOptions) -> None:
    """Times one task at one batch size, all sessions in the same rounds, and adds the times to each."""
    calls: dict[str, Callable[[], object]] = {}
    for one in opened:
        x = one.session.example(batch, options.size)
        if task == PIXELS:
            x = np.random.default_rng(0).integers(0, 256, (batch, *x.shape[2:], x.shape[1]), dtype=np.uint8)
            calls[one.backend] = functools.partial(one.session.pixels, x)
        else:
            calls[one.backend] = _call_on_device(one.session, x)
    start = sum(watch(call)() for call in calls.values()) / 1e3
    if start < options.seconds * len(calls):
        for call in calls.values():
            call()
            call()  # two more calls: compilation and graph capture
        start = sum(watch(call)() for call in calls.values()) / 1e3
    rounds = rounds_in(options.seconds * len(calls), start, (2, 10_000))
    clock: Clock = watch
    for name, reads in alternate(calls, clock, rounds).items():
        (one,) = (one for one in opened if one.backend == name)
        one.times[task, batch] = [read() for read in reads]


def _call_on_device(session: Session, x: np.ndarray) -> Callable[[], object]:
    """A synchronous call: on a tensor on the session's GPU, or on an array for the CPU."""
    torch = sys.modules.get("torch")
    if session.device == "cpu" or torch is None:
        return functools.partial(session, x)
    tensor = torch.from_numpy(x).to(session.device)

    def call() -> None:
        session(tensor)
        torch.cuda.synchronize(session.device)

    return call


def _rows(one: _Opened, options: BenchmarkOptions) -> Iterator[Row]:
    for (task, batch), times in one.times.items():
        p50, p95, p99 = (quantile(times, share) for share in (0.5, 0.95, 0.99))
        shape = one.session.example(1, options.size).shape
        yield {
            "model": one.model,
            "backend": one.backend,
            "task": task,
            "batch": batch,
            "size": f"{shape[3]}x{shape[2]}" if one.session.spec.kind == "image" else "x".join(map(str, shape[1:])),
            "p50_ms": f"{p50:.4g}",
            "p95_ms": f"{p95:.4g}",
            "p99_ms": f"{p99:.4g}",
            "images_per_second": f"{1e3 * batch / p50:.4g}",
            "runs": len(times),
            **one.facts,
        }


def _gpu_memory() -> int:
    """Bytes in use on the current GPU, by all processes: CUDA does not count them by process."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return 0
    free, total = torch.cuda.mem_get_info()
    return total - free


def decibels(wanted: np.ndarray, got: np.ndarray, limits: tuple[float, float]) -> float:
    """PSNR of images clipped to the limits; infinite for equal ones, NaN if one holds a NaN."""
    low, high = limits
    error = np.mean((np.clip(wanted, low, high) - np.clip(got, low, high)).astype(np.float64) ** 2)
    return float(10 * np.log10((high - low) ** 2 / error)) if error else float("inf")


# --- output ----------------------------------------------------------------------------------------------


def table(rows: Sequence[Row]) -> str:
    """The rows as text, followed by the reasons why others are missing."""
    shown = (
        "model",
        "backend",
        "task",
        "batch",
        "size",
        "p50_ms",
        "p95_ms",
        "p99_ms",
        "images_per_second",
        "memory_MB",
    )
    timed = [row for row in rows if "p50_ms" in row]
    cells = [[name.replace("_", " ") for name in shown]]
    cells += [[str(row.get(name, "")) for name in shown] for row in timed]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    text += [f"{row['model']} in {row['backend']}: {row['note']}" for row in rows if row.get("note")]
    gpus = "".join(f", {name}" for name in gpu_names())
    text.append(f"{cpu_name()} ({', '.join(cpu_features())}), {usable_cores()} usable cores{gpus}")
    return "\n".join(text)


def as_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV with all COLUMNS."""
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def require_matplotlib() -> None:
    """Raise UsageError if matplotlib, which `picture` draws with, is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("plot: matplotlib, which draws it, is not installed; pip install 'fastgan[plot]'")


def picture(rows: Sequence[Row]) -> str:
    """The rows as SVG: latency at the smallest batch, and throughput against batch.

    Raises UsageError if matplotlib is not installed.
    """
    require_matplotlib()
    import matplotlib
    from matplotlib.figure import Figure

    timed = [row for row in rows if "p50_ms" in row]
    least = min(row["batch"] for row in timed)
    label = "{model}, {backend}" if len({row["model"] for row in timed}) > 1 else "{backend}"
    latencies = [
        (title, found)
        for task, title in ((MODEL, "the network alone"), (PIXELS, "pixels to pixels"))
        if (found := [row for row in timed if (row["task"], row["batch"]) == (task, least)])
    ]
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in timed:
        if row["task"] == MODEL:
            curves.setdefault(label.format(**row), []).append((row["batch"], float(row["images_per_second"])))
    batches = sorted({batch for points in curves.values() for batch, _ in points})
    several = len(batches) > 1
    heights = [1 + 0.35 * len(found) for _, found in latencies] + ([3.5] if several else [])
    style: Any = {
        "svg.fonttype": "none", "svg.hashsalt": "fastgan", "text.parse_math": False, "axes.spines.top": False,
        "axes.spines.right": False,
    }  # fmt: skip
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(9, 0.5 + sum(heights)), layout="constrained")
        axes = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
        for ax, (title, found) in zip(axes, latencies, strict=False):
            p50, p99 = ([float(row[name]) for row in found] for name in ("p50_ms", "p99_ms"))
            ax.barh(range(len(found)), p50, color=[f"C{i}" for i in range(len(found))])
            for i, (low, high) in enumerate(zip(p50, p99, strict=True)):
                ax.plot([low, high], [i, i], "|-", color="#222", linewidth=1)
                ax.annotate(f"{low:.4g}", (max(low, high), i), (6, 0), textcoords="offset points", va="center")
            ax.set_yticks(range(len(found)), [label.format(**row) for row in found])
            ax.invert_yaxis()
            ax.set_title(f"Latency at batch {least}, {title}: median, up to p99", loc="left")
            ax.set_xlabel("ms")
        if several:
            for name, points in curves.items():
                x, y = zip(*sorted(points), strict=True)
                axes[-1].plot([batches.index(batch) for batch in x], y, "o-", label=name)
            axes[-1].set_xticks(range(len(batches)), [f"{batch:g}" for batch in batches])
            axes[-1].set_ylim(bottom=0)
            axes[-1].set_title("Throughput, the network alone", loc="left")
            axes[-1].set_xlabel("batch")
            axes[-1].set_ylabel("images per second")
            axes[-1].legend(frameon=False)
        models = ", ".join(dict.fromkeys(row["model"] for row in timed))
        figure.suptitle(f"{models} on {cpu_name()}", x=0.01, ha="left", fontweight="bold")
        svg = io.StringIO()
        figure.savefig(svg, format="svg", metadata={"Date": None})
    return svg.getvalue()
