"""Times the steps of StyleGAN2: fastgan's networks beside plain PyTorch with the same weights, in alternating rounds.

    python benchmarks/stylegan_steps.py [--device cuda] [--side 64 256] [--only STEP...] [--out CSV]

Steps: synthesis without gradients; the gradient of the generator's loss; that of the discriminator's with R1; that of
path length regularization, on half the batch. plain: plain_stylegan2.py. Gradients are compared before anything is
timed. "training" is the whole of `fastgan train stylegan2`: 16 iterations of the Trainer, which hold every lazy penalty
as often as training does, in seconds for a thousand images; nothing is compared with it. On a CPU channel_base is 8192
at most 128 channels; on a GPU the preset's networks, in bfloat16 too.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from contestants import stream
from iterations import Iterations
from plain_stylegan2 import PlainDiscriminator, PlainGenerator
from table import GPU_TIMES, Row, device_name, gpu_times, has, ms, print_table, ratio, resumed, write
from torch import Tensor, nn

import fastgan
from fastgan.models.stylegan import Discriminator, Generator
from fastgan.regularization.path_length import path_lengths
from fastgan.testing.timing import times
from fastgan.train.device import float32_products
from fastgan.train.presets import preset

KEY = ("step", "side", "batch", "provider", "precision", "device", "threads", "torch", "fastgan")
FIGURES = ("ratio_vs_plain", "median_ms", *GPU_TIMES, "sec_per_kimg", "note")
COLUMNS = (*KEY, *FIGURES)
#: channel_base and channel_max, latent, layers of the mapping, and batch by side.
SIZES = {
    "cpu": ({"channel_base": 8192, "channel_max": 128}, 512, {64: 4, 256: 2}),
    "cuda": ({"channel_base": 16_384, "channel_max": 512}, 512, {64: 32, 256: 32}),
}
#: Largest relative difference of gradients, as vectors. In float32 a value within rounding of zero can be on the other
#: side of the activation's kink (end_to_end.py).
LIMIT = {"fp32": 1e-2, "tf32": 3e-2, "bf16": 0.1}


class Steps:
    """The steps of one provider."""

    def __init__(self, generator: nn.Module, discriminator: nn.Module, z: Tensor, real: Tensor, y: Tensor, half: bool):
        self.generator, self.discriminator, self.z, self.real, self.y = generator, discriminator, z, real, y
        self.half = half

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.z.device.type, torch.bfloat16, enabled=self.half)

    def fresh(self) -> None:
        for network in (self.generator, self.discriminator):
            for parameter in network.parameters():
                parameter.grad = None

    @torch.no_grad()
    def synthesis(self) -> Tensor:
        with self.autocast():
            return self.generator(self.z).float()  # type: ignore[no-any-return]

    def generator_step(self) -> None:
        self.fresh()
        self.discriminator.requires_grad_(False)
        with self.autocast():
            F.softplus(-self.discriminator(self.generator(self.z))).float().mean().backward()
        self.discriminator.requires_grad_(True)

    def discriminator_r1(self) -> None:
        self.fresh()
        with torch.no_grad():
            fake = self.synthesis()
        with self.autocast():
            F.softplus(self.discriminator(fake)).float().mean().backward()
            real = self.real.detach().requires_grad_()
            logits = self.discriminator(real).float()
        (slope,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
        (F.softplus(-logits).mean() + 8 * slope.square().sum((1, 2, 3)).mean()).backward()

    def path_length(self) -> None:
        self.fresh()
        with self.autocast():
            w = self.generator.mapping(self.z[: len(self.y)])  # type: ignore[operator]
            lengths = path_lengths(self.generator.synthesis, w, self.y)  # type: ignore[arg-type]
        (2 * (lengths - 0.5).square().mean()).backward()

    def gradient(self, step: Callable[[], None]) -> Tensor:
        step()
        found = [p.grad.flatten() for n in (self.generator, self.discriminator) for p in n.parameters()
                 if p.grad is not None]  # fmt: skip
        return torch.cat(found)


class Ours(nn.Module):
    """fastgan's generator with the noise of its buffers, which the plain one has too."""

    def __init__(self, network: Generator):
        super().__init__()
        self.network, self.mapping = network, network.mapping

    def synthesis(self, w: Tensor) -> Tensor:
        return self.network.synthesis(w, noise_mode="const")

    def forward(self, z: Tensor) -> Tensor:
        return self.synthesis(self.mapping(z))


STEPS = ("synthesis", "generator_step", "discriminator_r1", "path_length")


