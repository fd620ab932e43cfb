"""Trains the demo preset with three seeds and measures the samples with an independent classifier.

    python benchmarks/demo_seeds.py [--seeds 0 1 2] [--out benchmarks/results/demo_seeds.csv]

The classifier is trained on the 60,000 Fashion-MNIST training images, which are fetched when missing. Its accuracy is
measured on the 10,000 test images, which are the images that the generator is trained on. For each seed, 10,000 samples
are classified.
"""

import argparse
import csv
import dataclasses
import tempfile
from pathlib import Path

import torch

from fastgan import Trainer
from fastgan.data import fetch, open_source
from fastgan.data.stream import BatchStream
from fastgan.metrics.classifier import accuracy, class_distribution, train_classifier
from fastgan.report.images import save_grid, to_uint8
from fastgan.runtime.session import latents
from fastgan.train.networks import build_networks
from fastgan.train.presets import preset

SAMPLES = 10_000


def trained_classifier():
    """The classifier, and its accuracy on images that it was not trained on."""
    fetch("fashion-mnist")
    network = train_classifier(open_source("fashion-mnist"), epochs=2)
    return network, accuracy(network, open_source("embedded"))


def demo(seed: int, out: Path):
    """Train the demo preset with that seed, exactly as `fastgan train demo --seed N` does."""
    config = dataclasses.replace(preset("demo"), seed=seed)
    images = open_source(config.data.source)
    torch.manual_seed(seed)
    networks = build_networks(config, (images.channels, *images.resolution))
    trainer = Trainer(*networks, config.loss.adversarial, config, out=out)
    trainer.fit(BatchStream(images, config.data.batch, seed, trainer.device))
    return trainer


def samples(trainer, n: int = SAMPLES):
    """n samples of the averaged generator as uint8 [n, C, H, W]."""
    z = torch.from_numpy(latents(n, trainer.task.latent_shape, seed=1)).split(500)
    return to_uint8(torch.cat([torch.from_numpy(trainer.sample(part)) for part in z]).numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/demo_seeds.csv"))
    parser.add_argument(
        "--grids", type=Path, default=None, help="also write a grid of samples per seed into this folder"
    )
    arguments = parser.parse_args()
    network, own = trained_classifier()
    names = open_source("embedded").class_names or ()
    real = class_distribution(network, open_source("embedded").images, own)
    print(f"the classifier on real images: {real.describe(names)}")
    rows = []
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as folder:
            trainer = demo(seed, Path(folder) / "run")
            images = samples(trainer)
        if arguments.grids:
            save_grid(images[:64], arguments.grids / f"demo_seed{seed}.png", scale=2)
        classes = class_distribution(network, images, own)
        speed = trainer.state.images / trainer.state.seconds
        print(f"seed {seed}: {trainer.state.seconds:.0f} s, {speed:.0f} img/s, {classes.describe(names)}", flush=True)
        rows.append(
            {"seed": seed, "seconds": round(trainer.state.seconds, 1), "images_per_second": round(speed),
             "classifier_accuracy": round(own, 4), "mean_confidence": round(classes.confidence, 4),
             "smallest_share": round(float(classes.share.min()), 4), "samples": SAMPLES,
             **{name: round(float(share), 4) for name, share in zip(names, classes.share, strict=True)},
             "torch": torch.__version__, "threads": torch.get_num_threads()}
        )  # fmt: skip
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with arguments.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
