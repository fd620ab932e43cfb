"""Measures the cost of the monitor: iterations of the Trainer with and without it, in alternating rounds.

    python benchmarks/monitor.py [--out benchmarks/results/monitor.csv]

"Without" means that discriminator steps compute no statistics of their batches and that nothing is computed at the end
of an interval. An interval has 50 iterations, the default; the cost at its end is divided by their number.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from iterations import Iterations
from table import write

from fastgan import Config, Trainer, models
from fastgan.tasks import measures

COLUMNS = (
    "preset",
    "batch",
    "iteration_ms",
    "without_ms",
    "interval_end_ms",
    "cost_percent",
    "threads",
    "cpu",
    "torch",
)
INTERVAL = 50
#: Options of the networks, the loss, and flags of the configuration.
PRESETS: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "demo, 28²": ({"resolution": 28, "channels": 1, "width": 48, "d_norm": "batch"}, "non-saturating", {"batch": 64}),
    "dcgan-64": ({"resolution": 64, "channels": 3, "width": 64, "d_norm": "spectral"}, "non-saturating", {"batch": 32}),
    "wgan-gp-64": (
        {"resolution": 64, "channels": 3, "width": 64, "d_norm": "none"}, "wgan-gp", {"batch": 32, "d_steps": 1},
    ),
}  # fmt: skip


def trainer(networks: dict[str, Any], loss: str, flags: dict[str, Any]) -> Trainer:
    torch.manual_seed(0)
    pair = models.build("dcgan", latent=64, **networks)
    config = Config.from_flags(loss=loss, latent=64, compile="off", steps=10**9, **flags)
    return Trainer(*pair, loss, config)


def measure(name: str, rounds: int) -> dict[str, object]:
    networks, loss, flags = PRESETS[name]
    side, channels = networks["resolution"], networks["channels"]
    batch = torch.rand(flags["batch"], channels, side, side) * 2 - 1
    trainers = {which: trainer(networks, loss, flags) for which in ("with", "without")}
    iterations = {which: Iterations(each, itertools.repeat(batch)) for which, each in trainers.items()}
    times: dict[str, list[float]] = {"with": [], "without": [], "interval_end": []}

    def iterate(which: str) -> float:
        without = mock.patch.object(measures, "statistics", return_value={})
        with without if which == "without" else contextlib.nullcontext():
            start = time.perf_counter()
            iterations[which]()
            return time.perf_counter() - start

    for which in ("with", "without") * 3:
        iterate(which)
    for i in range(rounds):
        for which in ("with", "without") if i % 2 else ("without", "with"):
            times[which].append(iterate(which))
        if i % 5 == 0:
            start = time.perf_counter()
            trainers["with"].monitor.measure()
            times["interval_end"].append(time.perf_counter() - start)
    both, without, interval_end = (1000 * sorted(found)[len(found) // 2] for found in times.values())
    cost = 100 * (both + interval_end / INTERVAL - without) / without
    return {
        "preset": name, "batch": flags["batch"], "iteration_ms": f"{both:.2f}", "without_ms": f"{without:.2f}",
        "interval_end_ms": f"{interval_end:.2f}", "cost_percent": f"{cost:.2f}", "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(), "torch": torch.__version__,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--out", type=Path, metavar="CSV", help="where the rows are written")
    options = parser.parse_args()
    rows = []
    for name in PRESETS:
        rows.append(measure(name, options.rounds))
        print(rows[-1], flush=True)
        if options.out:
            write(options.out, rows, COLUMNS)


if __name__ == "__main__":
    main()
