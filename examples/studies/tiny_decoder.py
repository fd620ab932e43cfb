"""A tiny decoder for the latents of an autoencoder of Fashion-MNIST, by L1 alone and against a discriminator.

    fastgan data fetch fashion-mnist
    python examples/studies/tiny_decoder.py [--only SUBSTRING] [--steps N] [--out DIR]

"autoencoder" is the preset vae, small: 28×28 pixels become 7×7 latents of 2 numbers, with a KL divergence. The other
runs train the preset tiny-decoder behind its frozen encoder. Every run is one `fastgan train`, resumed if it was
interrupted, and is measured on 2,500 test images: PSNR, and FID in features of EfficientNet-lite0
(`pip install fastgan[metrics]`), which compares these runs with each other and with nothing else. Writes
DIR/tiny_decoder.csv and DIR/tiny_decoder.png.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import study
import torch

from fastgan.data import open_source
from fastgan.data.imageset import NOT_STATED, ImageSet
from fastgan.metrics import pixels
from fastgan.metrics.evaluate import evaluate
from fastgan.metrics.extractors import efficientnet
from fastgan.report.images import to_uint8
from fastgan.train.networks import load_generator

SMALL = (
    "--resolution", 28, "--latent", 2, "--width", 8, "--model.multipliers", "1,2,2", "--model.blocks", 1,
    "--model.d_layers", 2, "--model.d_width", 16, "--batch", 16, "--lr-g", 2e-3, "--lr-d", 4e-4, "--ema-images", 2000,
    "--held-out", 256, "--compile", "off", "--precision", "fp32",
)  # fmt: skip
TINY = ("--model.tiny_width", 12, "--task.start", 0)
#: Preset and flags of `fastgan train` for each run.
RUNS: dict[str, dict[str, Any]] = {
    "autoencoder": {
        "preset": "vae", "steps": 1500,
        "flags": ("--task.start", 500, "--task.latent_weight", 1e-4, "--task.perceptual", "none"),
    },
    "L1": {
        "preset": "tiny-decoder", "steps": 2000,
        "flags": (*TINY, "--task.perceptual", "none", "--task.adversarial_weight", 0),
    },
    "L1 + adversarial": {
        "preset": "tiny-decoder", "steps": 2000,
        "flags": (*TINY, "--task.perceptual", "none", "--task.adversarial_weight", 0.3),
    },
    "L1 + perceptual + adversarial": {
        "preset": "tiny-decoder", "steps": 2000,
        "flags": (*TINY, "--task.perceptual", "efficientnet", "--task.adversarial_weight", 0.3),
    },
}  # fmt: skip
#: Test images that are measured, and shown.
MEASURED, SHOWN = 2500, 12


def folder(name: str, out: Path) -> Path:
    return out / "tiny-decoder" / f"run-{re.sub('[^a-z0-9]+', '-', name.lower())}"


def train(name: str, options: dict[str, Any], out: Path) -> Path:
    at = folder(name, out)
    words = ["--resume", at]
    if not (at / "checkpoints").exists():
        begin = () if name == "autoencoder" else ("--init-from", folder("autoencoder", out))
        words = [
            options["preset"], "--data", "fashion-mnist", *SMALL, *options["flags"], *begin, "--steps",
            options["steps"], "--checkpoint-every", 500, "--sample-every", 500, "--out", at,
        ]  # fmt: skip
    elif json.loads((at / "status.json").read_text())["state"] == "finished":
        return at
    subprocess.run([sys.executable, "-m", "fastgan", "train", *map(str, words)], check=True)
    return at


@torch.no_grad()
def reconstructed(network: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    """uint8 [N, 1, 28, 28] of images of the same kind."""
    parts = torch.from_numpy(images).split(250)
    return np.concatenate([to_uint8(network(part.float() / 127.5 - 1).numpy()) for part in parts])


def run(name: str, options: dict[str, Any], out: Path) -> tuple[study.Row, np.ndarray]:
    """A row of the table, and images and reconstructions [2, SHOWN, 28, 28]."""
    at = train(name, options, out)
    network = load_generator(at).generator
    test = open_source("embedded")  # the test images
    images = test.images[:MEASURED]
    made = reconstructed(network, images)
    fid = evaluate(
        made,
        ImageSet(images, None, "the test images", NOT_STATED),
        efficientnet.fetched(torch.device("cpu")),
        metrics="fid",
        n=len(made),
    )["fid"]
    decoder = sum(weight.numel() for weight in network.decoder.parameters())
    last = [json.loads(line) for line in (at / "metrics.jsonl").read_text().splitlines()][-1]
    row: study.Row = {
        "run": name, "decoder": decoder, "steps": last["step"], "seconds": f"{last['seconds']:.0f}",
        "psnr": f"{pixels.psnr(made, images).value:.2f}", "fid": f"{fid.value:.2f}",
    }  # fmt: skip
    return row, np.stack([images[:SHOWN, 0], made[:SHOWN, 0]])


def draw(rows: list[study.Row], shown: list[np.ndarray], path: Path) -> None:
    lines = [("test images", shown[0][0])]
    lines += [
        (f"{row['run']}\n{row['psnr']} dB, FID {row['fid']}", each[1]) for row, each in zip(rows, shown, strict=True)
    ]
    figure, axes = plt.subplots(len(lines), 1, figsize=(11, 1.05 * len(lines)))
    for axis, (title, images) in zip(axes, lines, strict=True):
        axis.imshow(np.concatenate(list(images), 1), cmap="gray", vmin=0, vmax=255)
        axis.set_ylabel(title, rotation=0, ha="right", va="center", size=9)
        axis.set_xticks([])
        axis.set_yticks([])
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main() -> None:
    parser = study.parser_of(__doc__)
    out = parser.parse_args().out
    rows, shown = study.results(
        parser, RUNS, lambda name, options: run(name, options, out), "tiny-decoder", long=[list(RUNS)[-1]]
    )
    study.write(rows, out / "tiny_decoder.csv")
    draw(rows, shown, out / "tiny_decoder.png")
    print(out / "tiny_decoder.png")


if __name__ == "__main__":
    main()
