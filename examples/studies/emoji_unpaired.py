"""CycleGAN between the emoji of two vendors at 32×32, without knowing which belong together; then they are compared.

    fastgan data fetch emoji
    python examples/studies/emoji_unpaired.py [--a SOURCE] [--b SOURCE] [--steps N] [--out DIR]

Both vendors drew the same 3,786 emoji, so that the true partner of every image is known. The run, one `fastgan train`
that is resumed if it was interrupted, sees the images of each vendor in an order of their own and never a pair. Writes
DIR/emoji_unpaired.csv: the mean absolute difference of pixels in [-1, 1] to the true partner, of the images as they are
("unchanged") and translated, and DIR/emoji_unpaired.png: A → B → A, and B → A → B, beside the true partners.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import study
import torch
from torch import Tensor

from fastgan.data import open_source
from fastgan.report.images import save_grid
from fastgan.train.networks import load_generator

SIDE, SHOWN = 32, 12
FLAGS = (
    "--resolution", SIDE, "--task.crop", 0, "--task.flip", "false", "--width", 16, "--model.blocks", 3,
    "--model.layers", 2, "--model.d-width", 24, "--batch", 4, "--held-out", 64, "--ema-images", 2000, "--compile",
    "off", "--log-every", 100, "--sample-every", 500, "--checkpoint-every", 1000,
)  # fmt: skip
STEPS = 4000


def fastgan(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "fastgan", *map(str, words)], check=True)


def train(run: Path, a: str, b: str, steps: int) -> None:
    if not (run / "checkpoints").exists():
        fastgan("train", "cyclegan", "--data", a, "--data.target", b, *FLAGS, "--steps", steps, "--out", run)
    elif json.loads((run / "status.json").read_text())["state"] != "finished":
        fastgan("train", "--resume", run)


def tensor(images: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(images)).float() / 127.5 - 1


@torch.no_grad()
def through(network: torch.nn.Module, images: Tensor) -> Tensor:
    return torch.cat([network(part) for part in images.split(64)])


def difference(x: Tensor, y: Tensor) -> Tensor:
    """Of each image."""
    return (x - y).abs().mean((1, 2, 3))


def main() -> None:
    parser = study.parser_of(__doc__ or "", STEPS, runs=False)
    parser.add_argument("--a", default="emoji", metavar="SOURCE", help="images of one domain")
    parser.add_argument("--b", default="emoji:google", metavar="SOURCE", help="their partners, in the same order")
    options = parser.parse_args()
    run = options.out / "emoji_unpaired" / "run"
    train(run, options.a, options.b, options.steps)
    sets = {"a": options.a, "b": options.b}
    last = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][-1]
    images = {name: tensor(open_source(source, resolution=SIDE).images) for name, source in sets.items()}
    rows, pictures = [], []
    chosen = torch.linspace(0, len(images["a"]) - 1, 3 * SHOWN).long()[1::3]
    for way, back, taken, to in (("a_to_b", "b_to_a", "a", "b"), ("b_to_a", "a_to_b", "b", "a")):
        source, partner = images[taken], images[to]
        ways = [load_generator(run, part=part).generator for part in (way, back)]
        made = through(ways[0], source)
        again = through(ways[1], made)
        before, after = difference(source, partner), difference(made, partner)
        rows.append({
            "way": f"{sets[taken]} → {sets[to]}", "unchanged": f"{before.mean():.4f}",
            "translated": f"{after.mean():.4f}",
            "nearer_percent": f"{100 * (after < before).float().mean():.0f}",
            "there_and_back": f"{difference(again, source).mean():.4f}", "images": last["images"],
            "seconds": f"{last['seconds']:.0f}",
        })  # fmt: skip
        pictures += [each[chosen] for each in (source, made, again, partner)]
        print(", ".join(f"{name} {value}" for name, value in rows[-1].items()))
    study.write(rows, options.out / "emoji_unpaired.csv")
    save_grid(torch.cat(pictures).numpy(), options.out / "emoji_unpaired.png", columns=SHOWN, scale=2)
    print(options.out / "emoji_unpaired.png")


if __name__ == "__main__":
    main()
