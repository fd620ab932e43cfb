"""Times whole training iterations: fastgan's Trainer against the same networks in plain PyTorch, in alternating rounds.

    python benchmarks/end_to_end.py [--device cuda] [--case SUBSTRING] [--sweep] [--out benchmarks/results/training.csv]

Every contestant trains a copy of the same plain pair: real images from the same stream, all critic steps, the
generator's step, Adam, and an average of its weights. --sweep: one preset over batch sizes and resolutions instead.
What is not correct is not timed: before, our steps' gradients are compared with the plain ones.
"""

from __future__ import annotations

import argparse
import copy
import functools
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import contestants
import networks
import torch
from networks import LATENT
from run import write
from torch import nn

import fastgan
from fastgan.testing.timing import side_by_side
from fastgan.train.device import why_slow


@dataclass(frozen=True)
class Preset:
    """What is trained. batches: by device."""

    name: str
    side: int
    pair: Callable[[int], tuple[nn.Module, nn.Module]]
    game: str
    batches: dict[str, int]
    d_steps: int = 1
    r1_weight: float = 0.0


def _dcgan(side: int, batch_norm: bool = False, width: int = 64) -> tuple[nn.Module, nn.Module]:
    return networks.dcgan_generator(side, width), networks.dcgan_critic(side, batch_norm, width)


PRESETS = [
    Preset("dcgan-64", 64, functools.partial(_dcgan, batch_norm=True), "non-saturating", {"cpu": 32, "cuda": 64}),
    Preset("wgan-gp-64", 64, _dcgan, "wgan-gp", {"cpu": 32, "cuda": 64}, d_steps=5),
    Preset(
        "sngan-resnet-32",
        32,
        lambda side: (networks.ResnetGenerator(), networks.ResnetCritic()),
        "hinge",
        {"cpu": 16, "cuda": 64},
        d_steps=5,
    ),
    Preset(
        "r1-128", 128, functools.partial(_dcgan, width=32), "non-saturating", {"cpu": 16, "cuda": 64}, r1_weight=10.0
    ),
]
SWEEP = [(8, 64), (16, 64), (32, 64), (64, 64), (16, 32), (16, 128)]
COLUMNS = (
    "preset", "provider", "precision", "batch", "side", "device", "threads", "torch", "fastgan",
    "images_per_second", "ratio_vs_eager", "iteration_ms", "critic_ms", "generator_ms", "update_ms", "data_ms",
    "peak_MB", "launches", "compile_s", "note",
)  # fmt: skip


def networks_of(preset: Preset, device: str) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    generator, critic = preset.pair(preset.side)
    return generator.to(device), critic.to(device)


def config_of(preset: Preset, batch: int, precision: str, compile: str, device: str) -> fastgan.Config:
    return fastgan.Config(
        latent=LATENT, batch=batch, game=preset.game, d_steps=preset.d_steps, r1_weight=preset.r1_weight,
        precision=precision, compile=compile, lr_g=1e-4, lr_d=1e-4, beta1=0.0, beta2=0.9, device=device,
    )  # fmt: skip


def builders(preset: Preset, batch: int, device: str) -> dict[tuple[str, str], Callable[[], Any]]:
    """(provider, precision) → what builds it."""

    def plain(kind: type, precision: str) -> Any:
        return kind(*networks_of(preset, device), config_of(preset, batch, precision, "off", device))

    def ours(precision: str, compile: str) -> Any:
        return contestants.Ours(*networks_of(preset, device), config_of(preset, batch, precision, compile, device))

    found: dict[tuple[str, str], Callable[[], Any]] = {
        ("eager", "fp32"): lambda: plain(contestants.Eager, "fp32"),
        ("eager channels_last", "fp32"): lambda: plain(contestants.ChannelsLast, "fp32"),
        ("compile", "fp32"): lambda: plain(contestants.Compiled, "fp32"),
        ("fastgan", "fp32"): lambda: ours("fp32", "off"),
        ("fastgan+compile", "fp32"): lambda: ours("fp32", "on"),
        ("eager channels_last", "bf16"): lambda: plain(contestants.ChannelsLast, "bf16"),
        ("fastgan+compile", "bf16"): lambda: ours("bf16", "on"),
    }
    if device == "cuda":
        found |= {
            ("compile", "bf16"): lambda: plain(contestants.Compiled, "bf16"),
            ("graph by hand", "bf16"): lambda: plain(contestants.GraphByHand, "bf16"),
            ("fastgan", "bf16"): lambda: ours("bf16", "off"),
        }
    return found


