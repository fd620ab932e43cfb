"""Times whole training iterations: fastgan's Trainer against the same networks in plain PyTorch, in alternating rounds.

    python benchmarks/end_to_end.py [--device cuda] [--case SUBSTRING] [--families | --sweep] [--out CSV]

Every contestant trains a copy of the same networks: plain PyTorch modules, or with --families the networks of
fastgan.models, which are compared with the same networks built from plain PyTorch layers (plain.py). An iteration reads
real images from one stream and consists of all discriminator steps, the generator step, Adam, and the moving average of
the generator's weights. On a GPU an iteration has a wall time (of a loop, from which images per second follow), a host
time, and, where it is one CUDA graph, the GPU time of a replay. --sweep measures one preset over batch sizes and
resolutions instead.
Before anything is timed, the gradients of fastgan's steps are compared with those of plain PyTorch.
"""

from __future__ import annotations

import argparse
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
from plain import plain_pytorch
from table import GPU_TIMES, gpu_times, has, resumed, write
from torch import nn

import fastgan
from fastgan import models
from fastgan.testing.timing import Graph, times
from fastgan.train.device import float32_products, why_slow


@dataclass(frozen=True)
class Preset:
    """What is trained.

    pair: a function of the image side that builds plain networks, or arguments of `fastgan.models.build`. loss: name of
    the adversarial loss. batches: batch size by device.
    """

    name: str
    side: int
    pair: Callable[[int], tuple[nn.Module, nn.Module]] | dict[str, Any]
    loss: str
    batches: dict[str, int]
    d_steps: int = 1
    r1_weight: float = 0.0
    r2_weight: float = 0.0


def _dcgan(side: int, batch_norm: bool = False, width: int = 64) -> tuple[nn.Module, nn.Module]:
    return networks.dcgan_generator(side, width), networks.dcgan_discriminator(side, batch_norm, width)


PRESETS = [
    Preset("dcgan-64", 64, functools.partial(_dcgan, batch_norm=True), "non-saturating", {"cpu": 32, "cuda": 64}),
    Preset("wgan-gp-64", 64, _dcgan, "wgan-gp", {"cpu": 32, "cuda": 64}, d_steps=5),
    Preset(
        "sngan-resnet-32",
        32,
        lambda side: (networks.ResnetGenerator(), networks.ResnetDiscriminator()),
        "hinge",
        {"cpu": 16, "cuda": 64},
        d_steps=5,
    ),
    Preset(
        "r1-128", 128, functools.partial(_dcgan, width=32), "non-saturating", {"cpu": 16, "cuda": 64}, r1_weight=10.0
    ),
]


def _family(label: str, loss: str, options: dict[str, Any], side: int = 32, batch: int = 16, **rest: Any) -> Preset:
    return Preset(label, side, options, loss, {"cpu": batch, "cuda": 64}, **rest)


#: The networks of fastgan.models with the adversarial losses of their papers, of a size that two CPU cores can train.
FAMILIES = [
    _family("mlp (original)", "non-saturating", {"name": "mlp", "variant": "original", "width": 1200}, batch=100),
    _family("dcgan, R1", "non-saturating", {"name": "dcgan", "width": 32}, side=64, batch=32, r1_weight=1.0),
    _family("resnet (SNGAN)", "hinge", {"name": "resnet", "width": 64, "d_norm": "spectral"}, d_steps=5),
    _family("resnet (WGAN-GP)", "wgan-gp", {"name": "resnet", "width": 64}, d_steps=5),
    _family("biggan", "hinge", {"name": "biggan", "width": 32, "d_norm": "spectral", "attention": 16}, d_steps=2),
    _family("progan", "wgan-gp", {"name": "progan", "width": 128}),
    _family("r3gan", "relativistic", {"name": "r3gan", "width": 64}, r1_weight=1.0, r2_weight=1.0),
]
#: Single precision by device. On a GPU PyTorch convolves in TF32 by default; here matrix products use TF32 too.
SINGLE = {"cpu": "fp32", "cuda": "tf32"}
SWEEP = [(8, 64), (16, 64), (32, 64), (64, 64), (16, 32), (16, 128)]
_KEY = ("preset", "provider", "precision", "batch", "side", "device", "threads", "torch", "fastgan")
_TIMES = {"cpu": ("iteration_ms",), "cuda": GPU_TIMES}
_PARTS = (
    "discriminator_ms", "generator_ms", "update_ms", "data_ms", "peak_MB", "launches", "compile_s", "note",
)  # fmt: skip
COLUMNS = {
    device: (*_KEY, "images_per_second", "ratio_vs_eager", *figures, *_PARTS) for device, figures in _TIMES.items()
}
#: Iterations before anything is timed, by device. A Trainer on a GPU captures its iteration after a few of them.
WARM_UP = {"cpu": 1, "cuda": 8}


