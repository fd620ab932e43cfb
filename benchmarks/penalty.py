"""Times what a critic does under a penalty: fastgan's ops against the same network in plain PyTorch, side by side in
one process, in alternating rounds. Gradients are compared first; a critic that is not equal is not timed.

    python benchmarks/penalty.py [--device cpu|cuda] [--batch 32] [--out benchmarks/results/penalty_cpu.csv]

The critic is DCGAN's at 64×64: 3 → 64 → 128 → 256 → 512, 4×4 stride 2, leaky ReLU, no norm.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import fastgan
from fastgan.models.dcgan import Discriminator
from fastgan.objectives import gradient_penalty, r1
from fastgan.testing.timing import side_by_side

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def plain_like(critic: Discriminator) -> nn.Module:
    """The same network as anybody would write it, with the same weights."""
    layers: list[nn.Module] = []
    for block in critic.blocks:
        conv = block.conv
        layers += [nn.Conv2d(conv.in_channels, conv.out_channels, 4, 2, 1), nn.LeakyReLU(0.2)]
    layers += [nn.Flatten(), nn.Linear(critic.to_logit.linear.in_features, 1)]
    network = nn.Sequential(*layers)
    with torch.no_grad():
        for own, other in zip(network.parameters(), critic.parameters(), strict=True):
            own.copy_(other)
    return network


def gp(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    return gradient_penalty(critic, real, fake, generator=torch.Generator(real.device).manual_seed(0))


def wgan_gp(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    return critic(fake).mean() - critic(real).mean() + gp(critic, real, fake)


def r1_alone(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    return r1(critic, real)


LOSSES: dict[str, Callable[[nn.Module, Tensor, Tensor], Tensor]] = {
    "gradient_penalty": gp,
    "r1": r1_alone,
    "wgan_gp_critic_step": wgan_gp,
}


def gradients(loss: Callable, critic: nn.Module, real: Tensor, fake: Tensor) -> list[Tensor]:
    weights = list(critic.parameters())
    found = torch.autograd.grad(loss(critic, real, fake), weights, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for g, w in zip(found, weights, strict=True)]


def step(loss: Callable, critic: nn.Module, real: Tensor, fake: Tensor) -> Callable[[], None]:
    """Loss and backward pass, and for the whole step the optimiser."""
    optimizer = torch.optim.Adam(critic.parameters(), 1e-5, fused=True) if loss is wgan_gp else None

    def run() -> None:
        critic.zero_grad(set_to_none=True)
        loss(critic, real, fake).backward()
        if optimizer is not None:
            optimizer.step()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--out", type=Path, metavar="CSV")
    options = parser.parse_args()
    torch.manual_seed(0)
    ours = Discriminator(64, 3, 64).to(options.device)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.mul_(3)  # gradients of the size that training has, so that a wrong one shows
    rows = []
    for name, loss in LOSSES.items():
        steps = {}
        for layout, memory_format in LAYOUTS.items():
            real, fake = (
                torch.randn(options.batch, 3, 64, 64, device=options.device).to(memory_format=memory_format)
                for _ in range(2)
            )
            networks = {"fastgan": Discriminator(64, 3, 64), "eager": plain_like(ours)}
            networks["fastgan"].load_state_dict(ours.state_dict())
            for provider, network in networks.items():
                networks[provider] = network.to(options.device, memory_format=memory_format)
                steps[provider, layout] = step(loss, networks[provider], real, fake)
            pairs = zip(*(gradients(loss, n, real, fake) for n in networks.values()), strict=True)
            for got, want in pairs:
                assert (got - want).norm() <= 1e-4 * want.norm() + 1e-9, f"{name} {layout}: gradients differ"
        times = side_by_side(steps, options.device, options.seconds)
        for (provider, layout), time in times.items():
            row = {
                "what": name, "provider": provider, "layout": layout, "batch": options.batch,
                "median_ms": f"{time.median:.2f}", "q20_ms": f"{time.q20:.2f}", "q80_ms": f"{time.q80:.2f}",
                "vs_eager_same_layout": f"{times['eager', layout].median / time.median:.2f}",
                "vs_eager_contiguous": f"{times['eager', 'contiguous'].median / time.median:.2f}",
                "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
                "threads": torch.get_num_threads(), "torch": torch.__version__, "fastgan": fastgan.__version__,
            }  # fmt: skip
            rows.append(row)
            print("  ".join(f"{key} {row[key]}" for key in list(row)[:9]), flush=True)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with options.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
