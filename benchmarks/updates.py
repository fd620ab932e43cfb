"""The weight updates of an iteration: adam_ema's back-ends beside PyTorch's fused Adam, norm and moving average.

    python benchmarks/updates.py [--device cuda] [--width N...] [--seconds S] [--out CSV]

An update of a DCGAN discriminator and one of its generator with the moving average, as the trainer makes them: check of
the gradients, Adam, average. `torch` is torch.optim.Adam(fused=True) with foreach operations. The weights after one
update of each are compared first.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from table import GPU_TIMES, Row, device_name, gpu_times, ms, print_table, ratio, write

import fastgan
from fastgan import models
from fastgan.ops._backend import backend
from fastgan.testing.timing import captured, times
from fastgan.train.distributed import World
from fastgan.train.ema import Ema
from fastgan.train.optim import Adam, Update

COLUMNS = (
    "width",
    "provider",
    "ratio_vs_torch",
    "median_ms",
    *GPU_TIMES,
    "device",
    "threads",
    "torch",
    "fastgan",
    "note",
)
PROVIDERS = {"cpu": ("torch", "adam_ema"), "cuda": ("torch", "adam_ema cuda")}
EMA_WEIGHT = 0.001


class Networks:
    """A generator and a discriminator with fixed gradients. ours: by adam_ema, else by PyTorch's fused kernels."""

    def __init__(self, width: int, device: str, ours: bool) -> None:
        torch.manual_seed(0)
        generator, discriminator = models.build("dcgan", resolution=64, channels=3, latent=100, width=width)
        self.networks = generator.to(device), discriminator.to(device)
        self.ours, self.ema = ours, Ema(self.networks[0], 1e4)
        self.updates = [
            Update(network, self._optimizer(network, device), World(), 0.0, False) for network in self.networks
        ]
        self.gradients = [[torch.randn_like(p) * 0.01 for p in network.parameters()] for network in self.networks]
        self.loss = torch.ones((), device=device)

    def _optimizer(self, network: torch.nn.Module, device: str) -> torch.optim.Optimizer:
        if self.ours:
            return Adam(network.parameters(), 2e-4, (0.5, 0.999))
        capturable = device == "cuda"
        return torch.optim.Adam(network.parameters(), 2e-4, (0.5, 0.999), fused=True, capturable=capturable)

    def step(self) -> None:
        of_generator, of_discriminator = self.updates
        of_discriminator.add(self.loss, tuple(self.gradients[1]))
        of_discriminator.apply()
        of_generator.add(self.loss, tuple(self.gradients[0]))
        if self.ours:
            of_generator.apply(False, self.ema.averages(self.networks[0]), EMA_WEIGHT)
            self.ema.update(self.networks[0], EMA_WEIGHT, of_generator.averaged)
        else:
            of_generator.apply()
            self.ema.update(self.networks[0], EMA_WEIGHT)

    def weights(self) -> list[torch.Tensor]:
        return [p.detach() for network in (*self.networks, self.ema.module) for p in network.parameters()]


def build(provider: str, width: int, device: str) -> tuple[Networks, Callable[[], None]]:
    """The networks of a provider, and the function that updates them."""
    networks = Networks(width, device, provider != "torch")
    if not provider.endswith("cuda"):
        return networks, networks.step

    def forced() -> None:
        with backend("cuda"):
            networks.step()

    return networks, forced


def measure(width: int, device: str, seconds: float) -> list[Row]:
    ready, graphs, notes = {}, {}, {}
    expected: list[torch.Tensor] = []
    for provider in PROVIDERS[device]:
        try:
            networks, step = build(provider, width, device)
            step()
            found = [weight.clone() for weight in networks.weights()]
            expected = expected or found
            for got, want in zip(found, expected, strict=True):
                torch.testing.assert_close(got, want)
            if device == "cuda":
                graphs[provider] = captured([functools.partial(lambda step: step, build(provider, width, device)[1])])
            ready[provider] = step
        except Exception as error:  # a back-end that is missing is a result too
            notes[provider] = f"not timed: {str(error).strip().splitlines()[0][:120]}"
    timed = times(ready, device, seconds, graphs=graphs)
    rows: list[Row] = []
    for provider in PROVIDERS[device]:
        row: Row = {
            "width": width, "provider": provider, "device": device_name(device), "threads": torch.get_num_threads(),
            "torch": torch.__version__, "fastgan": fastgan.__version__, "note": notes.get(provider, ""),
        }  # fmt: skip
        if provider in timed:
            wall = timed[provider].wall.median
            row |= {"ratio_vs_torch": ratio(timed["torch"].wall.median, wall), "median_ms": ms(wall)}
            row |= gpu_times(timed[provider]) if device == "cuda" else {}
        rows.append(row)
    return rows


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--width", type=int, nargs="+", default=[64, 4], help="channels of the generator's last layer")
    parser.add_argument("--threads", type=int, nargs="+", default=[torch.get_num_threads()])
    parser.add_argument("--seconds", type=float, default=0.5, help="time spent on each figure")
    parser.add_argument("--out", type=Path, metavar="CSV", help="where the rows are written")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    rows: list[Row] = []
    for width in options.width:
        for threads in options.threads:
            torch.set_num_threads(threads)
            rows += measure(width, options.device, options.seconds)
    shown = ("width", "threads", "provider", "median_ms", "host_ms", "graph_ms", "ratio_vs_torch", "note")
    print_table([list(shown), *([str(row.get(name, "")) for name in shown] for row in rows)])
    if options.out:
        write(options.out, rows, COLUMNS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
