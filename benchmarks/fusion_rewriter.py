"""The gain of the source rewriter of `fastgan.fuse`: a discriminator step with it, without it, and in plain PyTorch.

    python benchmarks/fusion_rewriter.py [--compile] [--case SUBSTRING]
        [--out benchmarks/results/fusion_rewriter.csv]

The rewriter (fastgan/nn/fusion/rewrite.py) handles activations that a module's own forward calls, as functions
(`F.leaky_relu(self.conv(x), 0.2)`) or as modules (`self.act(self.conv(x))`). "modules" is fuse without it: only modules
of torch.nn and nn.Sequential run on fastgan's ops. A step is D's loss on real and fake images with its penalty, forward
and backward. Contestants run in alternating rounds in one process; medians, float32. --compile also times each
step under fastgan.compile (half a minute or more for each to compile). --clock cpu counts the CPU time of the process
instead of wall-clock time, with one thread, for use while other programs run.

PatchGAN is one nn.Sequential, to which the rewriter does not apply: its ratio shows the noise of the measurement.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import csv
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import fastgan
from fastgan._util.timing import alternate, quantile, rounds_in, watch
from fastgan.nn.fusion import fused_classes

COLUMNS = (
    "network", "penalty", "compiled", "batch", "side", "plain_ms", "modules_ms", "rewriter_ms",
    "modules_vs_plain", "rewriter_vs_plain", "rewriter_vs_modules", "saved_percent",
    "clock", "threads", "torch", "fastgan",
)  # fmt: skip


# --- discriminators as public code writes them ------------------------------------------------------------------------


class FunctionalDCGAN(nn.Module):
    """Convolutions of 4×4 with stride 2, each followed by F.leaky_relu in forward."""

    def __init__(self, width: int = 64, side: int = 32):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 4, 2, 1)
        self.conv2 = nn.Conv2d(width, 2 * width, 4, 2, 1)
        self.conv3 = nn.Conv2d(2 * width, 4 * width, 4, 2, 1)
        self.conv4 = nn.Conv2d(4 * width, 1, side // 8, 1, 0)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.conv1(x), 0.2)
        x = F.leaky_relu(self.conv2(x), 0.2)
        x = F.leaky_relu(self.conv3(x), 0.2)
        return self.conv4(x).flatten(1)


class FunctionalBatchNormDCGAN(FunctionalDCGAN):
    """The same with batch norms between convolution and activation, as DCGAN's discriminator has them."""

    def __init__(self, width: int = 64, side: int = 32):
        super().__init__(width, side)
        self.bn2, self.bn3 = nn.BatchNorm2d(2 * width), nn.BatchNorm2d(4 * width)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.conv1(x), 0.2)
        x = F.leaky_relu(self.bn2(self.conv2(x)), 0.2)
        x = F.leaky_relu(self.bn3(self.conv3(x)), 0.2)
        return self.conv4(x).flatten(1)


