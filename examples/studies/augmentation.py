"""Do generated images help a classifier that has 5 % of the labels of MNIST or CIFAR-10?

    fastgan data fetch mnist
    fastgan data fetch cifar10
    python examples/studies/augmentation.py [--only SUBSTRING] [--steps N] [--out DIR]

Every run is one `fastgan train` on 5 % of the images, resumed if it was interrupted, and one `fastgan augment --prove`
that doubles them and trains small classifiers with and without the generated images, three of each, which are tested on
the test images of the set. Writes DIR/augmentation.csv and DIR/augmentation.png.
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
from PIL import Image

from fastgan.data import ImageSet, open_source

GENERATION = ("--condition", "projection", "--d-norm", "batch", "--batch", 32, "--lr-g", 8e-4, "--lr-d", 8e-4)
VARIATION = ("variation",)
#: The set, and flags of `fastgan train` and `fastgan augment`.
MNIST = {"data": "mnist", "augment": ()}
CIFAR10 = {"data": "cifar10", "augment": ("--flips",)}
RUNS: dict[str, dict[str, Any]] = {
    "MNIST, from latents": MNIST | {
        "train": (*GENERATION, "--width", 24, "--augment", "translation"), "steps": 4000,
    },
    "MNIST, varied": MNIST | {"train": VARIATION, "steps": 1000},
    "CIFAR-10, from latents": CIFAR10 | {
        "train": (*GENERATION, "--width", 32, "--augment", "color+translation+cutout"), "steps": 1000,
    },
    "CIFAR-10, varied": CIFAR10 | {"train": VARIATION, "steps": 1000},
}  # fmt: skip
SHARE, SEEDS, CLASSIFIER_STEPS = 0.05, 3, 300


def fastgan(*words: object) -> None:
    # fastgan augment ends with 1 where fewer images than asked for were accepted, after all is written.
    done = subprocess.run([sys.executable, "-m", "fastgan", *map(str, words)], check=False)
    if done.returncode not in (0, 1) or (done.returncode and words[0] != "augment"):
        raise SystemExit(done.returncode)


def few(source: str, share: float) -> ImageSet:
    """The same number of images of each class, the first of each, in the order of the set."""
    images = open_source(source)
    assert images.labels is not None
    count = round(share * len(images) / images.num_classes)
    chosen = np.sort(np.concatenate([np.flatnonzero(images.labels == c)[:count] for c in range(images.num_classes)]))
    return ImageSet(np.ascontiguousarray(images.images[chosen]), images.labels[chosen], images.name, images.license)


def run(
    name: str, options: dict[str, Any], out: Path, seeds: int, classifier_steps: int
) -> tuple[study.Row, np.ndarray]:
    """A row of the table, and the picture of real, accepted and rejected images."""
    at = out / "augmentation" / name.lower().replace(", ", "-").replace(" ", "-")
    images = few(options["data"], SHARE)
    data = at.parent / f"{options['data']}.npz"
    np.savez(data, images=images.images, labels=images.labels)
    test = at.parent / f"{options['data']}-test.npz"
    held_out = open_source(f"{options['data']}:test")
    np.savez(test, images=held_out.images, labels=held_out.labels)
    if (at / "checkpoints").exists():
        if json.loads((at / "status.json").read_text())["state"] != "finished":
            fastgan("train", "--resume", at)
    else:
        fastgan(
            "train", *options["train"], "--data", data, "--steps", options["steps"], "--compile", "off", "--out", at
        )
    made, picture = at.with_name(f"{at.name}-augmented"), at.with_name(f"{at.name}.png")
    fastgan(
        "augment", at, "--data", data, "--out", made, "--per-class", 2 * len(images) // images.num_classes,
        "--prove", seeds, "--held-out", test, "--steps", classifier_steps, *options["augment"], "--grid", picture,
        "--overwrite",
    )  # fmt: skip
    report = json.loads((made / "augment.json").read_text())
    drawn, accepted = (sum(row[key] for row in report["classes"]) for key in ("drawn", "generated"))
    row: study.Row = {
        "run": name, "images": len(images), "generated": accepted, "accepted": f"{accepted / drawn:.2f}",
        "filter": f"{report['filter']['accuracy']:.3f}",
    }  # fmt: skip
    for proof in report["proof"]["rows"]:
        assert proof["trained_on"] not in row
        row[proof["trained_on"]] = f"{100 * proof['mean']:.2f}"
        row[f"± {proof['trained_on']}"] = f"{100 * proof['half_width']:.2f}"
    return row | {"helps": report["proof"]["helps"]}, np.asarray(Image.open(picture))


def draw(rows: list[study.Row], made: list[np.ndarray], path: Path) -> None:
    size = 5.5 * len(rows) + 1, 5.4
    figure, axes = plt.subplots(2, len(rows), figsize=size, squeeze=False, height_ratios=(2.6, 1), layout="constrained")
    for (above, below), row, image in zip(axes.T, rows, made, strict=True):
        above.imshow(image)
        above.axis("off")
        above.set_title(f"{row['run']}\nreal | accepted | rejected", size=9)
        names = [name for name in row if f"± {name}" in row]
        means, widths = ([float(str(row[f"{mark}{name}"])) for name in names] for mark in ("", "± "))
        below.errorbar(means, range(len(names)), xerr=widths, fmt="o", capsize=3)
        below.set_yticks(range(len(names)), names if below is axes[1, 0] else [], size=8)
        below.invert_yaxis()
        below.tick_params(axis="x", labelsize=7)
        below.set_xlabel("accuracy on test images, %", size=8)
        below.margins(y=0.2)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> None:
    parser = study.parser_of(__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="classifiers of each kind")
    parser.add_argument("--classifier-steps", type=int, default=CLASSIFIER_STEPS, help="steps of every classifier")
    given = parser.parse_args()

    def one(name: str, options: dict[str, Any]) -> tuple[study.Row, np.ndarray]:
        return run(name, options, given.out, given.seeds, given.classifier_steps)

    rows, made = study.results(parser, RUNS, one, "augmentation")
    study.write(rows, given.out / "augmentation.csv")
    draw(rows, made, given.out / "augmentation.png")
    print(given.out / "augmentation.png")


if __name__ == "__main__":
    main()
