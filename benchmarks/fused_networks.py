"""Plain networks against the same networks after `fastgan.fuse`, on the CPU: forward without gradients, a step without
penalty, and a gradient penalty, at the batches and layouts in which they are trained.

    python benchmarks/fused_networks.py [--threads 1 2] [--clock cpu] [--case SUBSTRING]
        [--out benchmarks/results/fused_networks.csv]

A step is the non-saturating loss on real and fake images (for a generator: of its images) and the gradients of all
weights; a penalty is R1 or the gradient penalty in plain PyTorch, as public code has it, and its gradients. Contestants
take turns in one process; ratios of medians, above 1 where fused is faster. Gradients are compared first. --clock cpu
counts the CPU time of the process, for use while other programs run. Rows are written as they come.
"""

from __future__ import annotations

import argparse
import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import architectures
import networks
import steps
import torch
import torch.nn.functional as F
from fusion_rewriter import cpu_time
from table import write
from torch import Tensor, nn

import fastgan
from fastgan._util.timing import alternate, quantile, rounds_in, watch

COLUMNS = (
    "network", "mode", "batch", "layout", "threads", "plain_ms", "fused_ms", "fused_vs_plain", "clock", "torch",
    "fastgan",
)  # fmt: skip
#: The floor of a ratio.
FLOOR = 0.98


@dataclass(frozen=True)
class Case:
    """A network, the shape of one input, and whether a penalty is computed at it."""

    name: str
    network: Callable[[], nn.Module]
    shape: tuple[int, ...]
    penalty: bool = True


CASES = [
    Case("DCGAN discriminator 64", steps.dcgan_discriminator, (3, 64, 64)),
    Case("DCGAN discriminator with batch norm 64", lambda: networks.dcgan_discriminator(64, True), (3, 64, 64)),
    Case("DCGAN generator 64", lambda: networks.dcgan_generator(64), (networks.LATENT,), False),
    Case("SNGAN discriminator 32", steps.sngan_discriminator, (3, 32, 32)),
    Case("SNGAN ResNet discriminator 32", networks.ResnetDiscriminator, (3, 32, 32)),
    Case("SNGAN ResNet generator 32", lambda: networks.ResnetGenerator(128), (networks.LATENT,), False),
    Case("GAN_stability ResNet discriminator 32", architectures.StabilityDiscriminator, (3, 32, 32)),
    Case("PatchGAN 64", architectures.patchgan, (3, 64, 64)),
    Case("U-Net generator 64", lambda: architectures.unet(64), (3, 64, 64), False),
    Case("StarGAN discriminator 64", architectures.stargan_discriminator, (3, 64, 64)),
    Case("StarGAN generator 32", architectures.StarganGenerator, (3, 32, 32), False),
    Case("HiFi-GAN period discriminator", architectures.PeriodDiscriminator, (1, 4096)),
    Case("HiFi-GAN scale discriminator", architectures.ScaleDiscriminator, (1, 4096)),
    Case("HiFi-GAN generator", architectures.VocoderGenerator, (80, 8), False),
    Case("MLP discriminator", architectures.mlp, (784,)),
    Case("tiny Sequential 64", lambda: steps.conv_discriminator([(w, 4, 2) for w in (4, 8, 16, 32)]), (3, 64, 64)),
    Case("tiny custom forward 32", architectures.Tiny, (3, 32, 32)),
]
BATCHES, LAYOUTS = (8, 32), ("contiguous", "channels_last")


def _outputs(network: nn.Module, x: Tensor) -> Tensor:
    return network(x).flatten()


def _forward(network: nn.Module, x: Tensor, fake: Tensor) -> list[Tensor | None]:
    with torch.no_grad():
        return [network(x)]


def _step(network: nn.Module, x: Tensor, fake: Tensor) -> list[Tensor | None]:
    network.zero_grad(set_to_none=True)
    (F.softplus(_outputs(network, fake)).mean() + F.softplus(-_outputs(network, x)).mean()).backward()
    return [weight.grad for weight in network.parameters()]


