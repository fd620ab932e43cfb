"""A pretrained network for drawings, fine-tuned to enlarge photographs twice: PSNR, SSIM and perceptual distance.

    fastgan data fetch landscapes
    python examples/studies/super_resolution.py [--only SUBSTRING] [--steps N] [--out DIR]

Of 273 photographs of 512×256 pixels every 23rd is held out, and its middle half measured. Sources are bicubically
reduced. realesr-animevideov3-x2 is trained on the others, each run one `fastgan train`, resumed if it was interrupted:
"L1" with L1 alone, "adversarial" from there on with a perceptual and an adversarial loss. Perceptual distances are in
features of EfficientNet-lite0, with which "adversarial" is trained, and of MobileNetV2, which no run has seen. Writes
DIR/super_resolution.csv and DIR/super_resolution.png.
"""

from __future__ import annotations

import json
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
from PIL import Image
from torch.nn.functional import interpolate

from fastgan.cli._source import open_source as open_network
from fastgan.data import open_source
from fastgan.degradation import downscale_bicubic
from fastgan.losses import perceptual_loss
from fastgan.metrics.pixels import psnr, ssim

PRETRAINED = "realesr-animevideov3-x2"
#: The sizes of the pretrained network, and what all runs share.
FLAGS = (
    "compact", "--model.scale", "2", "--model.shuffle", "4", "--model.d-width", "16", "--resolution", "96",
    "--task.crop", "48", "--task.degradation", "bicubic", "--task.pool", "0", "--task.sharpen", "false", "--batch", "4",
    "--lr-schedule", "cosine", "--compile", "off", "--ema-images", "100", "--log-every", "50", "--precision", "fp32",
)  # fmt: skip
#: Flags of `fastgan train` for each run, and what it begins with.
RUNS: dict[str, dict[str, Any]] = {
    "bicubic": {},
    "pretrained": {"from": PRETRAINED},
    "L1": {
        "from": PRETRAINED, "steps": 400, "flags": ("--lr-g", "2e-4", "--task.warm-up", "1000000"),
    },
    "adversarial": {
        "from": "L1", "steps": 500,
        "flags": (
            "--lr-g", "2e-4", "--lr-d", "2e-4", "--task.warm-up", "0", "--task.perceptual-weight", "0.3",
            "--task.adversarial-weight", "0.05",
        ),
    },
}  # fmt: skip
#: Every so many photographs one is held out; which of them the picture has, in the public domain; side of its parts.
EVERY, SHOWN, SIDE = 23, (2, 6, 8, 10), 72


def run_of(name: str, out: Path) -> Path:
    return out / "super_resolution" / f"run-{name.lower()}"


def photographs(out: Path) -> tuple[Path, np.ndarray]:
    """The folder of those that are trained on, and the middle of held-out ones, uint8 [N, 3, 256, 256]."""
    images = open_source("landscapes").images
    held_out = np.arange(len(images)) % EVERY == 0
    folder = out / "super_resolution" / "photographs"
    if not folder.exists():
        folder.mkdir(parents=True)
        for i in np.flatnonzero(~held_out):
            Image.fromarray(images[i].transpose(1, 2, 0)).save(folder / f"{i:03}.png")
    return folder, images[held_out][..., 128:384]


def train(name: str, options: dict[str, Any], out: Path, data: Path) -> float:
    """Seconds that it took."""
    at = run_of(name, out)
    if not (at / "checkpoints").exists():
        begin = options["from"] if options["from"] == PRETRAINED else run_of(options["from"], out)
        words = [
            *FLAGS,
            *options["flags"],
            "--data",
            data,
            "--steps",
            options["steps"],
            "--init-from",
            begin,
            "--out",
            at,
        ]
    else:
        words = ["--resume", at]
    if not (at / "status.json").exists() or json.loads((at / "status.json").read_text())["state"] != "finished":
        subprocess.run([sys.executable, "-m", "fastgan", "train", *map(str, words)], check=True)
    rows = (at / "metrics.jsonl").read_text().splitlines()
    return float(json.loads(rows[-1])["seconds"])


@torch.no_grad()
def enlarged(name: str, out: Path, low: torch.Tensor) -> np.ndarray:
    """What a run makes of low-resolution images [N, 3, H, W] in [0, 1], as uint8 [N, 3, 2 H, 2 W]."""
    if name == "bicubic":
        made = interpolate(low, scale_factor=2.0, mode="bicubic")
    else:
        network = open_network(PRETRAINED if name == "pretrained" else str(run_of(name, out)))[0]
        made = torch.cat([network(image) for image in low.split(1)])
    return (made.clamp(0, 1) * 255).round().byte().numpy()


def run(name: str, options: dict[str, Any], out: Path) -> tuple[study.Row, np.ndarray]:
    """A row of the table, and the enlarged held-out photographs."""
    data, held_out = photographs(out)
    seconds = train(name, options, out, data) if "flags" in options else 0.0
    target = torch.from_numpy(held_out) / 255
    low = (downscale_bicubic(target, 2).clamp(0, 1) * 255).round() / 255
    made = enlarged(name, out, low)
    row: study.Row = {
        "run": name, "steps": options.get("steps", 0), "seconds": f"{seconds:.0f}",
        "psnr": f"{psnr(made, held_out).value:.2f}", "ssim": f"{ssim(made, held_out).value:.4f}",
    }  # fmt: skip
    images = torch.from_numpy(made) / 255
    for backbone in ("efficientnet", "mobilenet"):
        with torch.no_grad():
            distance = perceptual_loss(backbone, range=(0, 1))
            row[backbone] = f"{float(sum(map(distance, images.split(1), target.split(1)))) / len(images):.3f}"
    return row, made


def draw(rows: list[study.Row], made: list[np.ndarray], target: np.ndarray, path: Path) -> None:
    """Parts of held-out photographs with the finest detail, in rows."""
    columns = [*zip((str(row["run"]) for row in rows), made, strict=True), ("photograph", target)]
    figure, axes = plt.subplots(len(SHOWN), len(columns), figsize=(2.4 * len(columns), 2.4 * len(SHOWN)), squeeze=False)
    for axis, (title, _) in zip(axes[0], columns, strict=True):
        axis.set_title(title, size=10)
    for line, number in zip(axes, SHOWN, strict=True):
        top, left = finest(target[number])
        for axis, (_, images) in zip(line, columns, strict=True):
            axis.imshow(images[number][:, top : top + SIDE, left : left + SIDE].transpose(1, 2, 0))
            axis.axis("off")
    figure.tight_layout(pad=0.4)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def finest(image: np.ndarray) -> tuple[int, int]:
    """Top and left of the square of SIDE pixels with the largest differences of neighbors, of uint8 [3, H, W]."""
    gray = torch.from_numpy(image).float().mean(0)
    detail = (gray[1:, 1:] - gray[:-1, 1:]).abs() + (gray[1:, 1:] - gray[1:, :-1]).abs()
    sums = torch.nn.functional.avg_pool2d(detail[None, None], SIDE, 8)[0, 0]
    row, column = divmod(int(sums.argmax()), sums.shape[1])
    return 8 * row, 8 * column


def main() -> None:
    parser = study.parser_of(__doc__)
    out = parser.parse_args().out
    rows, made = study.results(parser, RUNS, lambda name, options: run(name, options, out), "super_resolution")
    study.write(rows, out / "super_resolution.csv")
    draw(rows, made, photographs(out)[1], out / "super_resolution.png")
    print(out / "super_resolution.png")


if __name__ == "__main__":
    main()
