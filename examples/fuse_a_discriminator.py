"""Compare a discriminator of plain PyTorch before and after fastgan.fuse: numbers, gradients and time.

python examples/fuse_a_discriminator.py [STEPS] [--batch 32]
"""

import argparse
import copy
import statistics
import time

import torch
from torch import nn

import fastgan


def make_discriminator() -> nn.Sequential:
    """DCGAN's discriminator for 64×64 images, in plain PyTorch."""
    layers, channels = [], 3
    for width in (64, 128, 256, 512):
        layers += [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512 * 4 * 4, 1))


def step(discriminator: nn.Module, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Loss and gradients of a WGAN-GP discriminator."""
    discriminator.zero_grad()
    mix = torch.Generator(real.device).manual_seed(0)
    loss = discriminator(fake).mean() - discriminator(real).mean()
    loss = loss + fastgan.gradient_penalty(discriminator, real, fake, generator=mix)
    loss.backward()
    return loss.detach()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("steps", nargs="?", type=int, default=10)
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    plain = make_discriminator().to(device)
    fused = fastgan.fuse(copy.deepcopy(plain))
    print(fastgan.fusion_report(fused))

    real, fake = torch.randn(2, options.batch, 3, 64, 64, device=device)
    times: dict[str, list[float]] = {"plain": [], "fused": []}
    for _ in range(options.steps + 2):
        for name, discriminator in (("plain", plain), ("fused", fused)):
            start = time.perf_counter()
            loss = step(discriminator, real, fake).item()
            times[name].append(time.perf_counter() - start)
            print(f"{name}: loss {loss:.6f}, {times[name][-1] * 1e3:.1f} ms", flush=True)
    medians = {name: statistics.median(found[2:]) for name, found in times.items()}
    worst = max(
        ((own.grad - other.grad).norm() / (other.grad.norm() + 1e-6)).item()
        for own, other in zip(fused.parameters(), plain.parameters(), strict=True)
    )
    # A pre-activation within rounding of zero may fall on either side of the kink, which changes a gradient by 1e-3.
    if worst > 5e-3:
        raise SystemExit(f"gradients differ by {worst:.1e}")
    print(f"gradients equal to {worst:.0e}; {medians['plain'] / medians['fused']:.2f} times as fast")


if __name__ == "__main__":
    main()
