"""What spectral norm is for: three seeds with it and without it, at a careful and at a bold learning rate, on MNIST.

    fastgan data fetch mnist
    python examples/studies/spectral.py [--only SUBSTRING] [--steps N] [--out DIR]

Miyato et al. 2018 (arXiv:1802.05957, figure 1) ask how far an outcome depends on the optimiser's settings. Writes
DIR/spectral.csv and DIR/spectral.png: the Fréchet distance of every run (in the features of a classifier of the same
digits), and samples of the first seed.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import study
from digits import QUIET, figures, pixels, trained

import fastgan
from fastgan.report.picture import grid

SEEDS = (0, 1, 2)
RATES = {"careful": 2e-4, "bold": 2e-3}
RUNS = {
    f"{norm}, {word}": {"d_norm": {"no norm": "none", "spectral norm": "spectral"}[norm], "lr_g": rate, "lr_d": rate}
    for norm, (word, rate) in itertools.product(("no norm", "spectral norm"), RATES.items())
}


def run(name: str, seed: int, steps: int) -> tuple[dict[str, object], np.ndarray]:
    """A row of the table, and samples."""
    config = fastgan.Config(
        game="hinge", width=32, beta1=0.5, beta2=0.999, batch=64, steps=steps, seed=seed,
        log_every=max(1, steps // 20), **QUIET, **RUNS[name],
    )  # fmt: skip
    made = pixels(trained(config).ema.module.eval(), 5000)
    found = {word: f"{value:.3g}" for word, value in figures(made).items()}
    return {"run": name, "lr": config.lr_d, "seed": seed, "steps": steps} | found, made


def draw(rows: list[dict[str, object]], made: dict[str, np.ndarray], path: Path) -> None:
    figure, axes = plt.subplots(1, 1 + len(made), figsize=(3.2 * (1 + len(made)), 3.6))
    dots, *pictures = axes
    for i, name in enumerate(made):
        found = [float(str(row["fid"])) for row in rows if row["run"] == name]
        dots.scatter([i] * len(found), found, color="#0b6bcb" if "spectral" in name else "#b3372f")
    dots.set_xticks(range(len(made)), [name.replace(", ", "\n") for name in made], fontsize=7)
    dots.set(yscale="log", title="FID of each seed", xlim=(-0.5, len(made) - 0.5))
    for axis, (name, images) in zip(pictures, made.items(), strict=True):
        axis.imshow(grid(images[:49], columns=7))
        axis.axis("off")
        axis.set_title(f"{name}, seed {SEEDS[0]}", size=9)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> None:
    parser = study.parser_of(__doc__, steps=600)
    options = parser.parse_args()
    rows, made = [], {}
    for name in study.chosen(RUNS, parser, options.only):
        for seed in SEEDS:
            row, images = run(name, seed, options.steps)
            rows.append(row)
            made.setdefault(name, images)
        found = sorted(float(str(row["fid"])) for row in rows if row["run"] == name)
        print(f"{name:22} FID {found[0]:.3g} to {found[-1]:.3g}", flush=True)
    study.write(rows, options.out / "spectral.csv")
    draw(rows, made, options.out / "spectral.png")
    print(options.out / "spectral.png")


if __name__ == "__main__":
    main()
