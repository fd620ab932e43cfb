"""Times every OpCase that has benchmark shapes (fastgan, plain PyTorch, torch.compile of it, the reference) and the
steps of steps.py (a plain discriminator and its fused copy, each also compiled as a whole), in one process and in
alternating rounds. A case with wrong results is not timed. On a GPU also as CUDA graphs, which exclude the cost of
Python and launches, the largest part of such small operations.

    python benchmarks/run.py [--whole] [--device cuda] [--case SUBSTRING] [--out benchmarks/results/cpu.csv]
"""

from __future__ import annotations

import argparse
import csv
import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch._functorch.config
from steps import STEPS, Step, verify
from steps import providers as step_providers

import fastgan
from fastgan.testing.benchmark_modes import MODES, least_bytes, step
from fastgan.testing.case import OpCase, Shape
from fastgan.testing.cases import CASES
from fastgan.testing.correctness import assert_correct
from fastgan.testing.timing import Timing, recorded, side_by_side

DTYPES = {"cpu": (torch.float32,), "cuda": (torch.float32, torch.bfloat16)}
PROVIDERS = ("fastgan", "eager", "compile", "reference")
GRAPH = "+graph"
KEY = ("op", "case", "provider", "mode", "shape", "dtype", "layout", "device", "threads", "torch", "fastgan")
FIGURES = ("median_ms", "q20_ms", "q80_ms", "ratio_vs_eager", "ratio_vs_eager_contiguous", "GB/s")
COLUMNS = (*KEY, *FIGURES, "note")
Row = dict[str, object]
Function = Callable[..., torch.Tensor]


def reference_of(case: OpCase) -> Function:
    """The case on its reference back-end: what fastgan costs without its kernels."""

    def call(*inputs: torch.Tensor) -> torch.Tensor:
        before = os.environ.get("FASTGAN_BACKEND")
        os.environ["FASTGAN_BACKEND"] = "reference"
        try:
            return case.call(*inputs)
        finally:
            if before is None:
                del os.environ["FASTGAN_BACKEND"]
            else:
                os.environ["FASTGAN_BACKEND"] = before

    return call


def providers(case: OpCase) -> dict[str, Function]:
    """The functions that are compared, by provider."""
    torch._dynamo.reset()
    compiled = torch.compile(case.plain, fullgraph=True)
    return dict(zip(PROVIDERS, (case.call, case.plain, compiled, reference_of(case)), strict=True))


def layouts(shape: Shape) -> dict[str, torch.memory_format]:
    """The memory formats that x can have, by name."""
    images = {"channels_last": torch.channels_last} if len(shape) == 4 else {}
    return {"contiguous": torch.contiguous_format, **images}


def prepared(builders: dict[str, Callable[[], Function]]) -> tuple[dict, dict[str, str]]:
    """A step for each provider that runs, and the reason for each that does not."""
    ready, notes = {}, {}
    for name, build in builders.items():
        try:
            ready[name] = build()
            ready[name]()
        except Exception as error:
            ready.pop(name, None)
            if "compile" not in name and "graph" not in name:
                raise
            # That a compiler or CUDA graph fails is a result too.
            notes[name] = f"not available: {str(error).strip().splitlines()[0][:120]}"
    return ready, notes


def key(options: argparse.Namespace, dtype: torch.dtype) -> Row:
    """The part of a row's key that hardware and dtype determine."""
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "device": options.device_name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "fastgan": fastgan.__version__,
    }


def measure(case: OpCase, shape: Shape, dtype: torch.dtype, layout: str, options: argparse.Namespace) -> Iterator[Row]:
    """The rows of one case in one shape, dtype and layout."""
    inputs = case.inputs(dtype, options.device, layouts(shape)[layout], shape=shape)
    assert_correct(case, inputs)
    functions = providers(case)
    for mode in MODES:
        builders = {n: functools.partial(step, f, inputs, mode) for n, f in functions.items()}
        if options.device == "cuda":
            builders |= {n + GRAPH: functools.partial(recorded, build) for n, build in builders.items()}
        ready, notes = prepared(builders)
        times = side_by_side(ready, options.device, options.seconds)
        for name in builders:
            yield {
                **key(options, dtype),
                "op": case.ops[0],
                "case": case.name,
                "provider": name,
                "mode": mode,
                "shape": "x".join(map(str, shape)),
                "layout": layout,
                **figures(times.get(name), _eager(times, name), least_bytes(case, inputs, mode)),
                "note": notes.get(name, ""),
            }


def _eager(times: dict[str, Timing], name: str) -> Timing:
    """The timing that a provider is compared with: a CUDA graph with eager's CUDA graph."""
    return times.get("eager" + GRAPH, times["eager"]) if name.endswith(GRAPH) else times["eager"]