def networks_of(preset: Preset, device: str, plain: bool = True) -> tuple[nn.Module, nn.Module]:
    """A generator and its discriminator with the same initial weights in every call.

    plain: build networks of fastgan.models from plain PyTorch layers.
    """
    torch.manual_seed(0)
    if callable(preset.pair):
        pair = preset.pair(preset.side)
    else:
        options = {"resolution": preset.side, "channels": 3, "latent": LATENT} | preset.pair
        pair = models.build(**options)
        if plain:
            with plain_pytorch():
                bare = models.build(**options)
            for network, same in zip(bare, pair, strict=True):
                network.load_state_dict(same.state_dict())
            pair = bare
    generator, discriminator = pair
    return generator.to(device), discriminator.to(device)


def config_of(preset: Preset, batch: int, precision: str, compile: str, device: str) -> fastgan.Config:
    gp_weight = 10.0 if preset.loss == "wgan-gp" else None
    return fastgan.Config.from_flags(
        latent=LATENT, batch=batch, loss=preset.loss, d_steps=preset.d_steps, gp_weight=gp_weight,
        r1_weight=preset.r1_weight, r2_weight=preset.r2_weight, precision=precision, compile=compile, lr_g=1e-4,
        lr_d=1e-4, beta1=0.0, beta2=0.9, device=device,
    )  # fmt: skip


def builders(preset: Preset, batch: int, device: str) -> dict[tuple[str, str], Callable[[], Any]]:
    """(provider, precision) → what builds it."""

    def plain(kind: type, precision: str) -> Any:
        return kind(*networks_of(preset, device), config_of(preset, batch, precision, "off", device))

    def ours(precision: str, compile: str) -> Any:
        config = config_of(preset, batch, precision, compile, device)
        return contestants.Ours(*networks_of(preset, device, plain=False), config, fuse=callable(preset.pair))

    single = SINGLE[device]
    found: dict[tuple[str, str], Callable[[], Any]] = {
        ("eager", single): lambda: plain(contestants.Eager, single),
        ("eager channels_last", single): lambda: plain(contestants.ChannelsLast, single),
        ("compile", single): lambda: plain(contestants.Compiled, single),
        ("fastgan", single): lambda: ours(single, "off"),
        ("fastgan+compile", single): lambda: ours(single, "on"),
        ("eager channels_last", "bf16"): lambda: plain(contestants.ChannelsLast, "bf16"),
        ("fastgan+compile", "bf16"): lambda: ours("bf16", "on"),
    }
    if device == "cuda":
        found |= {
            ("compile", "bf16"): lambda: plain(contestants.Compiled, "bf16"),
            ("hand-written graph", single): lambda: plain(contestants.HandWrittenGraph, single),
            ("hand-written graph", "bf16"): lambda: plain(contestants.HandWrittenGraph, "bf16"),
            ("fastgan graph", single): lambda: ours(single, "graph"),
            ("fastgan graph", "bf16"): lambda: ours("bf16", "graph"),
            ("fastgan", "bf16"): lambda: ours("bf16", "off"),
        }
    return found


#: Largest relative difference of gradients. In float32 a pre-activation within rounding of zero can fall on the other
#: side of the activation's kink, which changes the gradient by some thousandths, also between runs of plain PyTorch.
#: The float64 networks are followed by losses in float32.
LIMITS = {torch.float64: 1e-5, torch.float32: 1e-2}


def verify(preset: Preset, device: str) -> None:
    """AssertionError unless the gradients of both networks equal those of plain PyTorch."""
    config = config_of(preset, 8, "fp32", "off", device)
    for dtype, limit in LIMITS.items():
        plain_pair, pair = networks_of(preset, device), networks_of(preset, device, plain=False)
        for generator, discriminator in (plain_pair, pair):
            torch.manual_seed(1)
            with torch.no_grad():
                for weight in discriminator.parameters():
                    # Gradients as large as in training, so that a wrong one exceeds the limit.
                    weight.mul_(2) if weight.any() else weight.normal_(0, 0.05)
            for layer in discriminator.modules():
                if isinstance(layer, nn.Dropout):  # a joint batch of real and fake images draws masks in another order
                    layer.p = 0.0
            generator.to(dtype)
            discriminator.to(dtype)
        plain = contestants.Eager(*plain_pair, config)
        ours = contestants.Ours(*pair, config, fuse=callable(preset.pair))
        both = zip(
            ("discriminator", "generator"), ours.gradients(preset.side), plain.gradients(preset.side), strict=True
        )
        for name, got, want in both:
            error = (got - want).norm() / want.norm()
            assert error <= limit, f"{preset.name}: the {name}'s gradients differ by {error:.1e} in {dtype}"


