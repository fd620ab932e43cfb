"""The kernels of one gradient penalty and one WGAN-GP step, plain and fused, by torch.profiler.

    python benchmarks/profile_steps.py [--device cuda] [--batch N] [--out CSV]

Times are of the GPU; on a CPU they are of PyTorch's operations without those that they call.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import steps
import torch
from steps import STEPS, Step
from table import device_name, print_table, write

import fastgan
from fastgan.train.device import float32_products

COLUMNS = ("case", "provider", "kernel", "calls", "us", "share", "batch", "dtype", "device", "torch", "fastgan")
CASES = ("gradient_penalty", "wgan_gp_discriminator_step")
DTYPES = {"cpu": torch.float32, "cuda": torch.bfloat16}


def kernels(run: Callable[[], object], device: str) -> list[tuple[str, int, float]]:
    """(name, calls, microseconds) of each kernel in one run, longest first."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device == "cuda":
        activities = [torch.profiler.ProfilerActivity.CUDA]
    for _ in range(3):
        run()
    with torch.profiler.profile(activities=activities) as seen:
        run()
        if device == "cuda":
            torch.cuda.synchronize()
    attribute = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    found = [(event.key, event.count, float(getattr(event, attribute))) for event in seen.key_averages()]
    return sorted((one for one in found if one[2] > 0), key=lambda one: -one[2])


def measure(step: Step, device: str, batch: int) -> list[dict[str, object]]:
    """The rows of one step."""
    dtype, rows = DTYPES[device], []
    for provider, build in steps.providers(step, device, dtype, torch.channels_last, batch, whole=False).items():
        found = kernels(build(), device)
        total = sum(us for *_, us in found)
        for name, calls, us in found:
            rows.append({
                "case": step.name, "provider": provider, "kernel": name[:120], "calls": calls, "us": f"{us:.1f}",
                "share": f"{us / total:.3f}", "batch": batch, "dtype": str(dtype).removeprefix("torch."),
                "device": device_name(device), "torch": torch.__version__, "fastgan": fastgan.__version__,
            })  # fmt: skip
    return rows


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--out", type=Path, metavar="CSV", help="where the rows are written")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    rows: list[dict[str, object]] = []
    for step in STEPS:
        if step.name in CASES:
            with float32_products(tf32=options.device == "cuda"):
                rows += measure(step, options.device, options.batch)
            if options.out:
                write(options.out, rows, COLUMNS)
    print_table([list(COLUMNS[:6]), *([str(row[name])[:70] for name in COLUMNS[:6]] for row in rows)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
