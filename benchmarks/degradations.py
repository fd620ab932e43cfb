"""Times the stages of degradations for super-resolution: milliseconds for each batch.

    python benchmarks/degradations.py [--device cuda] [--batch 8] [--side 256] [--out CSV]

"kernels" are the blur kernels of a batch, "blur" is filtering with them; the last rows are whole degradations by 4, as
means over batches, whose sizes are random. On the CPU the time is that of one thread's processor time, so that other
programs disturb it little.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from fastgan.degradation import (
    Degradation,
    PairPool,
    Random,
    Settings,
    downscale_bicubic,
    filter_each,
    gaussian_noise,
    jpeg,
    poisson_noise,
    random_crop,
    sharpen,
)
from fastgan.degradation.blur import random_kernels

ROUNDS = 9
MIXED = 16  # batches whose sizes differ


def stages(images: torch.Tensor, random: Random) -> dict[str, tuple[Callable[[], object], int]]:
    """What is timed, and how many batches each call takes."""
    n, side, options = len(images), images.shape[-1], Settings()
    kinds, limits = options.kernel_prob, (options.blur_sigma, options.betag_range, options.betap_range)
    kernels = random_kernels(random, n, options.blur_kernel_size, kinds, options.sinc_prob, *limits)
    each, gray, pool = torch.ones(n, device=images.device), random.uniform(n) < 0.4, PairPool(4 * n)
    found: dict[str, tuple[Callable[[], object], int]] = {
        "crop, flip and turn": (lambda: random_crop({"target": images}, side // 2, random), 1),
        "kernels": (
            lambda: random_kernels(random, n, options.blur_kernel_size, kinds, options.sinc_prob, *limits),
            1,
        ),
        "blur": (lambda: filter_each(images, kernels), 1),
        "Gaussian noise": (lambda: gaussian_noise(images, 10 * each, gray, random), 1),
        "Poisson noise": (lambda: poisson_noise(images, each, gray, random), 1),
        "JPEG": (lambda: jpeg(images, 60 * each), 1),
        "bicubic downscaling": (lambda: downscale_bicubic(images, 4), 1),
        "sharpening": (lambda: sharpen(images), 1),
        "pool": (lambda: pool.exchange({"target": images}, random), 1),
    }
    for kind in ("first-order", "second-order"):
        whole = Degradation(4, kind)
        found[f"{kind} as a whole"] = (lambda whole=whole: [whole.apply(images, random) for _ in range(MIXED)], MIXED)
    return found


def milliseconds(call: Callable[[], object], device: torch.device) -> float:
    """The median over rounds."""
    times = []
    for _ in range(ROUNDS + 1):
        if device.type == "cuda":
            torch.cuda.synchronize()
        clock = time.perf_counter if device.type == "cuda" else time.process_time
        start = clock()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(1e3 * (clock() - start))
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--side", type=int, default=256, help="pixels")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    random = Random(0, device)
    images = random.uniform(options.batch, 3, options.side, options.side)
    images = torch.nn.functional.avg_pool2d(images, 9, stride=1, padding=4)  # smooth, as photographs are
    rows = []
    for name, (call, batches) in stages(images, random).items():
        took = milliseconds(call, device) / batches
        rows.append([name, options.batch, options.side, f"{took:.2f}", device.type, torch.__version__])
        print(*rows[-1], sep="  ", flush=True)
    if options.out is not None:
        with options.out.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["stage", "batch", "side", "ms", "device", "torch"])
            writer.writerows(rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
