"""Runs every op once on small odd shapes, in each mode, for compute-sanitizer. Compares nothing.

compute-sanitizer python benchmarks/tiny_ops.py --device cuda [--case SUBSTRING]
"""

from __future__ import annotations

import argparse
import sys

import torch

from fastgan.testing.benchmark_modes import MODES, step
from fastgan.testing.cases import CASES

DTYPES = {"cpu": (torch.float32,), "cuda": (torch.float32, torch.bfloat16)}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--case", default="", metavar="SUBSTRING", help="only cases whose name contains this")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options, count = arguments(argv), 0
    for case in CASES:
        if not case.core or options.case not in case.name:
            continue
        for dtype in DTYPES[options.device]:
            for mode in MODES:
                step(case.call, case.inputs(dtype, options.device), mode)()
                count += 1
    if options.device == "cuda":
        torch.cuda.synchronize()
    print(f"{count} runs")
    return 0 if count else 1


if __name__ == "__main__":
    sys.exit(main())