def measure(preset: Preset, options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """The rows of a preset. All contestants are timed in the same alternating rounds."""
    device, batch = options.device, options.batch or preset.batches[options.device]
    with float32_products(tf32=False):
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
            for _ in range(WARM_UP[device]):
                contestant.iterate()
            ready[label] = contestant
            notes[label] = f"{time.perf_counter() - start:.0f}"
        except Exception as error:
            if provider in ("eager", "fastgan"):
                raise
            notes[label] = f"not available: {str(error).strip().splitlines()[0][:120]}"
    graphs = {label: Graph(replay) for label, c in ready.items() if (replay := c.replay()) is not None}
    found = times({label: c.iterate for label, c in ready.items()}, device, options.seconds, (5, 60), graphs)
    base = found[f"eager|{SINGLE[device]}"].wall.median
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
        median = found[label].wall.median
        yield row | {
            "images_per_second": f"{1000 * batch * preset.d_steps / median:.1f}",
            "ratio_vs_eager": f"{base / median:.2f}",
            **(gpu_times(found[label]) if device == "cuda" else {"iteration_ms": f"{median:.2f}"}),
            **contestants.phases(ready[label], device),
            "peak_MB": contestants.peak_megabytes(ready[label], device),
            "launches": contestants.launches(ready[label], device),
            "compile_s": notes[label] if "compile" in provider else "",
            "note": ready[label].about,
        }
        print(f"timed {preset.name} {label}: {median:.1f} ms, {base / median:.2f}x", file=sys.stderr, flush=True)


def presets(options: argparse.Namespace) -> Iterator[Preset]:
    """The presets that the options select."""
    found = FAMILIES if options.families else PRESETS
    if options.sweep:
        base = next(preset for preset in PRESETS if preset.name == "wgan-gp-64")
        found = [
            replace(base, name=f"wgan-gp {side}² × {batch}", side=side, d_steps=1, batches={options.device: batch})
            for batch, side in SWEEP
        ]
    yield from (preset for preset in found if options.case in preset.name)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--case", default="", metavar="SUBSTRING", help="only presets whose name contains this")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="PROVIDER", help="only these providers; eager is always measured"
    )
    parser.add_argument("--families", action="store_true", help="the networks of fastgan.models instead of plain ones")
    parser.add_argument(
        "--sweep", action="store_true", help="one discriminator step at several batch sizes and resolutions"
    )
    parser.add_argument("--batch", type=int, help="another batch size for all presets")
    parser.add_argument("--seconds", type=float, default=10.0, help="time spent on each contestant")
    parser.add_argument("--out", type=Path, metavar="CSV", help="where the rows are written")
    parser.add_argument("--resume", action="store_true", help="keep the rows of --out, and measure what is missing")
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: no CUDA device here")
    if options.only:
        options.only.append("eager")
    options.device_name = (
        torch.cuda.get_device_name() if options.device == "cuda" else f"cpu ({torch.backends.cpu.get_cpu_capability()})"
    )
    return options


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    rows, failed = resumed(options.out, options.resume), 0
    for preset in presets(options):
        if has(rows, {"preset": preset.name}):
            continue
        try:
            with float32_products(tf32=SINGLE[options.device] == "tf32"):
                rows += measure(preset, options)
        except Exception as error:  # wrong gradients, or a GPU's error: the other presets are still worth their time
            failed += 1
            print(f"NOT TIMED: {preset.name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        if options.out:  # after every preset, so that an interrupted run leaves its rows
            write(options.out, rows, COLUMNS[options.device])
    for row in rows:
        if row.get("images_per_second"):
            parts = " ".join(
                f"{name} {row.get(f'{name}_ms', '')}" for name in ("discriminator", "generator", "update", "data")
            )
            print(f"{row['preset']:20} {row['provider']:20} {row['precision']:5} {row['images_per_second']:>9} img/s"
                  f" {row['ratio_vs_eager']:>6}x  {parts} ms  {row['peak_MB']} MB  {row['note']}")  # fmt: skip
        else:
            print(f"{row['preset']:20} {row['provider']:20} {row['precision']:5} {row['note']}")
    return 1 if failed or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
