"""How many modes adversarial losses with and without regularization cover: 8 Gaussians on a ring, 25 on a grid.

    python examples/studies/modes.py [ring|grid] [--only SUBSTRING] [--steps N] [--out DIR]

Writes DIR/modes-ring.csv and DIR/modes-ring.png: a table, and each run's samples over the centers.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import study
from points import GRID, LATENT, RING, Mixture, samples, trained

FINE = {"lr_g": 1e-3, "lr_d": 1e-3, "beta1": 0.0, "beta2": 0.99}
#: What is compared: an adversarial loss, and regularization of it.
RUNS: dict[str, dict[str, Any]] = {
    "minimax": {"loss": "minimax", **FINE},
    "non-saturating": {"loss": "non-saturating", **FINE},
    "non-saturating, packed by 2": {"loss": "non-saturating", **FINE, "pack": 2},
    # Metz et al. 2017 (arXiv:1611.02163, appendix A): a tenth of the discriminator's learning rate, and unrolling.
    "non-saturating, unrolled 5": {
        "loss": "non-saturating",
        "lr_g": 1e-3,
        "lr_d": 1e-4,
        "beta1": 0.5,
        "beta2": 0.999,
        "unroll": 5,
        "steps": 2000,
    },
    "non-saturating, R1": {"loss": "non-saturating", **FINE, "r1_weight": 0.02},
    "minimax, R1": {"loss": "minimax", **FINE, "r1_weight": 0.02},
    "hinge, R1": {"loss": "hinge", **FINE, "r1_weight": 0.02, "steps": 7000},
    "least-squares, R1": {"loss": "least-squares", **FINE, "r1_weight": 0.02},
    "relativistic, R1 and R2": {"loss": "relativistic", **FINE, "r1_weight": 0.02, "r2_weight": 0.02},
    "wgan-gp": {"loss": "wgan-gp", "lr_g": 1e-3, "lr_d": 1e-3, "gp_weight": 1.0},
}


def run(mixture: Mixture, name: str, options: dict[str, Any]) -> tuple[study.Row, np.ndarray]:
    """A row of the table, and the samples [2500, 2]."""
    options = {"steps": 6000} | options
    start = time.perf_counter()
    trainer = trained(
        mixture, batch=256, latent=LATENT, ema_images=300_000, compile="off", log_every=options["steps"] // 20,
        sample_every=10**9, checkpoint_every=10**9, **options,
    )  # fmt: skip
    points = samples(trainer)
    modes, quality = mixture.found(points)
    row = {
        "data": mixture.name, "run": name, "modes": modes, "of": len(mixture.centers), "high_quality": f"{quality:.3f}",
        "steps": options["steps"], "seconds": f"{time.perf_counter() - start:.0f}",
    }  # fmt: skip
    return row, points.numpy()


def draw(mixture: Mixture, rows: list[study.Row], made: list[np.ndarray], path: Path) -> None:
    columns = min(4, len(made))
    lines = -(-len(made) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(3.4 * columns, 3.6 * lines), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, row, points in zip(axes.flat, rows, made, strict=False):
        axis.scatter(*mixture.centers.T, s=120, facecolors="none", edgecolors="#c98500")
        axis.scatter(*points.T, s=2, color="#0b6bcb", alpha=0.4, linewidths=0)
        axis.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), aspect="equal")
        axis.set_title(
            f"{row['run']}\n{row['modes']} of {row['of']} modes, {float(str(row['high_quality'])):.1%} good", size=9
        )
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> None:
    parser = study.parser_of(__doc__)
    parser.add_argument("data", nargs="?", choices=["ring", "grid"], default="ring")
    options = parser.parse_args()
    mixture = {"ring": RING, "grid": GRID}[options.data]
    stem = options.out / f"modes-{mixture.name}"
    rows, made = study.results(parser, RUNS, partial(run, mixture), stem.name)
    study.write(rows, stem.with_suffix(".csv"))
    draw(mixture, rows, made, stem.with_suffix(".png"))
    print(stem.with_suffix(".png"))


if __name__ == "__main__":
    main()
