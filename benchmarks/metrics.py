"""Time and memory of metrics, each in its own process; and 5-NN accuracy of the EfficientNet extractor on CIFAR-10.

    python benchmarks/metrics.py [--n 5000] [--dim 2048] [--only prdc] [--out benchmarks/results/metrics.csv]
    python benchmarks/metrics.py --knn          5-NN accuracy, 5,000 training and 1,000 test images (fetches cifar10)

Features are random numbers. Seconds are wall-clock time; memory is the peak resident set size of the process.
"""

import argparse
import contextlib
import csv
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from fastgan.data import open_source
from fastgan.metrics.extractors import efficientnet
from fastgan.metrics.fid import fid
from fastgan.metrics.kid import kid
from fastgan.metrics.neighbors import find_duplicates, squared_distances
from fastgan.metrics.prdc import prdc

FUNCTIONS = {"fid": fid, "kid": kid, "prdc": prdc, "duplicates": find_duplicates}


def peak_kib() -> int:
    """The largest resident memory of this process. getrusage counts that of its parent too, from before the exec."""
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(name: str, n: int, dim: int) -> dict:
    """One metric of n real and n generated feature vectors of dim numbers, in this process."""
    generator = torch.Generator().manual_seed(0)
    real, fake = (torch.randn(n, dim, generator=generator).abs_() for _ in range(2))
    start = time.perf_counter()
    FUNCTIONS[name](real, fake)
    return {
        "metric": name,
        "n": n,
        "dim": dim,
        "seconds": round(time.perf_counter() - start, 2),
        "peak_mib": peak_kib() // 1024,
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
    }


def measure_in_new_process(name: str, n: int, dim: int) -> dict:
    """The same in a new process, because the peak of memory cannot be reset."""
    command = [sys.executable, __file__, "--in-this-process", name, "--n", str(n), "--dim", str(dim)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def knn(k: int = 5, training: int = 5000, test: int = 1000) -> dict[str, float]:
    """Accuracy of k-nearest-neighbor classification of CIFAR-10's test images, by features and by pixels."""
    sets = [open_source("cifar10"), open_source("cifar10:test")]
    chosen = [
        np.random.default_rng(i).permutation(len(s))[:n]
        for i, (s, n) in enumerate(zip(sets, (training, test), strict=True))
    ]
    images = [s.images[c] for s, c in zip(sets, chosen, strict=True)]
    labels = [s.labels[c] for s, c in zip(sets, chosen, strict=True)]
    extractor = efficientnet.fetched(torch.device("cpu"))

    def accuracy(known: torch.Tensor, queries: torch.Tensor) -> float:
        votes = [labels[0][b.topk(k, largest=False).indices.numpy()] for _, b in squared_distances(queries, known)]
        predicted = [np.bincount(vote, minlength=10).argmax() for vote in np.concatenate(votes)]
        return float((predicted == labels[1]).mean())

    return {
        "features": accuracy(*(extractor(part).features for part in images)),
        "pixels": accuracy(*(torch.from_numpy(part).float().flatten(1) for part in images)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=5000)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--only", nargs="+", choices=FUNCTIONS, default=list(FUNCTIONS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--knn", action="store_true")
    parser.add_argument("--in-this-process", choices=FUNCTIONS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.in_this_process:
        print(json.dumps(measure(arguments.in_this_process, arguments.n, arguments.dim)))
        return
    if arguments.knn:
        print("  ".join(f"{name} {value:.3f}" for name, value in knn().items()))
        return
    rows = []
    for name in arguments.only:
        rows.append(measure_in_new_process(name, arguments.n, arguments.dim))
        print(rows[-1], flush=True)
    if arguments.out:
        with arguments.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
