"""Times every OpCase that has benchmark shapes (fastgan, plain PyTorch, torch.compile of it, the reference) and the
steps of steps.py (a plain discriminator and its fused copy, each also compiled as a whole), in one process and in
alternating rounds. A case with wrong results is not timed. On a GPU each has three times: wall time of calls in a loop,
host time of one call, and GPU time of a replay as a CUDA graph, which excludes Python and launches.

    python benchmarks/run.py [--whole] [--device cuda] [--case NAME] [--out benchmarks/results/cpu.csv]
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch._functorch.config
from ceilings import Ceilings
from steps import STEPS, Step, floor, graphs, verify
from steps import providers as step_providers
from table import GPU_TIMES, device_name, gpu_times, has, ms, print_table, ratio, resumed, write

import fastgan
from fastgan.ops._backend import backend
from fastgan.testing.benchmark_modes import MODES, least_bytes, step
from fastgan.testing.case import Inputs, OpCase, Shape
from fastgan.testing.cases import CASES
from fastgan.testing.correctness import assert_correct
from fastgan.testing.timing import Graph, Times, captured, times

DTYPES = {"cpu": (torch.float32,), "cuda": (torch.float32, torch.bfloat16)}
PROVIDERS = ("fastgan", "eager", "compile", "reference")
KEY = ("op", "case", "provider", "mode", "shape", "dtype", "layout", "device", "threads", "torch", "fastgan")
FIGURES = ("median_ms", "q20_ms", "q80_ms", "ratio_vs_eager", "ratio_vs_eager_contiguous", "GB/s")
GPU_FIGURES = (*GPU_TIMES, "wall_vs_eager", "graph_vs_eager", "floor_ms", "floor_share", "GB/s")
COLUMNS = {"cpu": (*KEY, *FIGURES, "note"), "cuda": (*KEY, *GPU_FIGURES, "note")}
#: Bytes that the sets of inputs of one graph have together at least: twice the L2 cache of an H200. And the most sets.
ROTATED_BYTES, MOST_SETS = 2**27, 32
Row = dict[str, object]
Function = Callable[..., torch.Tensor]


def reference_of(case: OpCase) -> Function:
    """The case on its reference back-end: what fastgan costs without its kernels."""

    def call(*inputs: torch.Tensor) -> torch.Tensor:
        with backend("reference"):
            return case.call(*inputs)

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


def prepared(
    builders: dict[str, Callable[[], Any]], may_fail: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, str]]:
    """What each builder returns, and the reason for each that fails. may_fail: parts of the names of these."""
    ready, notes = {}, {}
    for name, build in builders.items():
        try:
            ready[name] = build()
        except Exception as error:
            if not any(part in name for part in may_fail):
                raise
            # That a compiler or CUDA graph fails is a result too.
            notes[name] = f"not available: {str(error).strip().splitlines()[0][:120]}"
    return ready, notes


def started(build: Callable[[], Function]) -> Function:
    """The step that a builder returns, run once."""
    run = build()
    run()
    return run


def timed(
    builders: dict[str, Callable[[], Function]],
    graph_builders: dict[str, Callable[[], Graph]],
    options: argparse.Namespace,
    share: int = 1,
) -> tuple[dict[str, Times], dict[str, str]]:
    """The times of what the builders return, and the reasons for what is missing."""
    ready, notes = prepared({n: functools.partial(started, b) for n, b in builders.items()}, ("compile",))
    replays, missing = prepared({n: b for n, b in graph_builders.items() if n in ready}, ("",))
    notes |= {name: f"no graph: {why}" for name, why in missing.items()}
    return times(ready, options.device, share * options.seconds, graphs=replays), notes


def input_sets(case: OpCase, shape: Shape, dtype: torch.dtype, layout: str, device: str) -> list[Inputs]:
    """Inputs that are larger together than the L2 cache; one set where this takes too many."""
    first = case.inputs(dtype, device, layouts(shape)[layout], shape=shape)
    count = max(2, -(-ROTATED_BYTES // sum(x.nbytes for x in first)))
    if device == "cpu" or count > MOST_SETS:
        return [first]
    more = (case.inputs(dtype, device, layouts(shape)[layout], shape=shape, seed=i) for i in range(1, count))
    return [first, *more]


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
    sets = input_sets(case, shape, dtype, layout, options.device)
    assert_correct(case, sets[0])
    functions = providers(case)
    for mode in MODES:
        builders = {n: functools.partial(step, f, sets[0], mode) for n, f in functions.items()}
        replays: dict[str, Callable[[], Graph]] = {}
        if options.device == "cuda":
            replays = {
                n: functools.partial(captured, [functools.partial(step, f, inputs, mode) for inputs in sets])
                for n, f in functions.items()
            }
        found, notes = timed(builders, replays, options)
        for name in builders:
            least = least_bytes(case, sets[0], mode)
            yield {
                **key(options, dtype),
                "op": case.ops[0],
                "case": case.name,
                "provider": name,
                "mode": mode,
                "shape": "x".join(map(str, shape)),
                "layout": layout,
                **figures(found.get(name), found["eager"], options, least, options.floors.floor_ms(least or 0)),
                "note": notes.get(name, ""),
            }


def measure_step(what: Step, dtype: torch.dtype, batch: int, options: argparse.Namespace) -> Iterator[Row]:
    """The rows of one step: all providers in both layouts, in the same rounds."""
    formats = layouts((0, 0, 0, 0))
    builders: dict[str, Callable[[], Function]] = {}
    replays: dict[str, Callable[[], Graph]] = {}
    for layout, memory_format in formats.items():
        verify(what, options.device, memory_format)
        torch._dynamo.reset()
        found = step_providers(what, options.device, dtype, memory_format, batch, options.whole)
        builders |= {f"{name} {layout}": build for name, build in found.items()}
        if options.device == "cuda":
            recorded = graphs(what, options.device, dtype, memory_format, batch)
            replays |= {f"{name} {layout}": build for name, build in recorded.items()}
    found_times, notes = timed(builders, replays, options, share=4)
    least = floor(what, options.device, dtype, batch, options.floors)
    for label in builders:
        name, layout = label.split()
        row = figures(found_times.get(label), found_times[f"eager {layout}"], options, None, least)
        if label in found_times and options.device == "cpu":
            base = found_times["eager contiguous"].wall.median
            row["ratio_vs_eager_contiguous"] = ratio(base, found_times[label].wall.median)
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


def figures(
    found: Times | None, eager: Times, options: argparse.Namespace, least: int | None, floor_ms: float | None
) -> Row:
    """The measured columns. GB/s counts the bytes that must be moved, to be compared with the memory's bandwidth."""
    if found is None:
        return {}
    best = (found.graph or found.wall).median
    speed = "" if least is None else f"{least / best / 1e6:.1f}"
    if options.device == "cuda":
        graph, base = (None if t.graph is None else t.graph.median for t in (found, eager))
        return {
            **gpu_times(found),
            "wall_vs_eager": ratio(eager.wall.median, found.wall.median),
            "graph_vs_eager": ratio(base, graph),
            "floor_ms": ms(floor_ms) if floor_ms else "",
            "floor_share": ratio(floor_ms, best),
            "GB/s": speed,
        }
    return {
        "median_ms": ms(found.wall.median),
        "q20_ms": ms(found.wall.q20),
        "q80_ms": ms(found.wall.q80),
        "ratio_vs_eager": ratio(eager.wall.median, found.wall.median),
        "GB/s": speed,
    }


