"""The gradient of the saturating generator loss vanishes as the discriminator improves; the non-saturating one stays.

    python examples/studies/saturation.py [--steps N] [--out DIR]

The generator is fixed while the discriminator learns to distinguish its samples from the ring of 8 Gaussians. The norm
of the gradient that the generator would get is measured on the way (Arjovsky and Bottou 2017, arXiv:1701.04862, figures
2 and 3). Writes DIR/saturation.csv and DIR/saturation.png.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import study
import torch
from points import LATENT, RING, discriminator, generator

from fastgan.losses import ADVERSARIAL

LOSSES = {"minimax": "saturating, log(1 − D)", "non-saturating": "non-saturating, −log D"}
Row = dict[str, float]


def gradient_norm(loss: str, g: torch.nn.Module, d: torch.nn.Module, z: torch.Tensor) -> float:
    """‖∇ of the generator's loss‖ over all its weights."""
    gradients = torch.autograd.grad(ADVERSARIAL[loss].g_loss(d(g(z))), list(g.parameters()))
    return float(torch.cat([g.flatten() for g in gradients]).norm())


def measure(steps: int, seed: int = 0, points: int = 30) -> list[Row]:
    """Norms of the generator's gradients after numbers of discriminator steps that are evenly spaced on a log scale."""
    torch.manual_seed(seed)
    g, d = generator(), discriminator()
    optimizer = torch.optim.Adam(d.parameters(), 1e-3, (0.5, 0.999))
    batches, source = RING.batches(256, seed), torch.Generator().manual_seed(seed)
    at = {round(steps ** (i / (points - 1))) for i in range(points)}
    z = torch.randn(1024, LATENT, generator=source)
    rows = []
    for step in range(1, steps + 1):
        with torch.no_grad():
            fake = g(torch.randn(256, LATENT, generator=source))
        loss = ADVERSARIAL["minimax"].d_loss(d(next(batches)), d(fake))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in at:
            with torch.no_grad():
                probability = float(torch.sigmoid(d(g(z))).mean())
            norms = {name: gradient_norm(name, g, d, z) for name in LOSSES}
            rows.append(
                {"discriminator_steps": step, "D_of_fakes": probability, "discriminator_loss": loss.item()} | norms
            )
    return rows


def draw(rows: list[Row], path: Path) -> None:
    figure, axis = plt.subplots(figsize=(6.4, 4))
    steps = [row["discriminator_steps"] for row in rows]
    for (name, label), color in zip(LOSSES.items(), ("#b3372f", "#0b6bcb"), strict=True):
        axis.loglog(steps, [row[name] for row in rows], color=color, label=label, marker=".")
    axis.loglog(steps, [row["D_of_fakes"] for row in rows], color="#8a8f98", linestyle=":", label="D(G(z)), mean")
    axis.set(xlabel="steps of the discriminator, the generator is fixed", title="norm of the generator's gradient")
    axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> None:
    parser = study.parser_of(__doc__, steps=3000, runs=False)
    options = parser.parse_args()
    rows = measure(options.steps)
    study.write(rows, options.out / "saturation.csv")
    for row in rows[::6] + rows[-1:]:
        print(f"discriminator steps {row['discriminator_steps']:6.0f}: D(G(z)) {row['D_of_fakes']:.1e}, gradient"
              f" {row['minimax']:.1e} saturating, {row['non-saturating']:.1e} not")  # fmt: skip
    draw(rows, options.out / "saturation.png")
    print(options.out / "saturation.png")


if __name__ == "__main__":
    main()
