"""Measures what a device can do at most: copy bandwidth and matrix products. Other tables compute floors from it.

    python benchmarks/ceilings.py [--device cuda] [--out CSV]

Copies and products are larger than the caches, of random data, and timed in blocks with one wait at the end.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from table import device_name, write

from fastgan.testing.timing import Graph, captured, times
from fastgan.train.device import float32_products

COLUMNS = ("name", "value", "unit", "ms", "size", "device", "threads", "torch")
#: Name of the ceiling of products by dtype of the tensors; float32 products are TF32 on a GPU.
PRODUCTS = {torch.bfloat16: "bf16 products", torch.float16: "bf16 products", torch.float32: "float32 products"}
#: Side of the matrices and bytes of the copied tensor, by device.
SIDES = {"cuda": 8192, "cpu": 256}
BYTES = {"cuda": 2**30, "cpu": 2**22}


def copies(device: str, size: int) -> Callable[[], object]:
    """A copy of `size` bytes, which reads and writes that many."""
    source = torch.empty(size // 4, device=device).normal_()
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def products(device: str, side: int, dtype: torch.dtype) -> Callable[[], object]:
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out)


def measure(device: str, seconds: float) -> list[dict[str, object]]:
    """The rows of the table."""
    side, size = SIDES[device], BYTES[device]
    functions = {"copy": copies(device, size)}
    amounts = {"copy": (2 * size / 1e9, "GB/s", f"{size} bytes")}
    for dtype in (torch.bfloat16, torch.float32):
        functions[PRODUCTS[dtype]] = products(device, side, dtype)
        amounts[PRODUCTS[dtype]] = 2 * side**3 / 1e12, "TFLOP/s", f"{side}x{side}x{side}"
    graphs: dict[str, Graph] = {}
    if device == "cuda":
        # Several launches in a graph, so that the time of the host is not in the figure.
        graphs = {name: captured([lambda run=run: run] * 4) for name, run in functions.items()}
    found = times(functions, device, seconds, graphs=graphs)
    rows: list[dict[str, object]] = []
    for name, (amount, unit, what) in amounts.items():
        took = (found[name].graph or found[name].wall).median
        rows.append({
            "name": name, "value": f"{amount / (took / 1e3):.1f}", "unit": unit, "ms": f"{took:.4f}", "size": what,
            "device": device_name(device), "threads": torch.get_num_threads(), "torch": torch.__version__,
        })  # fmt: skip
    return rows


class Ceilings:
    """The measured ceilings of a file. Without a file every floor is None."""

    def __init__(self, path: Path | None):
        self.values: dict[str, float] = {}
        if path is not None:
            with path.open(newline="") as file:
                self.values = {row["name"]: float(row["value"]) for row in csv.DictReader(file)}

    def floor_ms(self, size: float = 0, flops: float = 0, dtype: torch.dtype = torch.float32) -> float | None:
        """The least milliseconds in which `size` bytes can be moved and `flops` done, whichever is longer."""
        if not self.values:
            return None
        moved = size / (self.values["copy"] * 1e6)
        done = flops / (self.values[PRODUCTS[dtype]] * 1e9)
        return max(moved, done)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--seconds", type=float, default=0.3, help="time spent on each figure")
    parser.add_argument("--out", type=Path, metavar="CSV", help="where the rows are written")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    with float32_products(tf32=options.device == "cuda"):
        rows = measure(options.device, options.seconds)
    for row in rows:
        print(f"{row['name']:18} {row['value']:>9} {row['unit']:8} {row['size']}")
    if options.out:
        write(options.out, rows, COLUMNS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