def _penalty(network: nn.Module, x: Tensor, fake: Tensor) -> list[Tensor | None]:
    network.zero_grad(set_to_none=True)
    points = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(_outputs(network, points).sum(), points, create_graph=True)
    (10 * (gradient.flatten(1).norm(dim=1) - 1).square().mean()).backward()
    return [weight.grad for weight in network.parameters()]


MODES = {"forward": _forward, "step": _step, "penalty": _penalty}


def _contestants(case: Case, batch: int, layout: str) -> tuple[dict[str, nn.Module], Tensor, Tensor]:
    torch.manual_seed(0)
    network = case.network()
    x, fake = torch.randn(2, batch, *case.shape)
    if layout == "channels_last":
        network = network.to(memory_format=torch.channels_last)
        if x.dim() == 4:
            x, fake = (t.contiguous(memory_format=torch.channels_last) for t in (x, fake))
    # Both are copies: where the weights lie in memory changes times by some percent.
    return {"plain": copy.deepcopy(network), "fused": fastgan.fuse(copy.deepcopy(network))}, x, fake


def measure(case: Case, mode: str, batch: int, layout: str, clock: str, seconds: float) -> dict[str, object]:
    contestants, x, fake = _contestants(case, batch, layout)
    run = MODES[mode]
    for got, want in zip(*(run(contestants[name], x, fake) for name in ("fused", "plain")), strict=True):
        assert (got is None) == (want is None), f"{case.name}, {mode}: a gradient is None in one of both"
        if got is not None:
            error = float((got - want).norm() / want.norm().clamp_min(1e-30))
            assert error < 1e-2 or float(want.norm()) < 1e-6, f"{case.name}, {mode}: relative error {error:.1e}"
    functions = {name: lambda network=network: run(network, x, fake) for name, network in contestants.items()}
    once = watch(lambda: [function() for function in functions.values()])()
    rounds = rounds_in(seconds, once / 1e3, (7, 400))
    reads = alternate(functions, {"wall": watch, "cpu": cpu_time}[clock], rounds)
    plain, fused = (quantile([read() for read in reads[name]], 0.5) for name in ("plain", "fused"))
    return {
        "network": case.name, "mode": mode, "batch": batch, "layout": layout, "threads": torch.get_num_threads(),
        "plain_ms": f"{plain:.2f}", "fused_ms": f"{fused:.2f}", "fused_vs_plain": f"{plain / fused:.3f}",
        "clock": clock, "torch": torch.__version__, "fastgan": fastgan.__version__,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, metavar="CSV", help="where the rows are written")
    parser.add_argument("--case", default="", metavar="SUBSTRING", help="only networks whose name contains this")
    parser.add_argument("--mode", choices=list(MODES), help="only this mode")
    parser.add_argument("--batch", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--layout", choices=LAYOUTS, nargs="+", default=list(LAYOUTS))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: the CPU time of this process")
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each row")
    options = parser.parse_args()
    cases = [case for case in CASES if options.case in case.name]
    if not cases:
        parser.error(f"--case: expected a part of one of {', '.join(case.name for case in CASES)}")
    modes = [options.mode] if options.mode else list(MODES)
    rows: list[dict[str, object]] = []
    for threads, case, batch, layout, mode in itertools.product(
        options.threads, cases, options.batch, options.layout, modes
    ):
        if mode == "penalty" and not case.penalty:
            continue
        torch.set_num_threads(threads)
        rows.append(measure(case, mode, batch, layout, options.clock, options.seconds))
        low = " <" if float(str(rows[-1]["fused_vs_plain"])) < FLOOR else ""
        print(", ".join(str(rows[-1][name]) for name in COLUMNS[:8]) + low, flush=True)
        if options.out:
            write(options.out, rows, COLUMNS)


if __name__ == "__main__":
    main()
