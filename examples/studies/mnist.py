"""The original GAN of 2014, WGAN-GP and R3GAN on MNIST, by FID, precision and recall.

    fastgan data fetch mnist
    python examples/studies/mnist.py [--only SUBSTRING] [--steps N] [--out DIR]

Writes DIR/mnist.csv and DIR/mnist.png. FID is computed in the features of a classifier of the same digits. It compares
these runs with each other; it cannot be compared with FIDs of papers.
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

from fastgan.report.images import grid

#: Networks and loss, with numbers of steps that take about equally long.
RUNS: dict[str, dict[str, Any]] = {
    "original (2014)": {
        "model": "mlp", "options": {"variant": "original"}, "width": 1200, "latent": 100, "loss": "non-saturating",
        "lr_g": 2e-4, "lr_d": 2e-4, "batch": 100, "steps": 5000,
    },
    "WGAN-GP (2017)": {"width": 32, "loss": "wgan-gp", "lr_g": 2e-4, "lr_d": 2e-4, "batch": 64, "steps": 1000},
    "R3GAN (2024)": {
        "model": "r3gan", "resolution": 32, "width": 16, "loss": "relativistic", "r1_weight": 1.0, "r2_weight": 1.0,
        "penalty_interval": 4, "lr_g": 4e-4, "lr_d": 4e-4, "batch": 64, "steps": 1000,
    },
}  # fmt: skip


def run(name: str, options: dict[str, Any]) -> tuple[study.Row, np.ndarray]:
    """A row of the table, and samples."""
    start = time.perf_counter()
    trainer = trained(**QUIET, **options, log_every=max(1, options["steps"] // 20))
    seconds = time.perf_counter() - start
    made = pixels(trainer.ema.module.eval(), 5000)
    found = {word: f"{value:.3g}" for word, value in figures(made).items()}
    row = {"run": name, "images": trainer.state.images, "steps": options["steps"], "seconds": f"{seconds:.0f}"}
    return row | found, made


def draw(rows: list[study.Row], made: list[np.ndarray], path: Path) -> None:
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
    parser = study.parser_of(__doc__)
    out = parser.parse_args().out
    rows, made = study.results(parser, RUNS, run, "mnist")
    real = {"run": "MNIST itself"} | {word: f"{value:.3g}" for word, value in figures(mnist().images[:5000]).items()}
    study.write([*rows, dict.fromkeys(rows[0], "") | real], out / "mnist.csv")
    draw([*rows, real], [*made, mnist().images[:64]], out / "mnist.png")
    print(out / "mnist.png")


if __name__ == "__main__":
    main()
