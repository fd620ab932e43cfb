"""Each convolution of the DCGAN discriminator by each of its candidates: cuDNN and every config of our kernels.

    python benchmarks/convolutions.py [--device cuda] [--batch N...] [--ceilings CSV] [--out CSV]

Four passes of each layer: forward with bias and leaky ReLU, input gradient with the activation's slope, tangent with
its slope, weight gradient. The candidates are those that autotuning would time, cuDNN with `benchmark=True` among them.
A candidate is compared with the library first; its time is that of a CUDA graph over several sets of inputs. On a CPU
the reference is the only candidate.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from ceilings import Ceilings
from table import GPU_TIMES, Row, device_name, gpu_times, has, ms, print_table, ratio, resumed, write
from torch import Tensor

import fastgan
from fastgan.ops import _autotune
from fastgan.ops.conv import reference, triton
from fastgan.testing.timing import captured, times
from fastgan.train.device import float32_products

#: (channels, outputs, side of the input) at 64×64; every kernel is 4×4 with stride 2 and padding 1.
LAYERS = ((3, 64, 64), (64, 128, 32), (128, 256, 16), (256, 512, 8))
DTYPES = {"cpu": (torch.float32,), "cuda": (torch.bfloat16, torch.float32)}
KEY = ("pass", "layer", "batch", "dtype", "candidate", "device", "torch", "fastgan")
COLUMNS = (*KEY, *GPU_TIMES, "floor_ms", "floor_share", "TFLOP/s", "note")
#: Sets of inputs of a graph: together larger than the L2 cache, see run.py.
ROTATED_BYTES, SETS = 2**27, (2, 16)
_ACT = ("leaky_relu", 0.2, 1.0, None)
_CONV = ([2, 2], [1, 1], [1, 1])

Runs = dict[str, Callable[[], Any]]


def label(layer: tuple[int, int, int]) -> str:
    return f"{layer[0]}-{layer[1]}"


def passes(layer: tuple[int, int, int]) -> tuple[str, ...]:
    """The steps of a penalty in a layer. Images have no activation: their gradient has no slope."""
    return "conv_bias_act", "conv_dgrad" if layer is LAYERS[0] else "conv_dgrad_act", "conv_slope", "conv_wgrad"


def operands(name: str, layer: tuple[int, int, int], batch: int, dtype: torch.dtype, device: str) -> tuple[Any, ...]:
    """Random arguments of a step."""
    channels, outputs, side = layer

    def normal(*shape: int) -> Tensor:
        x = torch.randn(shape, device=device, dtype=dtype)
        return x.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else x

    x, y = normal(batch, channels, side, side), normal(batch, outputs, side // 2, side // 2)
    weight = normal(outputs, channels, 4, 4)
    if name == "conv_bias_act":
        return x, weight, normal(outputs), *_CONV, 1, *_ACT
    if name == "conv_dgrad":
        return y, weight, [side, side], *_CONV, 1
    if name == "conv_dgrad_act":
        return y, weight, x, *_CONV, 1, *_ACT, True
    if name == "conv_slope":
        return x, weight, y, *_CONV, 1, *_ACT
    assert name == "conv_wgrad"
    return y, x, [4, 4], *_CONV, 1, True


@contextmanager
def recorded_candidates(found: list[Runs]) -> Iterator[None]:
    """A context in which a step appends its candidates to `found` and runs the library, instead of autotuning."""

    def fastest(device: torch.device, key: Any, runs: Callable[[], Runs], tensors: Any) -> Any:
        found.append({name: functools.partial(run, *tensors) for name, run in runs().items()})
        return found[-1][_autotune.LIBRARY]()

    with mock.patch.object(_autotune, "fastest", fastest):
        yield


def candidates(name: str, given: tuple[Any, ...]) -> Runs:
    """By name, functions that compute the step. On a CPU that is the reference."""
    found: list[Runs] = []
    run = getattr(triton if given[0].is_cuda else reference, name)
    with recorded_candidates(found), torch.no_grad():
        run(*given)
    return found[0] if found else {_autotune.LIBRARY: functools.partial(run, *given)}


def measure(
    name: str, layer: tuple[int, int, int], batch: int, dtype: torch.dtype, options: argparse.Namespace
) -> list[Row]:
    """The rows of one pass of one layer."""
    device = options.device
    first = operands(name, layer, batch, dtype, device)
    size = sum(value.nbytes for value in first if isinstance(value, Tensor))
    count = min(max(SETS[0], -(-ROTATED_BYTES // size)), SETS[1]) if device == "cuda" else 1
    sets = [candidates(name, first)]
    sets += [candidates(name, operands(name, layer, batch, dtype, device)) for _ in range(count - 1)]
    expected = sets[0][_autotune.LIBRARY]()
    ready, graphs, notes = {}, {}, {}
    for candidate, run in sets[0].items():
        try:
            if wrong := _autotune.wrong_result(run(), expected):
                notes[candidate] = f"not timed: {wrong}"
                continue
            if device == "cuda":
                graphs[candidate] = captured([lambda run=runs[candidate]: run for runs in sets])
            ready[candidate] = run
        except Exception as error:  # a config that does not fit the GPU is a result too
            notes[candidate] = f"not available: {str(error).strip().splitlines()[0][:120]}"
    found = times(ready, device, options.seconds, graphs=graphs)
    channels, outputs, side = layer
    flops = 2 * batch * (side // 2) ** 2 * outputs * channels * 16
    written = sum(value.nbytes for value in _tensors(expected))
    floor = options.floors.floor_ms(size + written, flops, dtype)
    rows = []
    for candidate in sets[0]:
        row: Row = {
            "pass": name, "layer": label(layer), "batch": batch,
            "dtype": str(dtype).removeprefix("torch."), "candidate": candidate, "device": options.device_name,
            "torch": torch.__version__, "fastgan": fastgan.__version__, "note": notes.get(candidate, ""),
        }  # fmt: skip
        if candidate in found:
            best = (found[candidate].graph or found[candidate].wall).median
            row |= gpu_times(found[candidate])
            row |= {"floor_ms": ms(floor), "floor_share": ratio(floor, best), "TFLOP/s": f"{flops / best / 1e9:.1f}"}
        rows.append(row)
    return rows


def _tensors(result: Any) -> Sequence[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--seconds", type=float, default=0.02, help="time spent on each figure")
    parser.add_argument("--ceilings", type=Path, metavar="CSV", help="of ceilings.py on this machine, for the floors")
    parser.add_argument("--resume", action="store_true", help="keep the rows of --out, and measure what is missing")
    parser.add_argument("--out", type=Path, metavar="CSV", help="where the rows are written")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    options.floors, options.device_name = Ceilings(options.ceilings), device_name(options.device)
    rows: list[Row] = resumed(options.out, options.resume)
    # The passes of a penalty in half precision first.
    for dtype, batch, layer in itertools.product(DTYPES[options.device], options.batch, LAYERS):
        for name in passes(layer):
            unit = {"pass": name, "layer": label(layer), "batch": batch, "dtype": str(dtype).removeprefix("torch.")}
            if has(rows, unit):
                continue
            with float32_products(tf32=options.device == "cuda"):
                rows += measure(name, layer, batch, dtype, options)
            if options.out:  # after each, so that an interrupted run leaves its results
                write(options.out, rows, COLUMNS)
    shown = ("pass", "layer", "batch", "dtype", "candidate", "wall_ms", "graph_ms", "floor_ms", "TFLOP/s", "note")
    print_table([list(shown), *([str(row.get(name, "")) for name in shown] for row in rows)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
