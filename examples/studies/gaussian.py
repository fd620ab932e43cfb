"""Learn N(5, 1) from uniform noise, and compare the learned discriminator with the optimal one.

    python examples/studies/gaussian.py [--steps N] [--out DIR]

For a fixed generator the optimal discriminator is D* = p / (p + q). If the generator has learned p, then D* = 1/2, the
discriminator's loss is ln 4 and the generator's is ln 2 (Goodfellow et al. 2014, arXiv:1406.2661, proposition 1 and
theorem 1).
Writes DIR/gaussian.csv and DIR/gaussian.png.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import study
import torch
from torch import Tensor, nn

import fastgan

MEAN, DEVIATION = 5.0, 1.0


class FromUniform(nn.Module):
    """z [N, 1] from N(0, 1) → Φ(z), uniform in [0, 1] → a number [N, 1]."""

    def __init__(self, width: int = 64):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(1, width), nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2), nn.Linear(width, 1)
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.body(2 * torch.special.ndtr(z) - 1)


def discriminator(width: int = 64) -> nn.Module:
    """x [N, 1] → logits [N, 1]. The kinks of the first layer are initialized spread over 0 to 10, where the data is."""
    first = nn.Linear(1, width)
    with torch.no_grad():
        first.weight.copy_(torch.randn(width, 1).sign())
        first.bias.copy_(-first.weight.flatten() * torch.linspace(0, 10, width))
    layers = [first, nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2), nn.Linear(width, 1)]
    return nn.Sequential(*layers)


def batches(size: int, seed: int) -> Iterator[Tensor]:
    source = torch.Generator().manual_seed(seed)
    while True:
        yield MEAN + DEVIATION * torch.randn(size, 1, generator=source)


def train(steps: int, seed: int = 0) -> fastgan.Trainer:
    torch.manual_seed(seed)
    config = fastgan.Config.from_flags(
        batch=256, steps=steps, latent=1, seed=seed, lr_g=1e-3, lr_d=2e-3, beta1=0.0, beta2=0.99, r1_weight=0.01,
        d_steps=2, ema_images=50_000, compile="off", log_every=max(1, steps // 100), sample_every=10**9,
        checkpoint_every=10**9,
    )  # fmt: skip
    trainer = fastgan.Trainer(FromUniform(), discriminator(), "non-saturating", config)
    trainer.fit(batches(256, seed))
    return trainer


@torch.no_grad()
def measure(trainer: fastgan.Trainer) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """The figures of the table, and what is plotted: densities, the learned and the optimal D on a grid of numbers."""
    z = torch.randn(50_000, 1, generator=torch.Generator().manual_seed(1))
    generated = trainer.ema.module(z).flatten()
    x = torch.linspace(MEAN - 4, MEAN + 4, 200)
    near = (x > MEAN - 2 * DEVIATION) & (x < MEAN + 2 * DEVIATION)
    learned = torch.sigmoid(trainer.discriminator(x[:, None])).flatten()
    real = torch.exp(-((x - MEAN) ** 2) / (2 * DEVIATION**2)) / (DEVIATION * math.sqrt(2 * math.pi))
    # The generator's density: a histogram smoothed by a kernel a tenth of the deviation wide.
    width = 0.1 * DEVIATION
    kernel = torch.exp(-((x[:, None] - generated[None]) ** 2) / (2 * width**2)) / (width * math.sqrt(2 * math.pi))
    fake = kernel.mean(1)
    optimal = real / (real + fake)
    tail = trainer.state.rows[-20:]
    figures = {
        "mean": float(generated.mean()), "deviation": float(generated.std()),
        "D_within_2_deviations": float(learned[near].mean()),
        "D_off_half_at_most": float((learned[near] - 0.5).abs().max()),
        "loss_discriminator": float(np.mean([row["loss/discriminator"] for row in tail])),
        "loss_generator": float(np.mean([row["loss/generator"] for row in tail])),
    }  # fmt: skip
    drawn = {"x": x, "learned": learned, "optimal": optimal, "real": real, "fake": fake}
    return figures, {name: value.numpy() for name, value in drawn.items()}


THEORY = {
    "mean": MEAN, "deviation": DEVIATION, "D_within_2_deviations": 0.5, "D_off_half_at_most": 0.0,
    "loss_discriminator": math.log(4), "loss_generator": math.log(2),
}  # fmt: skip


def draw(trainer: fastgan.Trainer, drawn: dict[str, np.ndarray], path: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
    left.fill_between(drawn["x"], drawn["real"], color="#c98500", alpha=0.3, label="N(5, 1)")
    left.plot(drawn["x"], drawn["fake"], color="#0b6bcb", label="generator")
    left.plot(drawn["x"], drawn["optimal"], color="#222", linestyle=":", label="optimal discriminator, p / (p + q)")
    left.plot(drawn["x"], drawn["learned"], color="#2a8a57", label="learned discriminator")
    left.set(xlabel="x", ylim=(0, 1), title="densities and discriminators")
    left.legend(fontsize=8)
    steps = [row["step"] for row in trainer.state.rows]
    for name, label, color, value in (
        ("loss/discriminator", "discriminator", "#2a8a57", math.log(4)),
        ("loss/generator", "generator", "#0b6bcb", math.log(2)),
    ):
        right.plot(steps, [row[name] for row in trainer.state.rows], color=color, label=label)
        right.axhline(value, color=color, linestyle=":", linewidth=1)
    right.set(xlabel="step", ylim=(0, 2.5), title="losses, and ln 4 and ln 2")
    right.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> None:
    parser = study.parser_of(__doc__, steps=2000, runs=False)
    options = parser.parse_args()
    trainer = train(options.steps)
    figures, drawn = measure(trainer)
    rows = [
        {"figure": name, "learned": f"{value:.4f}", "theory": f"{THEORY[name]:.4f}"} for name, value in figures.items()
    ]
    study.write(rows, options.out / "gaussian.csv")
    for name, value in figures.items():
        print(f"{name:24} {value:8.4f}   theory {THEORY[name]:.4f}")
    draw(trainer, drawn, options.out / "gaussian.png")
    print(options.out / "gaussian.png")


if __name__ == "__main__":
    main()
