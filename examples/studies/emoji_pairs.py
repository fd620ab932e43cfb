"""pix2pix from one vendor's emoji to another's, 64×64: the distance to the true ones, and what a classifier says.

    fastgan data fetch emoji
    python examples/studies/emoji_pairs.py [--only SUBSTRING] [--steps N] [--out DIR]

One `fastgan train`, resumed if it was interrupted; 300 of the 3,786 pairs are held out, and all figures are of them.
"l1" is the mean absolute distance to the target in [-1, 1]. "accuracy" is how often a classifier of the ten categories,
trained on the other targets, is right: of the sources as they are, of what pix2pix makes of them, and of the targets.
Writes DIR/emoji_pairs.csv and DIR/emoji_pairs.png.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import study
import torch

from fastgan.data import ImageSet
from fastgan.data.pairs import open_pairs
from fastgan.data.stream import BatchStream, normalize
from fastgan.metrics.classifier import Classifier, accuracy, train_classifier
from fastgan.report.images import to_uint8
from fastgan.train.networks import load_generator

SIDE, HELD_OUT, SHOWN = 64, 300, 16
FLAGS = (
    "pix2pix", "--data", "emoji", "--data.target", "emoji:google", "--resolution", SIDE, "--task.crop", 0,
    "--model.norm", "batch", "--width", 32, "--batch", 8, "--held-out", HELD_OUT, "--ema-images", 4000,
    "--compile", "off", "--checkpoint-every", 500,
)  # fmt: skip
#: What the figures are of.
RUNS: dict[str, dict[str, Any]] = {"sources": {}, "pix2pix": {"steps": 3000}, "targets": {}}


@cache
def sets() -> tuple[dict[str, ImageSet], dict[str, ImageSet]]:
    """The pairs that are trained on, and those held out, as `fastgan train` divides them."""
    pairs = open_pairs("emoji", SIDE, 3, target="emoji:google")
    trained = BatchStream(pairs["target"], 1, 0, torch.device("cpu"), held_out=HELD_OUT).given
    apart = np.setdiff1d(np.arange(len(pairs["target"])), trained)
    return tuple({name: part(images, chosen) for name, images in pairs.items()} for chosen in (trained, apart))  # type: ignore[return-value]


def part(images: ImageSet, chosen: np.ndarray) -> ImageSet:
    assert images.labels is not None
    return dataclasses.replace(images, images=images.images[chosen], labels=images.labels[chosen], pack=None)


@cache
def classifier() -> Classifier:
    return train_classifier(sets()[0]["target"], epochs=12, batch=64, width=16)


def made_of(sources: np.ndarray, run: Path) -> np.ndarray:
    """Images uint8 [N, C, H, W] that the run's averaged generator makes of sources."""
    generator = load_generator(run).generator
    with torch.no_grad():
        parts = [generator(normalize(each)) for each in torch.from_numpy(np.array(sources)).split(50)]
    return to_uint8(torch.cat(parts).numpy())


def run(name: str, options: dict[str, Any], out: Path) -> tuple[study.Row, np.ndarray]:
    """A row of the table, and SHOWN images."""
    held_out, row = sets()[1], dict[str, object](run=name, images="", seconds="")
    if name == "pix2pix":
        at = out / "emoji_pairs" / "run-pix2pix"
        if not (at / "checkpoints").exists():
            fastgan("train", *FLAGS, "--steps", options["steps"], "--out", at)
        elif json.loads((at / "status.json").read_text())["state"] != "finished":
            fastgan("train", "--resume", at)
        last = json.loads((at / "metrics.jsonl").read_text().splitlines()[-1])
        row |= {"images": last["images"], "seconds": f"{last['seconds']:.0f}"}
        images = made_of(held_out["source"].images, at)
    else:
        images = held_out[name.removesuffix("s")].images
    distance = np.abs(images.astype(np.float32) - held_out["target"].images).mean() / 127.5
    shown = dataclasses.replace(held_out["target"], images=np.ascontiguousarray(images))
    row |= {"l1": f"{distance:.4f}", "accuracy": f"{accuracy(classifier(), shown):.3f}"}
    return row, images[:: len(images) // SHOWN][:SHOWN]


def fastgan(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "fastgan", *map(str, words)], check=True)


def draw(rows: list[study.Row], images: list[np.ndarray], path: Path) -> None:
    figure, axes = plt.subplots(len(rows), 1, figsize=(12, 0.95 * len(rows) + 0.3), squeeze=False)
    for axis, row, shown in zip(axes.flat, rows, images, strict=True):
        axis.imshow(np.concatenate([image.transpose(1, 2, 0) for image in shown], 1))
        axis.axis("off")
        axis.set_title(f"{row['run']}: L1 {row['l1']}, accuracy {row['accuracy']}", size=9, loc="left", pad=2)
    figure.tight_layout(pad=0.3)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> None:
    parser = study.parser_of(__doc__ or "")
    out = parser.parse_args().out
    rows, images = study.results(parser, RUNS, lambda name, options: run(name, options, out), "emoji_pairs")
    study.write(rows, out / "emoji_pairs.csv")
    draw(rows, images, out / "emoji_pairs.png")
    print(out / "emoji_pairs.png")


if __name__ == "__main__":
    main()
