"""Stacked MNIST: three random digits in three color channels, a thousand modes; how many does a generator cover?

    fastgan data fetch mnist
    python examples/studies/stacked.py [--only SUBSTRING] [--steps N] [--out DIR]

A run takes three to five minutes on one core. "non-saturating, packed by 2, for long" takes an hour and a half on one
core and "non-saturating, packed by 2, wide" half a minute on a large GPU; these two are run only if --only is their
full name. An interrupted run leaves a run directory in DIR/stacked and is resumed from it.

The data set is that of Metz et al. 2017 (arXiv:1611.02163, section 3.3.1), the measurement that of Lin et al. 2018
(arXiv:1712.04086): a classifier predicts the three digits of 26,000 samples. "modes" is the number of distinct
predicted triples, "kl" the KL divergence of their frequencies from those of real images. Writes DIR/stacked.csv and
DIR/stacked.png.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import study
import torch
from digits import QUIET, SIDE, classifier, mnist, pixels, samples
from torch import Tensor

import fastgan
from fastgan.data.stream import normalize
from fastgan.models import build
from fastgan.report.images import grid

SAMPLES = 26_000
BATCH_NORM = {"d_norm": "batch", "lr_g": 4e-4, "lr_d": 4e-4}
LONG, WIDE = "non-saturating, packed by 2, for long", "non-saturating, packed by 2, wide"
PACKED = {**BATCH_NORM, "pack": 2}
#: DCGAN networks of one size with several losses and regularizations; one of them also for more steps, and wider.
RUNS: dict[str, dict[str, Any]] = {
    "non-saturating": BATCH_NORM,
    "non-saturating, packed by 2": PACKED,
    "non-saturating, packed by 4": {**BATCH_NORM, "pack": 4},
    "least-squares": {**BATCH_NORM, "loss": "least-squares"},
    "hinge, spectral norm": {"loss": "hinge", "d_norm": "spectral", "lr_g": 4e-4, "lr_d": 4e-4},
    "non-saturating, R1": {"r1_weight": 1.0, "penalty_interval": 4, "lr_g": 4e-4, "lr_d": 4e-4},
    "relativistic, R1 and R2": {
        "loss": "relativistic", "r1_weight": 0.5, "r2_weight": 0.5, "penalty_interval": 4, "lr_g": 4e-4, "lr_d": 4e-4,
        "beta1": 0.5,
    },
    LONG: {**PACKED, "steps": 18_000, "ema_images": 200_000},
    WIDE: {**PACKED, "width": 64, "batch": 256, "steps": 6000, "ema_images": 200_000, "compile": "auto"},
}  # fmt: skip


class Triples:
    """Endless batches [size, 3, 28, 28] in [-1, 1]: three images of MNIST at random, stacked."""

    def __init__(self, size: int, seed: int):
        self._images, self._size = torch.from_numpy(np.array(mnist().images[:, 0])), size
        self._source = torch.Generator().manual_seed(seed)
        self._at = 0

    def __iter__(self) -> Triples:
        return self

    def __next__(self) -> Tensor:
        self._at += 1
        return normalize(self._images[self._chosen()])

    def _chosen(self) -> Tensor:
        return torch.randint(len(self._images), (self._size, 3), generator=self._source)

    def state_dict(self) -> dict[str, int]:
        return {"at": self._at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        while self._at < state["at"]:
            self._at += 1
            self._chosen()


@torch.no_grad()
def read(parts: Iterator[Tensor]) -> np.ndarray:
    """How often the classifier predicts each triple for images [N, 3, 28, 28]: int64 [1000]."""
    counts, decimals = torch.zeros(1000, dtype=torch.int64), torch.tensor([100, 10, 1])
    for images in parts:
        _, logits = classifier().network(images.reshape(-1, 1, SIDE, SIDE))
        counts += torch.bincount(logits.argmax(1).view(-1, 3) @ decimals, minlength=1000)
    return counts.numpy()


def divergence(counts: np.ndarray) -> float:
    """KL divergence in nats of the predicted triples from those of real images, whose three digits are independent."""
    digit = np.bincount(mnist().labels, minlength=10) / len(mnist())  # type: ignore[arg-type]
    real = np.einsum("i,j,k->ijk", digit, digit, digit).ravel()
    share = counts / counts.sum()
    return float((share[share > 0] * np.log(share[share > 0] / real[share > 0])).sum())


def run(folder: Path, name: str, options: dict[str, Any]) -> tuple[study.Row, np.ndarray]:
    """A row of the table, and samples of the averaged generator. folder: of the run directory until it ends."""
    flags = {"width": 32, "batch": 128, "steps": 1000, "ema_images": 50_000} | QUIET | options
    flags |= {"latent": 64, "checkpoint_every": 500, "log_every": max(1, flags["steps"] // 20)}
    torch.manual_seed(0)
    network = {"resolution": SIDE, "latent": 64, "width": flags["width"], "d_norm": flags.get("d_norm", "none")}
    generator, _ = build("dcgan", channels=3, **network)
    _, discriminator = build("dcgan", channels=3 * flags.get("pack", 1), **network)
    rundir, loss = folder / name, flags.get("loss", "non-saturating")
    trainer = fastgan.Trainer(generator, discriminator, loss, fastgan.Config.from_flags(**flags), out=rundir)
    trainer.fit(Triples(flags["batch"], seed=0), resume=rundir.exists())
    shutil.rmtree(rundir)
    average = trainer.ema.module.eval()
    counts = read(samples(average, SAMPLES))
    row = row_of(name, int((counts > 0).sum()), divergence(counts))
    return row | {"images": trainer.state.images, "seconds": f"{trainer.state.seconds:.0f}"}, pixels(average, 500)


def row_of(name: str, modes: float, kl: float) -> study.Row:
    return {"run": name, "modes": f"{modes:g}", "kl": f"{kl:.3f}", "images": "", "seconds": ""}


def draw(rows: list[study.Row], made: list[np.ndarray], path: Path) -> None:
    columns = min(4, len(made))
    lines = -(-len(made) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(3.2 * columns, 3.6 * lines), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, row, images in zip(axes.flat, rows, made, strict=False):
        axis.imshow(grid(images[:49], columns=7))
        axis.set_title(f"{row['run']}\n{row['modes']} modes, KL {row['kl']}", size=9)
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)


def main() -> None:
    parser = study.parser_of(__doc__)
    out = parser.parse_args().out
    ours, parts = study.results(parser, RUNS, partial(run, out / "stacked"), "stacked", {LONG, WIDE})
    stream = Triples(500, 1)
    counts = read(next(stream) for _ in range(SAMPLES // 500))
    rows = [row_of("real images", int((counts > 0).sum()), divergence(counts))]
    made = [next(stream).add(1).mul(127.5).byte().numpy()]
    study.write(rows + ours, out / "stacked.csv")
    draw(rows + ours, made + parts, out / "stacked.png")
    print(out / "stacked.png")


if __name__ == "__main__":
    main()