def print_rows(rows: list[Row]) -> None:
    """Prints one line for each case, mode and layout, with milliseconds and speed-up over eager for each provider."""
    head = ("case", "shape", "dtype", "mode", "layout")
    groups: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        cell = "not available"
        if "median_ms" in row:
            cell = f"{row['median_ms']} ({row['ratio_vs_eager']}x)"
        elif "wall_ms" in row:
            cell = f"{row['wall_ms']} / {row['host_ms']} / {row.get('graph_ms', '-')} ({row['wall_vs_eager']}x)"
        groups.setdefault(tuple(str(row[column]) for column in head), []).append(f"{row['provider']} {cell}")
    lines = [[*head, "milliseconds, on a GPU wall / host / graph (times eager in the same layout)"]]
    print_table(lines + [[*values, "  ".join(cells)] for values, cells in groups.items()])


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--case", default="", metavar="NAME", help="only cases whose name contains this")
    parser.add_argument("--out", type=Path, metavar="CSV", help="where the rows are written")
    parser.add_argument("--only", choices=["ops", "steps"], help="half of the table")
    parser.add_argument("--whole", action="store_true", help="also compile whole steps (about half a minute for each)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's)")
    parser.add_argument("--seconds", type=float, default=0.3, help="time spent on each figure")
    parser.add_argument("--ceilings", type=Path, metavar="CSV", help="of ceilings.py on this machine, for the floors")
    parser.add_argument("--resume", action="store_true", help="keep the rows of --out, and measure what is missing")
    options = parser.parse_args(argv)
    options.floors = Ceilings(options.ceilings)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: no CUDA device here")
    names = [case.name for case in CASES if case.bench_shapes] + [what.name for what in STEPS]
    if not any(options.case in name for name in names):
        parser.error(f"--case {options.case}: no case has such a name; there are {', '.join(names)}")
    options.device_name = device_name(options.device)
    return options


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    if os.getloadavg()[0] > 0.5 and torch.get_num_threads() > 1:
        # With other programs on the CPU, each parallel region takes a time slice of 8 ms, and ratios count regions.
        print("other programs use the CPU: threads will wait; --threads 1 gives better ratios", file=sys.stderr)
    # The backward pass is timed on a graph that is kept, whose buffers must not be donated.
    torch._functorch.config.donated_buffer = False
    rows = resumed(options.out, options.resume)
    wrong = 0
    for name, unit, measured in plan(options):
        if has(rows, unit):
            continue
        try:
            rows += measured()
            print(f"timed {name}", file=sys.stderr, flush=True)
        except Exception as error:  # wrong results, or a GPU's error: the other cases are still worth their time
            wrong += 1
            print(f"NOT TIMED: {name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        if options.out:  # after each case, so that an interrupted run leaves its results
            write(options.out, rows, COLUMNS[options.device])
    print_rows(rows)
    return 1 if wrong or not rows else 0


def plan(options: argparse.Namespace) -> Iterator[tuple[str, Row, Callable[[], Iterator[Row]]]]:
    """The measurements: name, the columns by which its rows are known, and function of each."""
    for case in CASES if options.only != "steps" else ():
        for shape in case.bench_shapes if options.case in case.name else ():
            for dtype in DTYPES[options.device]:
                for layout in layouts(shape):
                    name = f"{case.name} {shape} {dtype} {layout}"
                    unit: Row = {"case": case.name, "shape": "x".join(map(str, shape)), "layout": layout}
                    run = functools.partial(measure, case, shape, dtype, layout, options)
                    yield name, unit | {"dtype": str(dtype).removeprefix("torch.")}, run
    for what in STEPS if options.only != "ops" else ():
        for dtype in DTYPES[options.device] if options.case in what.name else ():
            for batch in what.batches[options.device]:
                unit = {"case": what.name, "shape": f"{batch}x3x{what.side}x{what.side}"}
                run = functools.partial(measure_step, what, dtype, batch, options)
                name = f"{what.name} {batch} {dtype}"
                yield name, unit | {"dtype": str(dtype).removeprefix("torch.")}, run


if __name__ == "__main__":
    sys.exit(main())
