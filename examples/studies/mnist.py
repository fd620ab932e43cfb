"""Ten years on the same digits: the original pair, WGAN-GP and R3GAN on MNIST, by FID, precision and recall.

    fastgan data fetch mnist
    python examples/studies/mnist.py [--only SUBSTRING] [--steps N] [--out DIR]

Writes DIR/mnist.csv and DIR/mnist.png. FID is measured in the features of a classifier of the same digits: it compares
these runs with each other, with no figure of a paper.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import study
from digits import QUIET, figures, mnist, pixels, trained

import fastgan
from fastgan.report.picture import grid

#: A pair and its game, with steps that take each about as long.
RUNS: dict[str, dict[str, Any]] = {
    "original (2014)": {
        "model": "mlp", "variant": "original", "width": 1200, "latent": 100, "game": "non-saturating", "lr_g": 2e-4,
        "lr_d": 2e-4, "batch": 100, "steps": 5000,
    },
    "WGAN-GP (2017)": {"width": 32, "game": "wgan-gp", "lr_g": 2e-4, "lr_d": 2e-4, "batch": 64, "steps": 1000},
    "R3GAN (2024)": {
        "model": "r3gan", "resolution": 32, "width": 16, "game": "relativistic", "r1_weight": 1.0, "r2_weight": 1.0,
        "penalty_interval": 4, "lr_g": 4e-4, "lr_d": 4e-4, "batch": 64, "steps": 1000,
    },
}  # fmt: skip


def run(name: str, steps: int | None) -> tuple[dict[str, object], np.ndarray]:
    """A row of the table, and samples."""
    options = QUIET | RUNS[name] | ({} if steps is None else {"steps": steps})
    config = fastgan.Config(**options, log_every=max(1, options["steps"] // 20))
    start = time.perf_counter()
    trainer = trained(config)
    seconds = time.perf_counter() - start
    made = pixels(trainer.ema.module.eval(), 5000)
    found = {word: f"{value:.3g}" for word, value in figures(made).items()}
    return {"run": name, "images": trainer.images, "steps": config.steps, "seconds": f"{seconds:.0f}"} | found, made


def draw(rows: list[dict[str, object]], made: list[np.ndarray], path: Path) -> None:
    figure, axes = plt.subplots(1, len(made), figsize=(3.4 * len(made), 3.9), squeeze=False)
    for axis, row, images in zip(axes.flat, rows, made, strict=True):
        axis.imshow(grid(images[:64], columns=8))
        axis.axis("off")
        words = "" if "fid" not in row else f"\nFID {row['fid']}, precision {row['precision']}, recall {row['recall']}"
        axis.set_title(f"{row['run']}{words}", size=9)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> None:
    parser = study.parser_of(__doc__, steps=None)
    options = parser.parse_args()
    rows, made = [], []
    for name in study.chosen(RUNS, parser, options.only):
        row, images = run(name, options.steps)
        rows.append(row)
        made.append(images)
        print(f"{name:16} FID {row['fid']:>6}  precision {row['precision']:>6}  recall {row['recall']:>6}"
              f"  {row['images']} images in {row['seconds']} s", flush=True)  # fmt: skip
    real = {"run": "MNIST itself"} | {word: f"{value:.3g}" for word, value in figures(mnist().images[:5000]).items()}
    print(f"{'MNIST itself':16} FID {real['fid']:>6}  precision {real['precision']:>6}  recall {real['recall']:>6}")
    study.write([*rows, dict.fromkeys(rows[0], "") | real], options.out / "mnist.csv")
    draw([*rows, real], [*made, mnist().images[:64]], options.out / "mnist.png")
    print(options.out / "mnist.png")


if __name__ == "__main__":
    main()