def measure_step(what: Step, dtype: torch.dtype, batch: int, options: argparse.Namespace) -> Iterator[Row]:
    """The rows of one step: all providers in both layouts, in the same rounds."""
    formats = layouts((0, 0, 0, 0))
    builders = {}
    for layout, memory_format in formats.items():
        verify(what, options.device, memory_format)
        torch._dynamo.reset()
        found = step_providers(what, options.device, dtype, memory_format, batch, options.whole)
        builders |= {f"{name} {layout}": build for name, build in found.items()}
    ready, notes = prepared(builders)
    times = side_by_side(ready, options.device, 4 * options.seconds)
    for label in builders:
        name, layout = label.split()
        time = times.get(label)
        row = figures(time, times[f"eager {layout}"], None)
        if time is not None:
            row["ratio_vs_eager_contiguous"] = f"{times['eager contiguous'].median / time.median:.2f}"
        yield {
            **key(options, dtype),
            "op": "step",
            "case": what.name,
            "provider": name,
            "mode": "step",
            "shape": f"{batch}x3x{what.side}x{what.side}",
            "layout": layout,
            **row,
            "note": notes.get(label, ""),
        }


def figures(time: Timing | None, eager: Timing, least: int | None) -> Row:
    """The measured columns. GB/s counts the bytes that must be moved, to be compared with the memory's bandwidth."""
    if time is None:
        return {}
    return {
        "median_ms": f"{time.median:.4f}",
        "q20_ms": f"{time.q20:.4f}",
        "q80_ms": f"{time.q80:.4f}",
        "ratio_vs_eager": f"{eager.median / time.median:.2f}",
        "GB/s": "" if least is None else f"{least / time.median / 1e6:.1f}",
    }


def print_table(rows: list[Row]) -> None:
    """Prints one line for each case, mode and layout, with milliseconds and speed-up over eager for each provider."""
    head = ("case", "shape", "dtype", "mode", "layout")
    groups: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        cell = f"{row['median_ms']} ({row['ratio_vs_eager']}x)" if "median_ms" in row else "not available"
        groups.setdefault(tuple(str(row[column]) for column in head), []).append(f"{row['provider']} {cell}")
    lines = [[*head, "milliseconds (times eager in the same layout)"]]
    lines += [[*values, "  ".join(cells)] for values, cells in groups.items()]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--case", default="", metavar="SUBSTRING", help="only cases whose name contains this")
    parser.add_argument("--out", type=Path, metavar="CSV", help="where the rows are written")
    parser.add_argument("--only", choices=["ops", "steps"], help="half of the table")
    parser.add_argument("--whole", action="store_true", help="also compile whole steps (about half a minute for each)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's)")
    parser.add_argument("--seconds", type=float, default=0.3, help="time spent on each figure")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: no CUDA device here")
    options.device_name = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    return options


def main() -> int:
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    if os.getloadavg()[0] > 0.5 and torch.get_num_threads() > 1:
        # With other programs on the CPU, each parallel region takes a time slice of 8 ms, and ratios count regions.
        print("other programs use the CPU: threads will wait; --threads 1 gives better ratios", file=sys.stderr)
    # The backward pass is timed on a graph that is kept, whose buffers must not be donated.
    torch._functorch.config.donated_buffer = False
    rows: list[Row] = []
    wrong = 0
    for name, measured in plan(options):
        try:
            rows += measured()
            print(f"timed {name}", file=sys.stderr, flush=True)
        except AssertionError as error:
            wrong += 1
            print(f"NOT TIMED, wrong: {name}: {error}", file=sys.stderr, flush=True)
        if options.out:  # after each case, so that an interrupted run leaves its results
            write(options.out, rows)
    print_table(rows)
    return 1 if wrong or not rows else 0


def plan(options: argparse.Namespace) -> Iterator[tuple[str, Callable[[], Iterator[Row]]]]:
    """The measurements: name and function of each."""
    for case in CASES if options.only != "steps" else ():
        for shape in case.bench_shapes if options.case in case.name else ():
            for dtype in DTYPES[options.device]:
                for layout in layouts(shape):
                    name = f"{case.name} {shape} {dtype} {layout}"
                    yield name, functools.partial(measure, case, shape, dtype, layout, options)
    for what in STEPS if options.only != "ops" else ():
        for dtype in DTYPES[options.device] if options.case in what.name else ():
            for batch in what.batches[options.device]:
                yield f"{what.name} {batch} {dtype}", functools.partial(measure_step, what, dtype, batch, options)


def write(path: Path, rows: list[Row], columns: tuple[str, ...] = COLUMNS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())