class SNGANBlock(nn.Module):
    """The residual block of SNGAN's ResNet discriminator (arXiv:1802.05957), activations as functions."""

    def __init__(self, channels: int, outputs: int, down: bool, first: bool = False):
        super().__init__()
        self.first, self.down = first, down
        self.c1 = parametrizations.spectral_norm(nn.Conv2d(channels, outputs, 3, 1, 1))
        self.c2 = parametrizations.spectral_norm(nn.Conv2d(outputs, outputs, 3, 1, 1))
        self.skip = parametrizations.spectral_norm(nn.Conv2d(channels, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        h = x if self.first else F.relu(x)
        h = self.c1(h)
        h = F.relu(h)
        h = self.c2(h)
        s = self.skip(x)
        return F.avg_pool2d(h, 2) + F.avg_pool2d(s, 2) if self.down else h + s


class SNGANResNet(nn.Module):
    def __init__(self, width: int = 64):
        super().__init__()
        self.block1 = SNGANBlock(3, width, True, first=True)
        self.block2 = SNGANBlock(width, width, True)
        self.block3 = SNGANBlock(width, width, False)
        self.block4 = SNGANBlock(width, width, False)
        self.linear = parametrizations.spectral_norm(nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.block4(self.block3(self.block2(self.block1(x))))
        return self.linear(F.relu(h).sum((2, 3)))


class R3GANBlock(nn.Module):
    """R3GAN's residual block (arXiv:2501.05441): 1×1, grouped 3×3, 1×1, activations as modules called in forward."""

    def __init__(self, channels: int, expansion: int = 2, cardinality: int = 4):
        super().__init__()
        inner = channels * expansion
        self.linear1 = nn.Conv2d(channels, inner, 1)
        self.linear2 = nn.Conv2d(inner, inner, 3, padding=1, groups=cardinality)
        self.linear3 = nn.Conv2d(inner, channels, 1, bias=False)
        self.act1, self.act2 = nn.LeakyReLU(0.2), nn.LeakyReLU(0.2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear1(x)
        y = self.linear2(self.act1(y))
        y = self.linear3(self.act2(y))
        return x + y


class R3GAN(nn.Module):
    def __init__(self, width: int = 64):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, 1, 1)
        self.blocks = nn.ModuleList(R3GANBlock(width) for _ in range(2))
        self.head = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = F.avg_pool2d(block(x), 2)
        return self.head(x.mean((2, 3)))


class StyleGAN2Block(nn.Module):
    """The residual block of StyleGAN2's discriminator (arXiv:1912.04958): scaled leaky ReLUs as functions."""

    def __init__(self, channels: int, outputs: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, 1, 1)
        self.conv2 = nn.Conv2d(channels, outputs, 3, 2, 1)
        self.skip = nn.Conv2d(channels, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.conv1(x), 0.2) * 2**0.5
        y = F.leaky_relu(self.conv2(y), 0.2) * 2**0.5
        return (y + self.skip(F.avg_pool2d(x, 2))) * 0.5**0.5


class StyleGAN2(nn.Module):
    def __init__(self, width: int = 64, side: int = 32):
        super().__init__()
        self.from_rgb = nn.Conv2d(3, width, 1)
        self.blocks = nn.ModuleList([StyleGAN2Block(width, 2 * width), StyleGAN2Block(2 * width, 4 * width)])
        self.dense = nn.Linear(4 * width * (side // 4) ** 2, 4 * width)
        self.out = nn.Linear(4 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.from_rgb(x), 0.2) * 2**0.5
        for block in self.blocks:
            x = block(x)
        return self.out(F.leaky_relu(self.dense(x.flatten(1)), 0.2) * 2**0.5)


def patchgan(width: int = 64) -> nn.Module:
    """pix2pix's PatchGAN (arXiv:1611.07004), whose public code is one nn.Sequential; without its batch norms."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2, True)]
    for i in (1, 2):
        layers += [nn.Conv2d(width * i, 2 * width * i, 4, 2, 1), nn.LeakyReLU(0.2, True)]
    return nn.Sequential(*layers, nn.Conv2d(4 * width, 1, 4, 1, 1))


# --- the step ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A network and the penalty of its step. applies: whether the rewriter has anything to do in it."""

    name: str
    network: Callable[[], nn.Module]
    penalty: str
    applies: bool = True
    batch: int = 16
    side: int = 32


CASES = [
    Case("DCGAN, functions", FunctionalDCGAN, "gradient_penalty"),
    Case("DCGAN, functions", FunctionalDCGAN, "none"),
    Case("DCGAN with batch norm, functions", FunctionalBatchNormDCGAN, "r1"),
    Case("SNGAN ResNet, functions", SNGANResNet, "gradient_penalty"),
    Case("SNGAN ResNet, functions", SNGANResNet, "none"),
    Case("R3GAN, modules in forward", R3GAN, "r1"),
    Case("StyleGAN2 residual, functions", StyleGAN2, "r1"),
    Case("PatchGAN, Sequential", patchgan, "gradient_penalty", applies=False),
]


def loss(case: Case, network: nn.Module, real: Tensor, fake: Tensor, epsilon: Tensor) -> Tensor:
    value = F.softplus(network(fake)).mean() + F.softplus(-network(real)).mean()
    if case.penalty == "gradient_penalty":
        return value + fastgan.gradient_penalty(network, real, fake, epsilon=epsilon)
    return value + fastgan.r1(network, real) if case.penalty == "r1" else value


@contextlib.contextmanager
def no_rewriter() -> Iterator[None]:
    """fuse leaves the methods of users' classes as they are."""
    before = fused_classes.rewritten_methods
    fused_classes.rewritten_methods = lambda kind, activations: {}
    fused_classes.fused_class.cache_clear()
    try:
        yield
    finally:
        fused_classes.rewritten_methods = before
        fused_classes.fused_class.cache_clear()


def steps(case: Case, compiled: bool) -> dict[str, Callable[[], object]]:
    """The step of each contestant: the gradients of all weights."""
    torch.manual_seed(0)
    plain = case.network()
    with no_rewriter():
        modules = fastgan.fuse(copy.deepcopy(plain))
    networks = {"plain": plain, "modules": modules, "rewriter": fastgan.fuse(copy.deepcopy(plain))}
    real, fake = torch.randn(2, case.batch, 3, case.side, case.side)
    epsilon = torch.rand(case.batch, 1, 1, 1)

    def step_of(network: nn.Module) -> Callable[[], object]:
        weights = list(network.parameters())

        def step(real: Tensor, fake: Tensor, epsilon: Tensor) -> list[Tensor | None]:
            found = torch.autograd.grad(loss(case, network, real, fake, epsilon), weights, allow_unused=True)
            return [None if gradient is None else gradient.detach() for gradient in found]

        run = fastgan.compile(step) if compiled else step
        return lambda: run(real, fake, epsilon)

    found = {name: step_of(network) for name, network in networks.items()}
    expected = found["plain"]()
    for name in ("modules", "rewriter"):
        for got, want in zip(found[name](), expected, strict=True):
            torch.testing.assert_close(got, want, rtol=2e-3, atol=1e-4, msg=f"{case.name}: {name} has other gradients")
    return found


def cpu_time(function: Callable[[], object]) -> Callable[[], float]:
    """A clock for `alternate`: milliseconds of this process on a CPU."""
    start = time.process_time()
    function()
    took = (time.process_time() - start) * 1e3
    return lambda: took


def measure(case: Case, compiled: bool, clock: str, seconds: float) -> dict[str, object]:
    torch._dynamo.reset()
    functions = steps(case, compiled)
    for function in functions.values():
        function()
    start = time.perf_counter()
    for function in functions.values():
        function()
    rounds = rounds_in(seconds * len(functions), time.perf_counter() - start, (15, 400))
    reads = alternate(functions, {"wall": watch, "cpu": cpu_time}[clock], rounds)
    medians = {name: quantile([read() for read in pending], 0.5) for name, pending in reads.items()}
    plain, modules, rewriter = (medians[name] for name in ("plain", "modules", "rewriter"))
    return {
        "network": case.name,
        "penalty": case.penalty,
        "compiled": "yes" if compiled else "no",
        "batch": case.batch,
        "side": case.side,
        "plain_ms": f"{plain:.2f}",
        "modules_ms": f"{modules:.2f}",
        "rewriter_ms": f"{rewriter:.2f}",
        "modules_vs_plain": f"{plain / modules:.3f}",
        "rewriter_vs_plain": f"{plain / rewriter:.3f}",
        "rewriter_vs_modules": f"{modules / rewriter:.3f}",
        "saved_percent": f"{100 * (1 - rewriter / modules):.1f}" if case.applies else "",
        "clock": clock,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "fastgan": fastgan.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, metavar="CSV", help="where the rows are written")
    parser.add_argument("--case", default="", metavar="SUBSTRING", help="only networks whose name contains this")
    parser.add_argument("--compile", action="store_true", help="also under fastgan.compile")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: the CPU time of this process")
    parser.add_argument("--threads", type=int, help="default: 2, and 1 with --clock cpu, where waiting threads count")
    parser.add_argument("--seconds", type=float, default=5.0, help="time for each contestant of a network")
    options = parser.parse_args()
    torch.set_num_threads(options.threads or (1 if options.clock == "cpu" else 2))
    rows = []
    for compiled in (False, True) if options.compile else (False,):
        for case in (case for case in CASES if options.case in case.name):
            rows.append(measure(case, compiled, options.clock, options.seconds))
            print(", ".join(f"{name} {rows[-1][name]}" for name in COLUMNS[:12]), flush=True)
            if options.out:
                with options.out.open("w", newline="") as file:
                    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                    writer.writeheader()
                    writer.writerows(rows)


if __name__ == "__main__":
    main()
