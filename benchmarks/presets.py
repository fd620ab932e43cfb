"""Measures the cost of the presets on this machine: hours for all their steps, and the memory of the process.

    python benchmarks/presets.py [--only SUBSTRING] [--seconds S] [--out benchmarks/results/presets.csv]

Each preset trains eagerly for some seconds, at least two iterations, in a process of its own. Presets that need the
user's images get noise. The hours are the time of an iteration times the number of steps, without sample grids and
checkpoints. Progressively growing networks are measured fully grown, which is an upper bound. The figures are copied
to fastgan/train/presets.py; a test compares the two.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from iterations import Iterations
from table import write

from fastgan import Config, Trainer
from fastgan.data import ImageSet, open_source
from fastgan.data.stream import BatchStream
from fastgan.train.networks import build_networks
from fastgan.train.presets import FOR_GPUS, PRESETS, preset

COLUMNS = ("preset", "steps", "images_per_second", "hours", "peak_MB", "threads", "cpu", "torch")


def images_of(config: Config) -> ImageSet:
    """The embedded images, or noise for presets that need the user's images."""
    data = config.data
    if data.resolution is None:
        return open_source(data.source)
    shape = (1024, data.channels or 3, data.resolution, data.resolution)
    return ImageSet(np.random.default_rng(0).integers(0, 256, shape, np.uint8), None, "noise", "none")


def measure(name: str, seconds: float) -> dict[str, object]:
    """A row of the table. The peak memory is that of the process, so each preset needs a process of its own."""
    config = preset(name)
    images = images_of(config)
    torch.manual_seed(0)
    pair = build_networks(config, (images.channels, *images.resolution))
    trainer = Trainer(*pair, config.loss.adversarial, dataclasses.replace(config, grow_images=0, compile="off"))
    iterate = Iterations(trainer, BatchStream(images, config.data.batch, 0, trainer.device))
    iterate()
    start, first, shown = time.perf_counter(), trainer.step, trainer.state.images
    while time.perf_counter() - start < seconds:
        iterate()
    elapsed = time.perf_counter() - start
    return {
        "preset": name,
        "steps": config.steps,
        "images_per_second": f"{(trainer.state.images - shown) / elapsed:.0f}",
        "hours": f"{config.steps * elapsed / (trainer.step - first) / 3600:.2f}",
        "peak_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="only presets whose name contains this")
    parser.add_argument("--seconds", type=float, default=10.0, help="time spent on each")
    parser.add_argument("--out", type=Path, metavar="CSV", help="where the rows are written")
    parser.add_argument("--one", choices=list(PRESETS), help="measure this preset in this process, and print JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.seconds)))
        return
    rows = []
    for name in (name for name in PRESETS if options.only in name and name not in FOR_GPUS):
        command = [sys.executable, __file__, "--one", name, "--seconds", str(options.seconds)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        row = json.loads(done.stdout)
        rows.append(row)
        print(f"{name:14} {row['images_per_second']:>6} img/s, {row['hours']} h, {row['peak_MB']} MB", flush=True)
        if options.out:
            write(options.out, rows, COLUMNS)


if __name__ == "__main__":
    main()
