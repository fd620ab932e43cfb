"""StyleGAN2 beside DCGAN on 3,786 emoji at 32×32, the same images seen, and StyleGAN2 fine-tuned on 273 photographs.

    fastgan data fetch emoji
    fastgan data fetch landscapes
    python examples/studies/emoji.py [--only SUBSTRING] [--steps N] [--out DIR]

Every run is one `fastgan train`, resumed if it was interrupted, and one `fastgan eval` by the extractor of
`pip install fastgan[metrics]`; "fine-tuned" begins with the networks of "StyleGAN2". Writes DIR/emoji.csv and
DIR/emoji.png. FID of so few images, in features of EfficientNet-lite0, compares these runs with each other and with
nothing else.
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
from PIL import Image

from fastgan.data import open_source
from fastgan.report.images import grid

SMALL = ("stylegan2-32", "--width", "64", "--latent", "64")
#: Flags of `fastgan train` for each run, the data, and the run that it begins with; or the run that is evaluated again.
RUNS: dict[str, dict[str, Any]] = {
    "DCGAN": {"flags": ("dcgan-64",), "data": "emoji", "steps": 2344},
    "StyleGAN2": {"flags": SMALL, "data": "emoji", "steps": 4688},
    "not fine-tuned": {"of": "StyleGAN2", "data": "landscapes"},
    "fine-tuned": {"flags": SMALL, "data": "landscapes", "steps": 625, "from": "StyleGAN2"},
    "from scratch": {"flags": SMALL, "data": "landscapes", "steps": 625},
}


def fastgan(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "fastgan", *map(str, words)], check=True)


def folder(name: str, out: Path) -> Path:
    return out / "emoji" / f"run-{name.lower().replace(' ', '-')}"


def run(name: str, options: dict[str, Any], out: Path) -> tuple[study.Row, np.ndarray]:
    """A row of the table, and 64 samples."""
    at = folder(options.get("of", name), out)
    if (at / "checkpoints").exists():
        if "of" not in options and json.loads((at / "status.json").read_text())["state"] != "finished":
            fastgan("train", "--resume", at)
    else:
        begin = ("--init-from", folder(options["from"], out)) if "from" in options else ()
        fastgan(
            "train", *options["flags"], "--data", options["data"], "--resolution", 32, "--steps", options["steps"],
            "--compile", "off", "--out", at, *begin,
        )  # fmt: skip
    fastgan(
        "eval", at, "--against", options["data"], "--extractor", "efficientnet", "--metrics", "fid,pr", "--n", 3786,
        "--out", at / "figures.json", "--overwrite",
    )  # fmt: skip
    picture = at / "samples.png"
    fastgan("sample", at, "--n", 64, "--seed", 1, "--out", picture, "--overwrite")
    last = [json.loads(line) for line in (at / "metrics.jsonl").read_text().splitlines()][-1]
    row: study.Row = {
        "run": name, "data": options["data"], "images": last["images"], "seconds": f"{last['seconds']:.0f}",
    }  # fmt: skip
    for found in json.loads((at / "figures.json").read_text())["rows"]:
        row[re.split(r"\d", found["name"])[0]] = f"{found['value']:.3g}"
    return row, np.asarray(Image.open(picture))


def draw(rows: list[study.Row], made: list[np.ndarray], path: Path) -> None:
    real = [open_source(name, resolution=32).images for name in ("emoji", "landscapes")]
    shown = [
        *((row, image) for row, image in zip(rows, made, strict=True) if "of" not in RUNS[str(row["run"])]),
        ({"run": "emoji"}, grid(real[0][::59][:64])),
        ({"run": "landscapes"}, grid(real[1][::4][:64])),
    ]
    figure, axes = plt.subplots(2, 3, figsize=(11, 8), squeeze=False)
    for axis, (row, image) in zip(axes.flat, shown, strict=False):
        axis.imshow(image)
        axis.axis("off")
        axis.set_title(row["run"], size=10)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> None:
    parser = study.parser_of(__doc__)
    out = parser.parse_args().out
    rows, made = study.results(parser, RUNS, lambda name, options: run(name, options, out), "emoji")
    study.write(rows, out / "emoji.csv")
    draw(rows, made, out / "emoji.png")
    print(out / "emoji.png")


if __name__ == "__main__":
    main()
