"""What spectral norm is for: three seeds with it and without it, at learning rates careful, bold and wild, on MNIST.

    fastgan data fetch mnist
    python examples/studies/spectral.py [--only SUBSTRING] [--steps N] [--out DIR]

Miyato et al. 2018 (arXiv:1802.05957, figure 1) ask how far an outcome depends on the optimiser's settings. Writes
DIR/spectral.csv and DIR/spectral.png: the Fréchet distance of every run (in the features of a classifier of the same
digits), and samples of the first seed.
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

import fastgan
from fastgan.report.picture import grid

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
    config = fastgan.Config(
        game="hinge", width=32, beta1=0.5, beta2=0.999, batch=64, log_every=max(1, options["steps"] // 20), **QUIET,
        **options,
    )  # fmt: skip
    made = pixels(trained(config).ema.module.eval(), 5000)
    found = {word: f"{value:.3g}" for word, value in figures(made).items()}
    kind = name.rpartition(", ")[0]
    return {"run": kind, "lr": config.lr_d, "seed": config.seed, "steps": config.steps} | found, made[:49]


def draw(rows: list[study.Row], made: list[np.ndarray], path: Path) -> None:
    first = {row["run"]: images for row, images in reversed([*zip(rows, made, strict=True)])}
    figure, axes = plt.subplots(1, 1 + len(first), figsize=(3.2 * (1 + len(first)), 3.6))
    dots, *pictures = axes
    names = [*dict.fromkeys(row["run"] for row in rows)]
    for i, name in enumerate(names):
        found = [float(str(row["fid"])) for row in rows if row["run"] == name]
        dots.scatter([i] * len(found), found, color="#0b6bcb" if "spectral" in str(name) else "#b3372f")
    dots.set_xticks(range(len(made)), [str(name).replace(", ", "\n") for name in names], fontsize=7)
    dots.set(yscale="log", title="FID of each seed", xlim=(-0.5, len(names) - 0.5))
    for axis, name in zip(pictures, names, strict=True):
        axis.imshow(grid(first[name], columns=7))
        axis.axis("off")
        axis.set_title(f"{name}, seed {SEEDS[0]}", size=9)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
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
