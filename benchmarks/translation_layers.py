"""Layers of CycleGAN's generator: its last convolution, to 3 channels, as fuse runs it, and its reflected borders.

    python benchmarks/translation_layers.py [--case SUBSTRING] [--out benchmarks/results/translation_layers.csv]

"few outputs": a convolution to 3 channels, plain_ms of torch.nn, fused_ms of `fastgan.fuse`, which computes several
pixels at once (fastgan/nn/fusion/few_outputs.py). "reflection": plain_ms of the convolution of a block, fused_ms of
that and the nn.ReflectionPad2d before it: what folding the padding into the convolution could save at most. Forward and
backward of all gradients ("train") or forward alone. One thread, float32; CPU time of the process, so that other
programs disturb little; medians of alternating rounds.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import nn

import fastgan

COLUMNS = ("case", "shape", "kernel", "layout", "pass", "plain_ms", "fused_ms", "ratio", "isa", "torch", "fastgan")
#: Name → channels in, channels out, side, kernel, batch.
CASES = {
    "few outputs, width 64, 256×256": (64, 3, 256, 7, 1),
    "few outputs, width 64, 128×128": (64, 3, 128, 7, 1),
    "few outputs, width 32, 64×64": (32, 3, 64, 7, 1),
    "few outputs, width 16, 32×32": (16, 3, 32, 7, 4),
    "reflection, width 256, 64×64": (256, 256, 64, 3, 1),
    "reflection, width 128, 32×32": (128, 128, 32, 3, 2),
}
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


def networks(case: str, layout: torch.memory_format) -> tuple[nn.Module, nn.Module, int]:
    """Both contestants, and how much smaller the output is than the input."""
    inputs, outputs, _, kernel, _ = CASES[case]
    plain = nn.Conv2d(inputs, outputs, kernel).to(memory_format=layout)
    if case.startswith("few"):
        ours = fastgan.fuse(nn.Conv2d(inputs, outputs, kernel).to(memory_format=layout))
        ours.load_state_dict(plain.state_dict())
        return plain, ours, kernel - 1
    return plain, nn.Sequential(nn.ReflectionPad2d(kernel // 2), plain), kernel - 1


def measured(case: str, name: str, rounds: int) -> list[dict[str, object]]:
    layout = LAYOUTS[name]
    inputs, outputs, side, kernel, batch = CASES[case]
    plain, ours, border = networks(case, layout)

    def image(channels: int, size: int) -> nn.Parameter:
        return nn.Parameter(torch.randn(batch, channels, size, size).contiguous(memory_format=layout))

    padded, whole, dy = image(inputs, side + border), image(inputs, side), image(outputs, side).detach()
    given = (padded, padded if case.startswith("few") else whole)

    def step(network: nn.Module, x: nn.Parameter, train: bool) -> None:
        with torch.set_grad_enabled(train):
            y = network(x)
            if train:
                torch.autograd.grad(y, (x, *network.parameters()), dy)

    rows = []
    contestants = (plain, given[0]), (ours, given[1])
    for train in (True, False):
        times: list[list[float]] = [[], []]
        for _ in range(rounds + 2):
            for (network, x), found in zip(contestants, times, strict=True):
                start = time.process_time()
                step(network, x, train)
                found.append((time.process_time() - start) * 1e3)
        first, second = (statistics.median(found[2:]) for found in times)
        rows.append({
            "case": case, "shape": "×".join(map(str, padded.shape)), "kernel": f"{kernel}×{kernel}", "layout": name,
            "pass": "train" if train else "forward", "plain_ms": f"{first:.3f}", "fused_ms": f"{second:.3f}",
            "ratio": f"{first / second:.2f}", "isa": torch.backends.cpu.get_cpu_capability(),
            "torch": torch.__version__, "fastgan": fastgan.__version__,
        })  # fmt: skip
    return rows


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--case", default="", help="only the cases whose name contains it")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/translation_layers.csv"))
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    chosen = [case for case in CASES if options.case in case]
    if not chosen:
        parser.error(f"--case {options.case!r} is in no name; there are: {'; '.join(CASES)}")
    rows = [row for case in chosen for name in LAYOUTS for row in measured(case, name, options.rounds)]
    with options.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(", ".join(str(value) for value in row.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