def providers(side: int, batch: int, device: str, half: bool) -> dict[str, Steps]:
    """Both providers, with the same weights and inputs; parameters that begin at zero are random."""
    torch.manual_seed(0)
    sizes, latent, _ = SIZES[device]
    generator = Generator(latent, 0, latent, side, 3, **sizes).to(device).eval()  # type: ignore[arg-type]
    discriminator = Discriminator(0, side, 3, **sizes).to(device)  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.endswith("noise_strength"):
                parameter.normal_(std=0.1)
    z, real = torch.randn(batch, latent, device=device), torch.randn(batch, 3, side, side, device=device)
    y = torch.randn(batch // 2, 3, side, side, device=device)
    return {
        "plain": Steps(PlainGenerator(generator), PlainDiscriminator(discriminator), z, real, y, half),
        "fastgan": Steps(Ours(generator), discriminator, z, real, y, half),
    }


def verify(found: dict[str, Steps], precision: str) -> None:
    """AssertionError unless images and gradients of both providers agree."""
    plain, ours = found.values()
    for name in STEPS:
        if name == "synthesis":
            want, got = plain.synthesis(), ours.synthesis()
        else:
            want, got = plain.gradient(getattr(plain, name)), ours.gradient(getattr(ours, name))
        error = float((got - want).norm() / want.norm())
        assert error <= LIMIT[precision], f"{name}: relative difference {error:.1e}, at most {LIMIT[precision]:.0e}"


def measure(step: str, side: int, options: argparse.Namespace, precision: str) -> Iterator[Row]:
    batch, found = options.batch, options.ready[side, precision]
    timed = times({name: getattr(one, step) for name, one in found.items()}, options.device, options.seconds, (7, 200))
    base = timed["plain"].wall.median
    for provider, one in timed.items():
        row = about(step, side, batch[side], provider, precision, options)
        yield (
            row
            | {"ratio_vs_plain": ratio(base, one.wall.median), "median_ms": ms(one.wall.median)}
            | (gpu_times(one) if options.device == "cuda" else {})
        )


def about(step: str, side: int, batch: int, provider: str, precision: str, options: argparse.Namespace) -> Row:
    words = (step, side, batch, provider, precision, device_name(options.device), torch.get_num_threads())
    return dict(zip(KEY, (*words, torch.__version__, fastgan.__version__), strict=True))


def training(side: int, options: argparse.Namespace, precision: str) -> Row:
    """The Trainer's own iterations, by the clock of the wall."""
    sizes, latent, _ = SIZES[options.device]
    batch = options.batch[side]
    config = preset("stylegan2").with_flags(
        batch=batch, resolution=side, precision=precision, device=options.device,
        compile="graph" if options.device == "cuda" else "off",
    )  # fmt: skip
    torch.manual_seed(0)
    generator = Generator(latent, 0, latent, side, 3, **sizes)  # type: ignore[arg-type]
    trainer = fastgan.Trainer(generator, Discriminator(0, side, 3, **sizes), "non-saturating", config)  # type: ignore[arg-type]
    iterate = Iterations(trainer, stream(batch, side, options.device))
    synchronize = torch.cuda.synchronize if options.device == "cuda" else lambda: None
    for _ in range(32 if options.device == "cuda" else 1):  # captures every variant of the iteration on a GPU
        iterate()
    synchronize()
    start, rounds = time.perf_counter(), 0
    while rounds == 0 or time.perf_counter() - start < options.seconds:
        for _ in range(16):
            iterate()
        synchronize()
        rounds += 1
    seconds = (time.perf_counter() - start) / (16 * rounds)
    row = about("training", side, batch, "fastgan", precision, options)
    note = trainer.steps.about if trainer.steps is not None else ""
    return row | {"median_ms": ms(seconds * 1000), "sec_per_kimg": f"{1000 * seconds / batch:.2f}", "note": note}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--side", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--only", nargs="+", default=[*STEPS, "training"], choices=[*STEPS, "training"])
    parser.add_argument("--seconds", type=float, default=5.0, help="time spent on each figure")
    parser.add_argument("--out", type=Path, metavar="CSV", help="where the rows are written")
    parser.add_argument("--resume", action="store_true", help="keep the rows of --out, and measure what is missing")
    options = parser.parse_args(argv)
    options.batch = {side: SIZES[options.device][2].get(side, 4) for side in options.side}
    return options


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    rows, failed = resumed(options.out, options.resume), 0
    precisions = ("tf32", "bf16") if options.device == "cuda" else ("fp32",)
    for side in options.side:
        for precision in precisions:
            options.ready = {}
            for step in options.only:
                if has(rows, {"step": step, "side": side, "precision": precision}):
                    continue
                try:
                    if step == "training":
                        rows.append(training(side, options, precision))
                        continue
                    with float32_products(tf32=options.device == "cuda"):
                        if not options.ready:
                            options.ready[side, precision] = providers(
                                side, options.batch[side], options.device, precision == "bf16"
                            )
                            verify(options.ready[side, precision], precision)
                        rows += measure(step, side, options, precision)
                except Exception as error:  # wrong numbers, or a GPU's error: the rest is still worth its time
                    failed += 1
                    print(f"NOT TIMED: {step} {side}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                if options.out:  # so that an interrupted run leaves its rows
                    write(options.out, rows, COLUMNS)
    if options.out:
        write(options.out, rows, COLUMNS)
    shown = ("step", "side", "batch", "provider", "precision", "median_ms", "ratio_vs_plain", "sec_per_kimg", "note")
    print_table([list(shown), *([str(row.get(name, "")) for name in shown] for row in rows)])
    return 1 if failed or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