def verify(preset: Preset, device: str) -> None:
    """AssertionError unless our critic's and generator's gradients are the plain ones, in float32."""
    config = config_of(preset, 8, "fp32", "off", device)
    generator, critic = networks_of(preset, device)
    with torch.no_grad():
        for weight in critic.parameters():
            weight.mul_(2)  # gradients of the size that training has, so that a wrong one shows
    plain = contestants.Eager(copy.deepcopy(generator), copy.deepcopy(critic), config)
    ours = contestants.Ours(generator, critic, config)
    for name, got, want in zip(
        ("critic", "generator"), ours.gradients(preset.side), plain.gradients(preset.side), strict=True
    ):
        error = (got - want).norm() / want.norm()
        assert error <= 2e-3, f"{preset.name}: the {name}'s gradients differ by {error:.1e}"


def measure(preset: Preset, options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """The rows of a preset: all contestants in the same rounds."""
    device, batch = options.device, options.batch or preset.batches[options.device]
    verify(preset, device)
    ready: dict[str, Any] = {}
    notes: dict[str, str] = {}
    wanted = {k: b for k, b in builders(preset, batch, device).items() if not options.only or k[0] in options.only}
    for (provider, precision), build in wanted.items():
        label = f"{provider}|{precision}"
        if slow := why_slow(precision, torch.device(device)):
            notes[label] = f"not measured: {slow}"
            continue
        try:
            torch._dynamo.reset()
            start = time.perf_counter()
            contestant = build()
            contestant.use(contestants.stream(batch, preset.side, device))
            contestant.iterate()
            ready[label] = contestant
            notes[label] = f"{time.perf_counter() - start:.0f}"
        except Exception as error:
            if provider in ("eager", "fastgan"):
                raise
            notes[label] = f"not available: {str(error).strip().splitlines()[0][:120]}"
    times = side_by_side({label: c.iterate for label, c in ready.items()}, device, options.seconds, (5, 60))
    base = times["eager|fp32"].median
    for provider, precision in wanted:
        label = f"{provider}|{precision}"
        row: dict[str, object] = {
            "preset": preset.name, "provider": provider, "precision": precision, "batch": batch, "side": preset.side,
            "device": options.device_name, "threads": torch.get_num_threads(), "torch": torch.__version__,
            "fastgan": fastgan.__version__,
        }  # fmt: skip
        if label not in ready:
            yield row | {"note": notes[label]}
            continue
        median = times[label].median
        yield row | {
            "images_per_second": f"{1000 * batch * preset.d_steps / median:.1f}",
            "ratio_vs_eager": f"{base / median:.2f}",
            "iteration_ms": f"{median:.2f}",
            **contestants.phases(ready[label], device),
            "peak_MB": contestants.peak_megabytes(ready[label], device),
            "launches": contestants.launches(ready[label], device),
            "compile_s": notes[label] if "compile" in provider else "",
        }
        print(f"timed {preset.name} {label}: {median:.1f} ms, {base / median:.2f}x", file=sys.stderr, flush=True)


def presets(options: argparse.Namespace) -> Iterator[Preset]:
    """What is to be measured."""
    found = PRESETS
    if options.sweep:
        base = next(preset for preset in PRESETS if preset.name == "wgan-gp-64")
        found = [
            replace(base, name=f"wgan-gp {side}² × {batch}", side=side, d_steps=1, batches={options.device: batch})
            for batch, side in SWEEP
        ]
    yield from (preset for preset in found if options.case in preset.name)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--case", default="", metavar="SUBSTRING", help="only presets whose name contains this")
    parser.add_argument("--only", nargs="+", default=[], metavar="PROVIDER", help="only these; eager always")
    parser.add_argument("--sweep", action="store_true", help="one critic step at several batch sizes and resolutions")
    parser.add_argument("--batch", type=int, help="another batch size for all presets")
    parser.add_argument("--seconds", type=float, default=10.0, help="time spent on each contestant")
    parser.add_argument("--out", type=Path, metavar="CSV", help="where the rows are written")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: no CUDA device here")
    if options.only:
        options.only.append("eager")
    options.device_name = (
        torch.cuda.get_device_name() if options.device == "cuda" else f"cpu ({torch.backends.cpu.get_cpu_capability()})"
    )
    return options


def main() -> int:
    options = arguments()
    rows: list[dict[str, object]] = []
    for preset in presets(options):
        rows += measure(preset, options)
        if options.out:  # every time, so that a run that is cut off leaves what it found
            write(options.out, rows, COLUMNS)
    for row in rows:
        if "iteration_ms" in row:
            print(f"{row['preset']:20} {row['provider']:20} {row['precision']:5} {row['images_per_second']:>9} img/s"
                  f" {row['ratio_vs_eager']:>6}x  critic {row['critic_ms']} generator {row['generator_ms']}"
                  f" update {row['update_ms']} data {row['data_ms']} ms  {row['peak_MB']} MB")  # fmt: skip
        else:
            print(f"{row['preset']:20} {row['provider']:20} {row['precision']:5} {row['note']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
