"""Times every OpCase that has benchmark shapes: fastgan, plain PyTorch, torch.compile of it and the reference, side by
side in one process, in alternating rounds. A case that is not correct is not timed.

    python benchmarks/run.py [--device cpu|cuda] [--case SUBSTRING] [--out benchmarks/results/ops_cpu.csv]
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch._functorch.config

import fastgan
from fastgan.testing.case import Inputs, OpCase, Shape
from fastgan.testing.cases import CASES
from fastgan.testing.judge import judge
from fastgan.testing.modes import MODES, least_bytes, step
from fastgan.testing.timing import Timing, side_by_side

DTYPES = {"cpu": (torch.float32,), "cuda": (torch.float32, torch.bfloat16)}
PROVIDERS = ("fastgan", "eager", "compile", "reference")
KEY = ("op", "case", "provider", "mode", "shape", "dtype", "layout", "device", "threads", "torch", "fastgan")
COLUMNS = (*KEY, "median_ms", "q20_ms", "q80_ms", "ratio_vs_eager", "GB/s", "note")
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
    """What is compared."""
    torch._dynamo.reset()
    compiled = torch.compile(case.plain, fullgraph=True)
    return dict(zip(PROVIDERS, (case.call, case.plain, compiled, reference_of(case)), strict=True))


def layouts(shape: Shape) -> dict[str, torch.memory_format]:
    """The memory formats that x can have, by name."""
    images = {"channels_last": torch.channels_last} if len(shape) == 4 else {}
    return {"contiguous": torch.contiguous_format, **images}


def prepared(functions: dict[str, Function], inputs: Inputs, mode: str) -> tuple[dict, dict[str, str]]:
    """A step for each provider that can, and the reason for each that cannot."""
    steps, notes = {}, {}
    for name, function in functions.items():
        try:
            steps[name] = step(function, inputs, mode)
            steps[name]()
        except Exception as error:
            steps.pop(name, None)
            if name != "compile":
                raise
            # What torch.compile cannot do is a result too.
            notes[name] = f"not available: {str(error).strip().splitlines()[0][:120]}"
    return steps, notes


def measure(case: OpCase, shape: Shape, dtype: torch.dtype, layout: str, options: argparse.Namespace) -> Iterator[Row]:
    """The rows of one case in one shape, dtype and layout."""
    inputs = case.inputs(dtype, options.device, layouts(shape)[layout], shape=shape)
    judge(case, inputs)
    functions = providers(case)
    for mode in MODES:
        steps, notes = prepared(functions, inputs, mode)
        times = side_by_side(steps, options.device, options.seconds)
        for name in PROVIDERS:
            yield {
                "op": case.ops[0],
                "case": case.name,
                "provider": name,
                "mode": mode,
                "shape": "x".join(map(str, shape)),
                "dtype": str(dtype).removeprefix("torch."),
                "layout": layout,
                "device": options.device_name,
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
                "fastgan": fastgan.__version__,
                **figures(times.get(name), times["eager"], least_bytes(case, inputs, mode)),
                "note": notes.get(name, ""),
            }


def figures(time: Timing | None, eager: Timing, least: int | None) -> Row:
    """The measured columns. GB/s counts the bytes that must move, so that it compares with the memory's own speed."""
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
    """One line for each case and mode, the providers beside one another: milliseconds and times eager."""
    head = ("case", "shape", "layout", "dtype", "mode")
    lines = [[*head, *PROVIDERS]]
    for start in range(0, len(rows), len(PROVIDERS)):
        group = rows[start : start + len(PROVIDERS)]
        cells = [f"{r['median_ms']} ({r['ratio_vs_eager']}x)" if "median_ms" in r else "not available" for r in group]
        lines.append([*(str(group[0][key]) for key in head), *cells])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--case", default="", metavar="SUBSTRING", help="only cases whose name contains this")
    parser.add_argument("--out", type=Path, metavar="CSV", help="where the rows are written")
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
        # Seen on a busy machine: every parallel region takes the scheduler's 8 ms, and ratios count regions.
        print("this machine is busy: threads will wait for one another; --threads 1 tells more", file=sys.stderr)
    # A graph that is kept for timing the backward pass alone may not give its buffers away.
    torch._functorch.config.donated_buffer = False
    rows: list[Row] = []
    wrong = 0
    for case in CASES:
        for shape in case.bench_shapes if options.case in case.name else ():
            for dtype in DTYPES[options.device]:
                for layout in layouts(shape):
                    try:
                        rows += measure(case, shape, dtype, layout, options)
                        print(f"timed {case.name} {shape} {dtype} {layout}", file=sys.stderr)
                    except AssertionError as error:
                        wrong += 1
                        print(f"NOT TIMED, wrong: {case.name} {shape} {dtype} {layout}: {error}", file=sys.stderr)
    print_table(rows)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with options.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    return 1 if wrong or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
