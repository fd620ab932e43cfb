"""Spectral norm and the learning rate: MNIST with it and without it, at three learning rates, three seeds each.

    fastgan data fetch mnist
    python examples/studies/spectral.py [--only SUBSTRING] [--steps N] [--out DIR]

Miyato et al. 2018 (arXiv:1802.05957, figure 1) measure how far the result depends on the settings of the optimizer.
Writes DIR/spectral.csv and DIR/spectral.png: the FID of every run, in the features of a classifier of the same digits,
and samples of the worst seed of each setting.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import study
from digits import QUIET, figures, pixels, trained

from fastgan.report.images import grid

SEEDS = (0, 1, 2)
RATES = {"careful": 2e-4, "bold": 2e-3, "wild": 1e-2}
NORMS = {"no norm": "none", "spectral norm": "spectral"}
RUNS = {
    f"{norm}, {word}, seed {seed}": {"d_norm": NORMS[norm], "lr_g": rate, "lr_d": rate, "seed": seed}
    for norm, (word, rate), seed in itertools.product(NORMS, RATES.items(), SEEDS)
}


def run(name: str, options: dict[str, Any]) -> tuple[study.Row, np.ndarray]:
    """A row of the table, and samples."""
    options = {"steps": 600} | options
    trainer = trained(
        loss="hinge", width=32, beta1=0.5, beta2=0.999, batch=64, log_every=max(1, options["steps"] // 20), **QUIET,
        **options,
    )  # fmt: skip
    made = pixels(trainer.ema.module.eval(), 5000)
    found = {word: f"{value:.3g}" for word, value in figures(made).items()}
    kind = name.rpartition(", ")[0]
    return {"run": kind, "lr": options["lr_d"], "seed": options["seed"], "steps": options["steps"]} | found, made[:49]


def draw(rows: list[study.Row], made: list[np.ndarray], path: Path) -> None:
    """The FID of every seed, and the samples of the worst seed of each setting."""
    found: dict[str, list[tuple[float, str, np.ndarray]]] = {}
    for row, images in zip(rows, made, strict=True):
        found.setdefault(str(row["run"]), []).append((float(str(row["fid"])), str(row["seed"]), images))
    columns = max(1, sum("spectral" in name for name in found), sum("spectral" not in name for name in found))
    figure = plt.figure(figsize=(3.6 + 3 * columns, 6.6))
    cells = figure.add_gridspec(2, 1 + columns)
    dots = figure.add_subplot(cells[:, 0])
    for i, (name, seeds) in enumerate(found.items()):
        spectral = "spectral" in name
        dots.scatter([fid for fid, _, _ in seeds], [i] * len(seeds), color="#0b6bcb" if spectral else "#b3372f")
        worst, seed, images = max(seeds, key=lambda each: each[:2])
        column = 1 + sum(("spectral" in other) == spectral for other in [*found][:i])
        axis = figure.add_subplot(cells[int(spectral), column])
        axis.imshow(grid(images, columns=7))
        axis.axis("off")
        axis.set_title(f"{name}\nworst seed ({seed}): FID {worst:.3g}", size=9)
    dots.set_yticks(range(len(found)), [*found], fontsize=8)
    dots.set(xscale="log", title="FID of each seed", ylim=(len(found) - 0.5, -0.5))
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)


def main() -> None:
    parser = study.parser_of(__doc__)
    out = parser.parse_args().out
    rows, made = study.results(parser, RUNS, run, "spectral")
    study.write(rows, out / "spectral.csv")
    draw(rows, made, out / "spectral.png")
    print(out / "spectral.png")


if __name__ == "__main__":
    main()
